"""Runs of several models, which have settings of their own: what matters is told for each model by itself."""

import math
import random

import pytest

from analysis import report
from analysis.compare.comparison import compare
from analysis.compare.html_page import page_data
from analysis.compare.importance import branches, importance
from analysis.compare.report import Choice, find_comparison, of_model
from analysis.compare.run_tables import print_runs
from analysis.compare.what_mattered import print_what_mattered
from analysis.read.runs import read_runs
from analysis.read.sweeps import SweepRecord, read_sweeps
from analysis.read.trials import Trial
from data.metrics import Metric
from tests.run_folders import write_run

LOSS = Metric("val/loss")
METRICS = """method: random
metrics: [{name: val/loss}, {name: val/accuracy, goal: maximize}]
parameters: {model: {values: [mlp, cnn]}, lr: {min: 0.1, max: 0.2}}
"""


def write_two_models(runs_dir, num):
    """Runs of an MLP, whose width matters, and of a CNN, whose pooling does; the rate is both models'."""
    draw = random.Random(0)
    for i in range(num):
        lr, width, pooling = math.exp(draw.uniform(-10, -4)), draw.randrange(16, 64), draw.choice(["none", "mean"])
        accuracy = [draw.random()]
        write_run(runs_dir / f"mlp{i:02d}", [1 + width / 64], accuracy, model="mlp", lr=lr, width=width)
        write_run(runs_dir / f"cnn{i:02d}", [1.1 + (pooling == "mean")], accuracy, model="cnn", lr=lr, pooling=pooling)


@pytest.fixture
def comparison(tmp_path):
    write_two_models(tmp_path, 12)
    return compare("two models", read_runs(tmp_path).records, LOSS)


def test_the_importance_of_a_setting_of_one_model_is_weighed_among_its_runs(comparison):
    assert set(importance(comparison).names) == {"model", "lr"}
    parts = branches(comparison)
    assert parts.keys() == {"mlp", "cnn"}
    found = {model: importance(part) for model, part in parts.items()}
    assert (found["mlp"].names[0], found["cnn"].names[0]) == ("width", "pooling")
    assert {part.num_runs for part in found.values()} == {12}


def test_runs_of_one_model_or_with_the_same_settings_are_no_branches(tmp_path):
    for i in range(3):
        write_run(tmp_path / f"a{i}", [1.0 + i], model="mlp", lr=0.1 * (i + 1))
        write_run(tmp_path / f"b{i}", [1.0 + i], model="cnn", lr=0.1 * (i + 1))
    write_run(tmp_path / "newer", [1.0], model="cnn", lr=0.4, width=3)
    write_run(tmp_path / "newer2", [1.0], model="mlp", lr=0.4, width=4)  # the others are older than the setting
    assert branches(compare("same", read_runs(tmp_path).records, LOSS)) == {}


def test_the_page_has_the_runs_and_the_axes_of_each_model(comparison):
    data = page_data(comparison)
    names = [setting["name"] for setting in data["settings"]]
    for model, own in (("mlp", {"lr", "width"}), ("cnn", {"lr", "pooling"})):
        part = data["branches"][model]
        assert {data["runs"][i]["model"] for i in part["runs"]} == {f"{model} on digits"}
        assert {names[k] for k in part["settings"]} == own
        assert part["importance"]["num_runs"] == 12


@pytest.mark.slow
def test_a_page_shows_each_model_by_itself_and_the_front_of_a_sweep_with_two_metrics(browser, tmp_path):
    folder = tmp_path / "sweeps" / "two"
    write_two_models(folder, 10)
    (folder / "sweep.yaml").write_text(METRICS)
    assert report.main(["--runs_dir", str(tmp_path), "--sweep", "two"]) == 0
    browser.open(folder / "report.html")
    assert browser.requests()[1] == []
    axes = "document.querySelector('#parallel-chart').layout.shapes.length"
    assert browser.run(axes) == 5  # model, lr, width, pooling, val/loss
    browser.click('[data-choice="parallel-of"] button', 1)  # the CNN
    assert browser.run(axes) == 3
    assert browser.texts('[data-choice="importance-of"] button') == ["all models", "cnn", "mlp"]
    browser.click('[data-choice="importance-of"] button', 2)
    assert browser.run("document.querySelectorAll('#importance-chart .bars .point').length") == 2
    [front] = [sweep.front for sweep in read_sweeps(tmp_path, read_runs(tmp_path).records).sweeps]
    assert browser.texts("#front td.text") == [trial.run_id for trial in front]
    assert browser.drawn("#front-chart") == 2


def test_of_one_models_runs_the_front_and_the_ends_are_those_of_its_trials(tmp_path):
    sweep = tmp_path / "sweeps" / "s"
    for i in range(6):
        write_run(sweep / f"00{i}-mlp", [0.1 + i], [0.9 - i / 10], model="mlp", lr=0.2 - i / 100)
        write_run(sweep / f"01{i}-cnn", [1.1 + i], [0.7 - i / 10], model="cnn", lr=0.1 + i / 100)
    (sweep / "sweep.yaml").write_text(METRICS)
    comparison = find_comparison(Choice(tmp_path, sweeps=["s"], model="c*"))
    assert comparison.front.best == ["010-cnn"]
    assert set(comparison.front.values) == {f"01{i}-cnn" for i in range(6)}
    [line] = comparison.edges
    assert line.startswith("lr: the best, 0.1, lies at the lower end")
    assert len(find_comparison(Choice(tmp_path, sweeps=["s"])).front.values) == 12


def test_of_a_damaged_sweep_whose_trials_models_are_no_names_the_report_goes_on():
    trials = [Trial(0, "000", "COMPLETE", 1.0, 1, {"model": own}, None, None) for own in (3, "cnn")]
    sweep = SweepRecord("s", "s", LOSS, "random", (), tuple(trials), {})
    assert [len(of_model(sweep, model).trials) for model in ("", "cnn", "mlp")] == [2, 1, 0]


def test_a_terminal_has_a_dash_for_what_a_model_has_not_and_the_shares_of_each(comparison, tmp_path, capsys):
    print_what_mattered(comparison)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert " mlp " in lines["width"]
    assert " cnn " in lines["pooling"]
    for i in range(2):
        folder = tmp_path / "sweeps" / "s"
        write_run(folder / f"m{i}", [1.0], model="mlp", width=i)
        write_run(folder / f"c{i}", [1.0], model="cnn", pooling="ab"[i])
    runs = read_runs(tmp_path)
    own = runs._replace(records=[record for record in runs.records if record.sweep == "s"])
    print_runs(own, LOSS, "run", 9)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] in (["m0"], ["c1"])]
    assert [row.count("–") for row in rows] == [1, 1]
