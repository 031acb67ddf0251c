"""The reader of runs: what it finds, and what it makes of broken folders."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from analysis.read.pictures import pictures
from analysis.read.recipe import differing_settings
from analysis.read.records import Filter
from analysis.read.runs import best_values, curves, history, names_of_metrics, read_runs
from analysis.read.sweeps import read_sweeps
from data.errors import UserError
from data.files import write_json
from data.metrics import Best, Metric
from tests.run_folders import START, SWEEP, write_run


def ids(records):
    return [record.run_id for record in records]


def test_runs_are_found_in_the_folder_and_in_its_sweeps_the_newest_first(runs_dir):
    records, skipped = read_runs(runs_dir)
    assert ids(records) == ["final-000-run-seed1", "002-run", "001-run", "000-run", "c", "b", "a"]
    assert skipped == []
    assert [record.sweep for record in records] == ["lr"] * 4 + [""] * 3
    assert [record.is_final for record in records] == [True] + [False] * 6
    states = ["unfinished", "finished", "stopped", "finished", "unfinished", "failed", "finished"]
    assert [record.state for record in records] == states
    a = records[-1]
    assert (a.model, a.dataset, a.tags, a.created) == ("cnn", "digits", ("x", "y"), START + timedelta(days=1))
    assert (a.settings["lr"], a.summary["val/loss"], a.environment["device"]) == (1e-3, 1.0, "a device")
    assert [row["val/loss"] for row in history(a)] == [2.0, 1.0, 1.5]


def test_pictures_are_found_by_name_with_their_epochs(runs_dir):
    folder = runs_dir / "a" / "panels"
    folder.mkdir()
    for name in ("b-0001.png", "b-10000.png", "a.png", "attention-heads-1.png", "table.csv"):  # as of 0.1.0: no epoch
        (folder / name).touch()
    found = pictures(read_runs(runs_dir).records[-1])
    told = [("a", None), ("attention-heads-1", None), ("b", 1), ("b", 10000)]
    assert [(picture.name, picture.epoch) for picture in found] == told
    assert found[2].path == folder / "b-0001.png"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"sweep": "lr"}, ["final-000-run-seed1", "002-run", "001-run", "000-run"]),
        ({"sweep": "l?", "state": "finished"}, ["002-run", "000-run"]),
        ({"model": "mlp"}, ["b"]),
        ({"dataset": "cifar*"}, ["c"]),
        ({"tag": "y"}, ["a"]),
        ({"state": "failed"}, ["b"]),
        ({"since": START + timedelta(days=6)}, ["final-000-run-seed1", "002-run"]),
        ({"since": START + timedelta(days=2), "until": START + timedelta(days=3)}, ["c", "b"]),
        ({"model": "CNN"}, []),
    ],
)
def test_a_filter_keeps_what_fits_all_of_it(runs_dir, wanted, found):
    assert ids(Filter(**wanted).apply(read_runs(runs_dir).records)) == found


def test_brackets_in_a_name_are_letters(tmp_path):
    for name in ("cnn[v2]", "cnnv"):
        write_run(tmp_path / "sweeps" / name / f"of-{name}", [1.0])
    records = read_runs(tmp_path).records
    assert [ids(Filter(sweep=name).apply(records)) for name in ("cnn[v2]", "cnn[*]")] == [["of-cnn[v2]"]] * 2


def test_runs_differ_in_settings_but_not_in_where_they_are(runs_dir):
    records = Filter(sweep="lr").apply(read_runs(runs_dir).records)
    settings = [record.settings for record in records]
    assert differing_settings(settings[1:]) == ["lr"]
    assert differing_settings(settings[1:2]) == []
    assert differing_settings([{"lr": 1, "fold": 0}, {"lr": 1.0, "fold": False}, {"lr": 1, "fold": 9**999}]) == ["fold"]


# Faults.


def test_what_is_no_run_is_counted_once_and_what_is_nearly_one_is_read(runs_dir):
    (runs_dir / "notes" / "deep" / "deeper").mkdir(parents=True)
    (runs_dir / "notes" / "deep" / "text.txt").write_text("foreign")
    (runs_dir / "settings.jsonl").write_text("foreign")
    (runs_dir / "sweeps" / "lr" / "003-starting").mkdir()  # made by the agent, not yet by train.py
    (runs_dir / "sweeps" / "lr" / "003-starting" / "output.log").touch()
    write_run(runs_dir / "sweeps" / "lr" / "004-broken", [1.0])
    (runs_dir / "sweeps" / "lr" / "004-broken" / "settings.json").unlink()
    for name, content in {
        "half": '{"model": "cnn", "data',
        "list": "[1, 2]",
        "bytes": "\xff\xfe",
        "number": '{"model": 1, "dataset": "digits"}',
        "empty": "",
    }.items():
        (runs_dir / name).mkdir()
        (runs_dir / name / "settings.json").write_bytes(content.encode("latin1"))
    (runs_dir / "loop").symlink_to(runs_dir)
    (runs_dir / "dangling").symlink_to(runs_dir / "nowhere")
    bare = runs_dir / "bare"
    bare.mkdir()
    (bare / "settings.json").write_text('{"model": "vae", "dataset": "faces"}')
    (bare / "summary.json").write_text('{"state": "fini')
    (bare / "environment.json").write_text('{"started": "some day"}')
    records, skipped = read_runs(runs_dir)
    assert len(skipped) == 1 + 1 + 5
    assert skipped == ["bytes", "empty", "half", "list", "notes", "number", "sweeps/lr/004-broken"]
    [record] = [record for record in records if record.run_id == "bare"]
    assert len(records) == 8
    assert (record.state, record.summary, record.tags, [*history(record)]) == ("unfinished", {}, (), [])
    assert abs(record.created - datetime.now(UTC)) < timedelta(minutes=5)  # when its settings were written


@pytest.mark.parametrize(
    "tail",
    ['{"epoch": 4, "val/lo', '\x00\x00\x00{"epoch": 4}\n', "7\n", '{"epoch": 4, {"epoch": 4}\n{"epoch": 5}\n', "\n\n{"],
)
def test_metrics_are_read_as_far_as_they_are_whole(runs_dir, tail):
    with (runs_dir / "a" / "metrics.jsonl").open("a") as file:
        file.write(tail)
    record = read_runs(runs_dir).records[-1]
    assert [row["epoch"] for row in history(record)] == [1, 2, 3]
    assert curves([record], "val/loss") == [[(1, 2.0), (2, 1.0), (3, 1.5)]]


def test_a_curve_has_the_finite_values_alone(runs_dir):
    rows = [{"epoch": 1, "x": float("nan")}, {"epoch": 2, "x": 3}, {"x": 4}, {"epoch": 3, "x": "?"}, {"epoch": 4}]
    rows = [{"lr": 0.1, **row} for row in [*rows, {"epoch": 5, "x": float("inf")}]]
    rows.append({"epoch": 5, "x": 7})  # a closing evaluation, which is of the kept weights' epoch
    (runs_dir / "a" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curves(read_runs(runs_dir).records[-1:], "x") == [[(2, 3)]]


def test_metrics_of_a_run_are_those_that_it_has_a_number_of(tmp_path):
    folder = write_run(tmp_path / "a", [1.0], state=None)
    rows = [{"epoch": 1, "lr": 0.1, "x": None, "y": float("nan")}, {"epoch": 2, "lr": 0.1, "y": 1.0}, {"z": 3.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert names_of_metrics(read_runs(tmp_path).records) == [{"epoch", "lr", "y"}]


@pytest.mark.parametrize(
    ("told", "seconds"), [(60, 60), (0.5, 0.5), (-1.0, None), (1e10, None), (float("nan"), None), ("60", None)]
)
def test_a_time_of_training_that_cannot_be_is_none(told, seconds, tmp_path):
    folder = write_run(tmp_path / "a", [1.0])
    write_json(folder / "summary.json", {"state": "finished", "train_seconds": told})
    [record] = read_runs(tmp_path).records
    assert record.train_seconds == seconds


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no runs folder .*nowhere: name one by --runs_dir"):
        read_runs(tmp_path / "nowhere")


def test_a_run_that_is_called_as_final_ones_are_is_none_without_a_sweep(tmp_path):
    for folder in ("final-cnn", "final-cnn-seed1", "sweeps/s/final-000-a-seed12", "sweeps/s/final-stage"):
        write_run(tmp_path / folder, [1.0])
    assert {record.trial for record in read_runs(tmp_path).records if record.is_final} == {"000-a"}
    assert sum(record.is_final for record in read_runs(tmp_path).records) == 1


def test_final_runs_are_known_in_a_sweeps_folder_wherever_it_lies_and_however_it_is_named(tmp_path, monkeypatch):
    write_run(tmp_path / "backup" / "lr" / "final-000-a-seed1", [1.0])
    write_run(tmp_path / "sweeps" / "s" / "final-000-a-seed1", [1.0])
    (tmp_path / "backup" / "lr" / "sweep.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path / "backup" / "lr")
    for place, name in ((tmp_path / "backup" / "lr", "lr"), (Path(), "lr"), (Path("../../sweeps/s"), "s")):
        records = read_runs(place).records
        assert [(record.sweep, record.trial) for record in records] == [(name, "000-a")]
        assert [sweep.name for sweep in read_sweeps(place, records).sweeps] == [name][: name == "lr"]


def test_the_best_epoch_of_a_program_that_logs_fractions_of_epochs_is_that_of_its_row(tmp_path):
    folder = write_run(tmp_path / "a", [2.0, 0.5, 1.0])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "epoch": row["epoch"] * 0.75}) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    [best] = best_values(read_runs(tmp_path).records, [Metric("val/loss")])
    assert best["val/loss"] == Best(0.5, 1.5)
