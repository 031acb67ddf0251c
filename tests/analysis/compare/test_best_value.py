"""The best value of a run is the same wherever it is asked for: in the terminal, in the report, on W&B."""

import json
import re

import pytest
import yaml

from analysis.compare.comparison import compare
from analysis.compare.wandb_report import summary_text
from analysis.read.runs import read_runs
from analysis.read.sweeps import read_sweeps
from analysis.report import main as report
from analysis.runs import main as runs
from data.metrics import metric_named, shown
from tests.run_folders import write_run

ACCURACY = metric_named("val/accuracy")


def write_two(folder):
    """Write two runs, the first with its best accuracy, 0.85, in another epoch than its least loss."""
    write_run(folder / "000-a", [0.9, 0.5, 0.6, 0.7], [0.7, 0.8, 0.85, 0.82], lr=0.1)
    write_run(folder / "001-b", [0.9, 0.6], [0.7, 0.83], lr=0.01)


def test_a_run_has_the_same_best_value_with_its_sweep_and_without(tmp_path):
    sweep = tmp_path / "sweeps" / "s"
    write_two(sweep)
    metric = {"name": "val/accuracy", "goal": "maximize"}
    content = {"method": "random", "metric": metric, "parameters": {"lr": {"min": 0.01, "max": 0.1}}}
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(content))
    records = read_runs(tmp_path).records
    alone = compare("runs", records, ACCURACY)
    of_sweep = compare("runs", records, ACCURACY, read_sweeps(tmp_path, records).sweeps)
    best = [(entry.record.run_id, entry.value, entry.best_epoch) for entry in of_sweep.entries]
    assert best == [(entry.record.run_id, entry.value, entry.best_epoch) for entry in alone.entries]
    assert best[0] == ("000-a", 0.85, 3)


def report_data(runs_dir, *arguments):
    path = runs_dir / "report.html"
    assert report(["--runs_dir", str(runs_dir), "--out", str(path), *arguments]) == 0
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_the_terminal_and_the_report_show_the_same_best_value(tmp_path, capsys):
    write_two(tmp_path)
    assert runs(["--runs_dir", str(tmp_path), "--metric", "val/accuracy", "--sort", "best"]) == 0
    shown = re.findall(r"(00\d-\w) .*? (8\d\.\d\d %) ", capsys.readouterr().out)
    assert shown == [("000-a", "85.00 %"), ("001-b", "83.00 %")]
    data = report_data(tmp_path, "--metric", "val/accuracy")
    found = [(run["name"], run["value"], run["bestEpoch"]) for run in data["runs"]]
    assert found == [("000-a", 0.85, 3), ("001-b", 0.83, 2)]


def test_a_report_by_another_metric_shows_the_same_best_value_in_its_column(tmp_path):
    write_two(tmp_path)
    data = report_data(tmp_path, "--metric", "val/loss")
    place = data["figures"].index("val/accuracy")
    assert [(run["value"], run["figures"][place]) for run in data["runs"]] == [(0.5, 0.85), (0.6, 0.83)]


def test_a_report_on_wandb_lists_the_same_best_value(tmp_path):
    write_two(tmp_path)
    lines = summary_text(compare("runs", read_runs(tmp_path).records, ACCURACY)).splitlines()
    assert lines[4].startswith("| 000-a | 85.00 %")


def test_what_only_the_summary_has_is_taken_from_it(tmp_path):
    folder = write_run(tmp_path / "a", [1.0, 0.5])
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "test/accuracy": 0.75}))
    [entry] = compare("runs", read_runs(tmp_path).records, metric_named("test/accuracy")).entries
    assert (entry.value, entry.best_epoch) == (0.75, 2)


def with_summary(folder, **changes):
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, **changes}))


def test_where_the_log_is_gone_the_best_that_the_summary_notes_stands_for_it(tmp_path):
    folder = write_run(tmp_path / "a", [0.9, 0.5, 0.6], [0.7, 0.8, 0.85])
    (folder / "metrics.jsonl").unlink()
    with_summary(folder, best={"val/accuracy": {"value": 0.85, "epoch": 3}})
    [entry] = compare("runs", read_runs(tmp_path).records, ACCURACY).entries
    assert (entry.value, entry.best_epoch, entry.kept) == (0.85, 3, (0.8, 2))
    [entry] = compare("runs", read_runs(tmp_path).records, metric_named("val/loss")).entries
    assert (entry.value, entry.best_epoch, entry.kept) == (0.5, 2, None)


def test_the_best_that_a_summary_notes_is_none_by_the_opposite_goal(tmp_path):
    folder = write_run(tmp_path / "a", [0.9, 0.5, 0.6], [0.7, 0.8, 0.85])
    (folder / "metrics.jsonl").unlink()
    with_summary(folder, best={"val/accuracy": {"value": 0.85, "epoch": 3}})
    [entry] = compare("runs", read_runs(tmp_path).records, metric_named("minimize val/accuracy")).entries
    assert (entry.value, entry.best_epoch) == (0.8, 2)


@pytest.mark.parametrize("noted", [1, [1], {"val/accuracy": 0.9}, {"val/accuracy": {"value": "x", "epoch": {}}}])
def test_a_damaged_note_of_the_best_is_passed_over(noted, tmp_path):
    folder = write_run(tmp_path / "a", [0.9, 0.5], [0.7, 0.8])
    (folder / "metrics.jsonl").unlink()
    with_summary(folder, best=noted)
    [entry] = compare("runs", read_runs(tmp_path).records, ACCURACY).entries
    assert (entry.value, entry.best_epoch) == (0.8, 2)


def test_what_the_closing_evaluation_measures_is_of_the_epoch_whose_weights_are_kept(tmp_path):
    folder = write_run(tmp_path / "a", [0.9, 0.5, 0.6], [0.7, 0.8, 0.85])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "images_seen": 3000, "test/accuracy": 0.75}) + "\n")
    with_summary(folder, **{"test/accuracy": 0.75})
    [entry] = compare("runs", read_runs(tmp_path).records, metric_named("test/accuracy")).entries
    assert (entry.value, entry.best_epoch, entry.kept) == (0.75, 2, None)


def test_the_report_says_by_which_metric_the_kept_weights_were_chosen(tmp_path):
    write_two(tmp_path)
    with_summary(tmp_path / "000-a", best_by="val/loss")
    runs_shown = report_data(tmp_path, "--metric", "val/accuracy")["runs"]
    assert [(run["kept"], run["keptEpoch"], run["keptBy"]) for run in runs_shown] == [
        (0.8, 2, "val/loss"),
        (None, None, ""),
    ]


def test_a_report_on_wandb_lists_what_the_kept_weights_have_where_that_is_not_the_best(tmp_path):
    write_two(tmp_path)
    records = read_runs(tmp_path).records
    lines = summary_text(compare("runs", records, ACCURACY)).splitlines()
    assert lines[2].startswith("| run | val/accuracy | of kept weights | state |")
    best, kept, other = (shown(ACCURACY.name, value) for value in (0.85, 0.8, 0.83))
    assert lines[4].startswith(f"| 000-a | {best} | {kept} |")
    assert lines[5].startswith(f"| 001-b | {other} | {other} |")
    assert "of kept weights" not in summary_text(compare("runs", records, metric_named("val/loss")))
