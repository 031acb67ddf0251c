import base64
import html.parser
import io
import json
import random

import pytest
from PIL import Image

from analysis.compare import html_page as report_page
from analysis.compare.comparison import compare
from analysis.compare.html_page import html_page, page_data
from analysis.read.runs import read_runs
from analysis.record import run_folder
from analysis.report import main
from data.files import read_json, write_json
from data.metrics import metric_named
from tests.run_folders import write_run

LOSS = metric_named("val/loss")
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'\n\u2028&lt;%{x}$title"


class Elements(html.parser.HTMLParser):
    """Every element of a page with its attributes, and the text of the scripts."""

    def __init__(self, page):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.scripts and self.found[-1][0] == "script":
            self.scripts[-1] += data


def comparison_of(runs_dir, metric=LOSS):
    return compare("runs", read_runs(runs_dir).records, metric)


def write_picture(folder, name, colour="red", size=(8, 8)):
    (folder / run_folder.PANELS).mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(folder / run_folder.PANELS / f"{name}.png")


def picture_of(entry):
    kind, _, content = entry["uri"].partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_page_holds_every_run_and_the_curves_of_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "MOST_CURVES", 3)
    for i in range(5):
        write_run(tmp_path / f"run{i}", [2.0, 1.0 + i], lr=10.0**-i)
    data = page_data(comparison_of(tmp_path))
    assert [run["name"] for run in data["runs"]] == [f"run{i}" for i in range(5)]
    assert list(data["curves"]) == list(data["details"]) == [0, 1, 2]
    assert data["curves"][1]["val/loss"] == [2.0, 2.0]
    assert data["settings"] == [{"name": "lr", "is_number": True, "is_log": True, "num_deviating": 4}]
    assert [run["settings"] for run in data["runs"]] == [[10.0**-i] for i in range(5)]
    assert data["figures"] == ["val/accuracy"]
    assert data["importance"]["remark"].startswith("Only lr differs")


def test_the_data_comes_back_from_the_page_and_the_same_runs_make_the_same_page(tmp_path):
    for i in range(3):
        write_picture(write_run(tmp_path / f"run{i}", [1.0 + i], lr=10.0**-i, depth=i), "confusion_matrix")
    page = html_page(comparison_of(tmp_path), "command")
    assert json.loads(Elements(page).scripts[0]) == json.loads(json.dumps(page_data(comparison_of(tmp_path))))
    assert html_page(comparison_of(tmp_path), "command") == page


def test_the_page_asks_for_nothing_outside_it(tmp_path):
    write_picture(write_run(tmp_path / "a", [1.0]), "predictions-0001")
    elements = Elements(html_page(comparison_of(tmp_path), "command")).found
    addresses = [value for _, given in elements for name, value in given.items() if name in ("src", "href")]
    assert addresses == ["data:,"]
    assert not [tag for tag, _ in elements if tag in ("iframe", "object", "embed", "base")]


def test_names_and_settings_cannot_break_out_of_the_page(tmp_path):
    plain = write_run(tmp_path / "a", [1.0])
    expected = Elements(html_page(compare("plain", read_runs(tmp_path).records, LOSS), "command")).found
    write_json(plain / run_folder.SETTINGS, {"model": HOSTILE, "dataset": HOSTILE, HOSTILE: HOSTILE, "tags": HOSTILE})
    plain.rename(tmp_path / HOSTILE.replace("/", ""))
    page = html_page(compare(HOSTILE, read_runs(tmp_path).records, LOSS), HOSTILE)
    assert Elements(page).found == expected
    assert json.loads(Elements(page).scripts[0])["title"] == HOSTILE


def test_the_newest_picture_of_each_kind_is_shown_small(tmp_path):
    folder = write_run(tmp_path / "a", [1.0])
    write_picture(folder, "samples-0009", "red")
    write_picture(folder, "samples-0010", "lime", size=(3000, 1500))
    write_picture(folder, "tsne", "blue")
    pictures = page_data(comparison_of(tmp_path))["pictures"]
    assert set(pictures) == {"samples", "tsne"}
    assert pictures["samples"][0]["epoch"] == 10
    shown = picture_of(pictures["samples"][0])
    assert shown.size == (720, 360)
    assert shown.convert("RGB").getpixel((0, 0))[1] > 200


def test_pictures_that_cannot_be_read_or_are_too_many_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "MOST_PICTURE_BYTES", 300)
    for i in range(4):
        write_picture(write_run(tmp_path / f"run{i}", [1.0 + i]), "confusion_matrix")
    (tmp_path / "run0" / run_folder.PANELS / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    pictures = page_data(comparison_of(tmp_path))["pictures"]
    assert set(pictures) == {"confusion_matrix"}
    assert 0 in pictures["confusion_matrix"]
    assert len(pictures["confusion_matrix"]) < 4


def test_a_run_that_was_online_has_a_link_and_nothing_but_an_address_is_one(tmp_path):
    for name, address in (("a", "https://wandb.ai/e/p/runs/a"), ("b", "javascript:alert(1)"), ("c", None)):
        folder = write_run(tmp_path / name, [1.0])
        environment = read_json(folder / run_folder.ENVIRONMENT)
        write_json(folder / run_folder.ENVIRONMENT, {**environment, **({"wandb": address} if address else {})})
    data = page_data(comparison_of(tmp_path))
    assert {run["name"]: run["url"] for run in data["runs"]} == {"a": "https://wandb.ai/e/p/runs/a", "b": "", "c": ""}


def test_settings_that_json_has_no_number_for_are_written_out(tmp_path):
    write_run(tmp_path / "a", [1.0], lr=float("inf"))
    write_run(tmp_path / "b", [1.0], lr=float("nan"))
    assert "NaN" not in html_page(comparison_of(tmp_path), "command").partition("plotly.js")[0]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two sweeps and a run on its own."""
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    draw = random.Random(0)
    for sweep, metric in (("first", "val/loss"), ("second", "val/accuracy")):
        for i in range(3):
            write_run(tmp_path / "sweeps" / sweep / f"{i:03d}-{sweep}", [draw.uniform(1, 2)], lr=10.0 ** -(i + 1))
        goal = "minimize" if metric == "val/loss" else "maximize"
        sweep_file = {
            "method": "random",
            "metric": {"name": metric, "goal": goal},
            "parameters": {"lr": {"min": 0.001, "max": 0.1}},
        }
        (tmp_path / "sweeps" / sweep / "sweep.yaml").write_text(json.dumps(sweep_file))
    write_run(tmp_path / "alone", [1.0], model="mlp")
    return tmp_path


def read_data(path):
    return json.loads(Elements(path.read_text()).scripts[0])


@pytest.mark.parametrize(
    ("arguments", "place", "num_runs", "metric"),
    [
        ([], "report.html", 7, "val/accuracy"),
        (["--sweep", "first"], "sweeps/first/report.html", 3, "val/loss"),
        (["--sweep", "second"], "sweeps/second/report.html", 3, "val/accuracy"),
        (["--sweep", "second", "--metric", "val/loss"], "sweeps/second/report.html", 3, "val/loss"),
        (["--sweep", "first", "second"], "report.html", 6, "val/accuracy"),
        (["--sweep", "f*"], "sweeps/first/report.html", 3, "val/loss"),
        (["--model", "mlp"], "report.html", 1, "val/accuracy"),
    ],
)
def test_runs_are_chosen_ranked_and_reported_where_they_are(runs, capsys, arguments, place, num_runs, metric):
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(runs / place)
    data = read_data(runs / place)
    assert (len(data["runs"]), data["metric"]["name"]) == (num_runs, metric)


def test_the_report_goes_where_it_is_told(runs, tmp_path, capsys):
    assert main(["--sweep", "first", "--out", str(tmp_path / "mine.html")]) == 0
    assert read_data(tmp_path / "mine.html")["title"] == "first"
    assert not (runs / "sweeps" / "first" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--sweep", "frist"], "sweep frist has no runs, did you mean first?"),
        (["--sweep", "zzz"], "sweep zzz has no runs: there are first, second"),
        (["--model", "mlpp"], "there is no run of model mlpp, did you mean mlp?"),
        (["--out", "nowhere/report.html"], "there is no folder nowhere"),
        (["--runs_dir", "nowhere"], "there is no runs folder nowhere"),
        (["--tidy"], "unrecognized arguments: --tidy"),
        (["--text", "--publish"], "--publish: not allowed with argument --text"),
        (["--text", "--out", "report.html"], "--out names the file of the page: leave it out, or --text"),
        (["--serve", "--out", "report.html"], "--out names the file of the page: leave it out, or --serve"),
        (["--serve", "--project", "a/b"], "--serve is for runs on this machine: leave out --project"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(runs, capsys, arguments, line):
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("report: ")
    assert line in message
    assert message.count("\n") == 1


def test_metrics_names_tell_whether_more_is_better():
    assert metric_named("val/accuracy").goal == "maximize"
    assert metric_named("val/loss").goal == "minimize"
