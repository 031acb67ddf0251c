"""The metric that ranks runs, and the warning where runs may not be ranked side by side."""

import json
import re

import pytest
import yaml

from analysis.report import main as report
from analysis.runs import main as runs
from data.files import read_json, write_json
from tests.run_folders import write_run, write_study


def write_sweep(runs_dir, metric="val/score", goal="maximize"):
    """Write a sweep of three runs that log, in the metric's place, what their names say."""
    sweep = runs_dir / "sweeps" / "s"
    for value in (1, 3, 2):
        folder = write_run(sweep / f"run{value}", [1.0, 1.0], lr=value / 10)
        rows = [json.loads(line) | {metric: value} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {"method": "random", "metric": {"name": metric, "goal": goal}, "parameters": {"lr": {"min": 0, "max": 1}}}
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(content))
    return sweep


def listed(capsys, runs_dir, *arguments):
    assert runs(["--runs_dir", str(runs_dir), *arguments]) == 0
    return capsys.readouterr().out


def reported(runs_dir, *arguments):
    path = runs_dir / "report.html"
    assert report(["--runs_dir", str(runs_dir), "--out", str(path), *arguments]) == 0
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text("utf-8"), re.DOTALL)[1])


@pytest.mark.parametrize(
    "arguments", [["--metric", "val/score"], ["--sweep", "s"], ["--sweep=s", "--metric=val/score"]]
)
@pytest.mark.parametrize(("goal", "order"), [("maximize", [3, 2, 1]), ("minimize", [1, 2, 3])])
def test_a_sweeps_goal_says_which_run_is_the_best(tmp_path, capsys, arguments, goal, order):
    write_sweep(tmp_path, goal=goal)
    ids = [f"run{value}" for value in order]
    assert re.findall(r"run\d", listed(capsys, tmp_path, "--sort=best", *arguments)) == ids
    data = reported(tmp_path, *arguments)
    assert [run["name"] for run in data["runs"]] == ids
    assert data["metric"] == {"name": "val/score", "goal": goal}


@pytest.mark.parametrize("told", ["by the sweep", "by the runs", "by the user"])
def test_whatever_tells_a_goal_that_the_name_hides_says_which_run_is_the_best(tmp_path, capsys, told):
    sweep = write_sweep(tmp_path, "val/perplexity")
    content = yaml.safe_load((sweep / "sweep.yaml").read_text())
    content["metrics"] = [{"name": "val/loss"}, content.pop("metric")]
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(content))
    if told != "by the sweep":
        (sweep / "sweep.yaml").unlink()
    if told == "by the runs":
        for settings in sweep.glob("*/settings.json"):
            write_json(settings, {**read_json(settings), "best_by": "maximize val/perplexity"})
    metric = f"--metric={'maximize ' if told == 'by the user' else ''}val/perplexity"
    assert re.findall(r"run\d", listed(capsys, tmp_path, "--sort=best", "--sweep=s", metric)) == [
        "run3",
        "run2",
        "run1",
    ]
    data = reported(tmp_path, metric)
    assert [run["name"] for run in data["runs"]] == ["run3", "run2", "run1"]
    assert data["metric"] == {"name": "val/perplexity", "goal": "maximize"}


def test_a_sweeps_metric_does_not_rank_runs_of_which_some_are_of_no_sweep(tmp_path):
    write_sweep(tmp_path)
    assert reported(tmp_path)["metric"]["name"] == "val/score"
    write_run(tmp_path / "other", [1.0])
    assert reported(tmp_path)["metric"]["name"] == "val/accuracy"


def test_sweeps_of_one_name_that_disagree_on_the_goal_are_told_apart_and_none_of_them_decides(tmp_path):
    for machine, goal in (("a", "maximize"), ("b", "minimize")):
        for folder in write_sweep(tmp_path / machine, goal=goal).glob("run*"):
            folder.rename(folder.with_name(f"{machine}-{folder.name}"))
    assert reported(tmp_path)["metric"]["name"] == "val/accuracy"
    for asked, goal in (("val/score", "minimize"), ("maximize val/score", "maximize")):
        data = reported(tmp_path, f"--metric={asked}")
        assert data["metric"] == {"name": "val/score", "goal": goal}
        word = {"minimize": "less", "maximize": "more"}[goal]
        assert f"disagree on whether more or less of val/score is better: here {word} is" in data["warning"]
        assert data["sweeps"] == ["s in a/sweeps", "s in b/sweeps"]
        assert {run["name"]: run["sweep"] for run in data["runs"]}["b-run1"] == "s in b/sweeps"
        assert [run["name"][-1] for run in data["runs"]] == sorted("112233", reverse=goal == "maximize")
    alone = reported(tmp_path / "a", "--metric=val/score")
    assert (alone["sweeps"], alone["metric"]["goal"], alone["warning"]) == (["s"], "maximize", "")


def test_a_metric_that_only_the_log_has_is_shown_and_ranks(tmp_path, capsys):
    for i, loss in enumerate((2.0, 1.0)):
        write_run(tmp_path / f"run{i}", [loss], state=None)  # there is no summary yet
    assert "0.3333" in listed(capsys, tmp_path, "--metric=train/classify/loss")
    data = reported(tmp_path)
    assert data["metric"]["name"] == "val/accuracy"
    assert data["figures"] == ["val/loss"]
    assert [run["name"] for run in reported(tmp_path, "--metric=train/classify/loss")["runs"]] == ["run1", "run0"]


@pytest.mark.slow
def test_a_trial_of_which_the_study_knows_no_value_has_that_of_its_log(tmp_path, capsys):
    for i in range(3):
        write_run(tmp_path / "sweeps" / "lr" / f"00{i}-run", [3.0 - i], state=None)
    content = {"method": "bayes", "metric": {"name": "val/loss"}, "parameters": {"lr": {"min": 0.01, "max": 1.0}}}
    (tmp_path / "sweeps" / "lr" / "sweep.yaml").write_text(yaml.safe_dump(content))
    write_study(tmp_path / "sweeps" / "lr")  # the third has no value there
    assert {run["name"]: run["value"] for run in reported(tmp_path)["runs"]}["002-run"] == 1.0


@pytest.mark.parametrize(
    ("metric", "line"),
    [
        ("val/acuracy", "none of the runs has a value of it, did you mean val/accuracy?"),
        ("train/clasify/loss", "did you mean train/classify/loss?"),
        ("zzz", "none of the runs has a value of it: they have val/accuracy, val/loss, best_epoch"),
    ],
)
@pytest.mark.parametrize("main", [runs, report])
def test_a_metric_that_no_run_has_is_refused_with_those_they_have(tmp_path, capsys, main, metric, line):
    write_run(tmp_path / "a", [1.0])
    assert main(["--runs_dir", str(tmp_path), "--metric", metric]) == 2
    error = capsys.readouterr().err
    assert f"--metric={metric}: " in error
    assert line in error
    assert error.count("\n") == 1


def change(folder, **environment):
    path = folder / "environment.json"
    write_json(path, {**read_json(path), **environment})


@pytest.mark.parametrize(
    ("settings", "environment", "text"),
    [
        ({}, {"data": "other"}, "the images of digits: other (1), same (1)"),
        ({"data_seed": 2}, {}, "data_seed: 1 (1), 2 (1)"),
        ({"fold": "2/5"}, {}, "fold: none (1), 2/5 (1)"),
        ({"group_by": "p"}, {}, "group_by: none (1), p (1)"),
        ({"limit_batches": 3}, {}, "limit_batches: 0 (1), 3 (1)"),
        ({"train_fraction": 0.5}, {}, "train_fraction: 0.5 (1), 1 (1)"),
        ({"val_fraction": 0.2}, {}, "val_fraction: 0.1 (1), 0.2 (1)"),
        ({"dataset": "cifar10"}, {}, "models or datasets: cnn on cifar10 (1), cnn on digits (1)"),
        ({}, {"commit": "d" * 40}, "code: cccccccccc (1), dddddddddd (1)"),
        ({}, {"commit": "c" * 40 + "-dirty"}, "code: cccccccccc (1), cccccccccc-dirty (1)"),
        ({}, {"changes": "0123456789ab"}, "code: cccccccccc (1), cccccccccc 0123456789ab (1)"),
    ],
)
def test_runs_of_other_data_splits_or_code_are_ranked_with_one_line_of_warning(
    tmp_path, capsys, settings, environment, text
):
    split = {"data_seed": 1, "train_fraction": 1, "val_fraction": 0.1, "fold": "", "group_by": "", "limit_batches": 0}
    change(write_run(tmp_path / "a", [1.0], **split), data="same")
    change(write_run(tmp_path / "b", [2.0], **{**split, **settings}), **{"data": "same", **environment})
    [line] = [line for line in listed(capsys, tmp_path, "--sort=best").splitlines() if "comparable" in line]
    warning = reported(tmp_path)["warning"]
    assert line == warning
    for part in (text.partition(": ")[0], *re.findall(r"\S+ \(1\)", text)):
        assert part in warning


def test_runs_of_the_same_data_split_and_code_have_no_warning_nor_has_what_is_unknown(tmp_path, capsys):
    split = {"data_seed": 1, "train_fraction": 1.0, "val_fraction": 0.1}
    for i in range(3):
        write_run(tmp_path / f"run{i}", [1.0], **split)
    write_json(tmp_path / "run0" / "environment.json", {})
    change(tmp_path / "run1", data="known")
    write_run(tmp_path / "sweeps" / "s" / "final-run0-seed1", [1.0], **{**split, "val_fraction": 0.0})
    assert "comparable" not in listed(capsys, tmp_path, "--sort=best")
    assert reported(tmp_path)["warning"] == ""


@pytest.mark.parametrize(("limit", "part"), [(0, ""), (3, "they differ in batch_size: 100 (1), 50 (1)")])
def test_another_size_of_the_batches_is_told_where_they_limit_what_is_validated(tmp_path, limit, part):
    for size in (50, 100):
        change(write_run(tmp_path / f"run{size}", [1.0 + size], limit_batches=limit, batch_size=size), data="same")
    warning = reported(tmp_path)["warning"]
    assert part in warning
    assert bool(part) == bool(warning)


def test_versions_of_the_code_that_differ_look_different_in_the_comparer(tmp_path):
    commit = "c" * 40
    versions = [{"commit": commit}, {"commit": f"{commit}-dirty", "changes": "abc"}, {"commit": f"{commit}-dirty"}]
    for i, version in enumerate(versions):
        change(write_run(tmp_path / f"run{i}", [1.0 + i]), **version)
    details = reported(tmp_path)["details"].values()
    shown = [detail["environment"]["code"] for detail in details]
    assert shown == ["cccccccccc", "cccccccccc-dirty abc", "cccccccccc-dirty"]


def test_what_the_kept_weights_have_is_shown_where_it_is_not_the_best(tmp_path, capsys):
    write_run(tmp_path / "a", [0.9, 0.5, 0.6], [0.7, 0.8, 0.85])  # the weights of the least loss are kept
    write_run(tmp_path / "b", [0.9, 0.6], [0.7, 0.83])
    line = next(line for line in listed(capsys, tmp_path, "--metric=val/accuracy").splitlines() if " a " in line)
    assert "85.00 % " in line
    assert "80.00 % " in line
    runs_by_name = {run["name"]: run for run in reported(tmp_path, "--metric=val/accuracy")["runs"]}
    assert [runs_by_name["a"][key] for key in ("value", "bestEpoch", "kept", "keptEpoch")] == [0.85, 3, 0.8, 2]
    assert [runs_by_name["b"][key] for key in ("value", "bestEpoch", "kept", "keptEpoch")] == [0.83, 2, None, None]
    assert "of kept weights" not in listed(capsys, tmp_path, "--metric=val/loss")
