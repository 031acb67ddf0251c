"""The reader of runs and sweeps: what it finds, what it makes of broken folders, its index, and the terminal view."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from analysis.compare.run_tables import main, moment
from analysis.read import index as run_index
from analysis.read.runs import Filter, curves, differing_settings, history, panels, read_runs
from analysis.read.sweeps import read_sweeps
from analysis.record import run_folder
from analysis.terminal import sparkline
from data.errors import UserError
from data.files import write_json
from data.metrics import Metric
from tests.run_folders import START, write_many, write_run


def ids(records):
    return [record.run_id for record in records]


@pytest.fixture
def runs_dir(tmp_path):
    """Three single runs and a sweep of three, with a final run."""
    write_run(tmp_path / "a", [2.0, 1.0, 1.5], days=1, tags="x, y")
    write_run(tmp_path / "b", [3.0], days=2, model="mlp", state="failed")
    write_run(tmp_path / "c", [4.0, 2.5], days=3, dataset="cifar10", state=None)
    sweep = tmp_path / "sweeps" / "lr"
    for i, (losses, state) in enumerate([([1.0, 0.5], "finished"), ([2.0], "stopped"), ([0.9, 0.8], "finished")]):
        write_run(sweep / f"00{i}-run", losses, days=4 + i, state=state, lr=10.0**-i)
    write_run(sweep / "final-000-run-seed1", [], days=7, state=None, lr=1.0, seed=1)
    parameters = {"lr": {"min": 0.01, "max": 1.0}, "model": {"value": "cnn"}}
    content = {"method": "bayes", "metric": {"name": "val/loss"}, "parameters": parameters}
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def test_runs_are_found_in_the_folder_and_in_its_sweeps_the_newest_first(runs_dir):
    records, num_skipped = read_runs(runs_dir)
    assert ids(records) == ["final-000-run-seed1", "002-run", "001-run", "000-run", "c", "b", "a"]
    assert num_skipped == 0
    assert [record.sweep for record in records] == ["lr"] * 4 + [""] * 3
    assert [record.is_final for record in records] == [True] + [False] * 6
    states = ["unfinished", "finished", "stopped", "finished", "unfinished", "failed", "finished"]
    assert [record.state for record in records] == states
    a = records[-1]
    assert (a.model, a.dataset, a.tags, a.created) == ("cnn", "digits", ("x", "y"), START + timedelta(days=1))
    assert (a.settings["lr"], a.summary["val/loss"], a.environment["device"]) == (1e-3, 1.0, "a device")
    assert [row["val/loss"] for row in history(a)] == [2.0, 1.0, 1.5]


def test_panels_are_the_runs_pictures_by_name(runs_dir):
    folder = runs_dir / "a" / "panels"
    folder.mkdir()
    for name in ("b-0001.png", "a.png", "table.csv"):
        (folder / name).touch()
    assert panels(read_runs(runs_dir).records[-1]) == [folder / "a.png", folder / "b-0001.png"]


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


def test_runs_differ_in_settings_but_not_in_where_they_are(runs_dir):
    records = Filter(sweep="lr").apply(read_runs(runs_dir).records)
    assert differing_settings(records[1:]) == ["lr"]
    assert differing_settings(records[1:2]) == []


# Faults.


def test_what_is_no_run_is_counted_once_and_what_is_nearly_one_is_read(runs_dir):
    (runs_dir / "notes" / "deep" / "deeper").mkdir(parents=True)
    (runs_dir / "notes" / "deep" / "text.txt").write_text("foreign")
    (runs_dir / "settings.jsonl").write_text("foreign")
    (runs_dir / "sweeps" / "lr" / "003-starting").mkdir()  # made by the agent, not yet by train.py
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
    records, num_skipped = read_runs(runs_dir)
    assert num_skipped == 1 + 1 + 5
    [record] = [record for record in records if record.run_id == "bare"]
    assert len(records) == 8
    assert (record.state, record.summary, record.tags, history(record)) == ("unfinished", {}, (), [])
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
    rows.append({"epoch": 5, "x": float("inf")})
    (runs_dir / "a" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curves(read_runs(runs_dir).records[-1:], "x") == [[(2, 3)]]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no runs folder .*nowhere: name one by --runs_dir"):
        read_runs(tmp_path / "nowhere")


# The index.


def forbid_reading(monkeypatch):
    monkeypatch.setattr(run_folder, "read_json", None)
    monkeypatch.setattr(run_folder, "read_metrics", None)


def test_what_has_not_changed_is_not_read_again(runs_dir, monkeypatch):
    first = read_runs(runs_dir)
    drawn = curves(first.records, "val/loss")
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert read_runs(runs_dir) == first
        assert curves(first.records, "val/loss") == drawn
    write_run(runs_dir / "new", [1.0], days=9)
    with (runs_dir / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "val/loss": 0.25}\n')
    write_json(runs_dir / "c" / "summary.json", {"state": "finished"})
    records = {record.run_id: record for record in read_runs(runs_dir).records}
    assert len(records) == 8
    assert records["c"].state == "finished"
    assert curves([records["a"], records["new"]], "val/loss") == [[*drawn[-1], (4, 0.25)], [(1, 1.0)]]


def test_runs_that_are_gone_leave_the_index(runs_dir, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_run(other / "kept", [1.0])
    read_runs(other)
    curves(read_runs(runs_dir).records, "val/loss")
    for name in ("a", "b"):
        (runs_dir / name).rename(tmp_path_factory.mktemp("gone") / name)
    assert len(read_runs(runs_dir).records) == 5
    with run_index.closing(run_index.connect(run_index.cache_dir() / run_index.INDEX)) as index:
        names = {os.path.basename(path) for (path,) in index.execute("SELECT path FROM runs")}
    assert names == {b"000-run", b"001-run", b"002-run", b"final-000-run-seed1", b"c", b"kept"}


def test_a_broken_index_is_made_anew_and_one_that_cannot_be_is_done_without(runs_dir, monkeypatch, tmp_path):
    first = read_runs(runs_dir)
    path = run_index.cache_dir() / run_index.INDEX
    path.write_bytes(b"SQLite format 3\x00" + b"\xab" * 5000)
    assert read_runs(runs_dir) == first
    assert read_runs(runs_dir) == first
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert read_runs(runs_dir) == first
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read_runs(runs_dir) == first


def test_several_readers_of_a_fresh_index_and_a_writer_do_not_disturb_each_other(tmp_path):
    write_many(tmp_path / "runs", 60, num_epochs=3)

    def read(_):
        records = read_runs(tmp_path / "runs").records
        return len(records), [len(curve) for curve in curves(records, "val/loss")][-60:]

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write_many, tmp_path / "runs" / "more", 40, 3)
        found = list(pool.map(read, range(6)))
        writing.result()
    assert all(60 <= num <= 100 for num, _ in found)
    assert read(None) == (100, [3] * 60)


def test_hundreds_of_runs_are_listed_and_filtered_in_a_fraction_of_a_second(tmp_path, record_property):
    write_many(tmp_path, 400, num_epochs=100)
    seconds = {}
    for name in ("cold", "warm"):
        start = time.process_time()
        records = read_runs(tmp_path).records
        some = Filter(model="c*", state="finished").apply(records)
        seconds[name] = time.process_time() - start
    record_property("seconds", seconds)
    written = [json.loads((path / "settings.json").read_text())["model"] for path in tmp_path.rglob("*-run")]
    assert len(records) == len(written) == 400
    assert len(Filter(model="cnn").apply(records)) == written.count("cnn")
    assert {(record.model, record.state) for record in some} == {("cnn", "finished")}
    assert seconds["cold"] < 0.8  # 10 s for 5,000
    assert seconds["warm"] < 0.4


# Sweeps.


def make_study(folder: Path) -> None:
    """A study of four trials, one of them never begun, as sweeps/trials.py leaves them."""
    study = optuna.create_study(storage=f"sqlite:///{folder / 'study.db'}", study_name="lr")
    ends = [(TrialState.COMPLETE, 0.5), (TrialState.PRUNED, 2.0), (TrialState.FAIL, None)]
    for number, (state, best) in enumerate(ends):
        trial = study.ask()
        trial.set_user_attr("run_id", f"00{number}-run")
        trial.set_user_attr("settings", {"lr": 10.0**-number})
        if best is not None:
            trial.set_user_attr("best", best)
            trial.set_user_attr("best_epoch", 2 - number)
        study.tell(trial, best if state == TrialState.COMPLETE else None, state)
    study.ask()


def test_a_sweep_has_its_trials_in_order_with_their_ends(runs_dir):
    folder = runs_dir / "sweeps" / "lr"
    make_study(folder)
    before = (folder / "study.db").read_bytes()
    write_json(folder / "final.json", {"trials": [1]})
    [sweep], num_skipped = read_sweeps(runs_dir)
    assert num_skipped == 0
    assert (sweep.name, sweep.metric, sweep.method) == ("lr", Metric("val/loss", "minimize"), "bayes")
    assert (sweep.varied, sweep.final) == (("lr",), {"trials": [1]})
    assert [trial.state for trial in sweep.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert [(trial.number, trial.run_id) for trial in sweep.trials] == [(i, f"00{i}-run") for i in range(3)]
    assert [(trial.value, trial.best_epoch) for trial in sweep.trials] == [(0.5, 2), (2.0, 1), (None, None)]
    assert sweep.trials[1].settings == {"lr": 0.1}
    assert abs(sweep.trials[0].ended - datetime.now(UTC)) < timedelta(minutes=5)
    assert [trial.number for trial in sweep.leaders] == [0, 1]
    assert (folder / "study.db").read_bytes() == before


@pytest.mark.parametrize("database", [None, b"", b"SQLite format 3\x00" + b"\xab" * 5000])
def test_a_sweep_without_its_database_is_read_from_its_runs(runs_dir, database):
    path = runs_dir / "sweeps" / "lr" / "study.db"
    if database is not None:
        path.write_bytes(database)
    [sweep], _ = read_sweeps(runs_dir, read_runs(runs_dir).records)
    assert [trial.state for trial in sweep.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert [(trial.value, trial.best_epoch) for trial in sweep.trials] == [(0.5, 2), (2.0, 1), (0.8, 2)]
    assert database is None or path.read_bytes() == database


@pytest.mark.parametrize("content", ["", "[]", "metric: 1", "metric: {name: x}\nparameters: []", "a: [", "\x00"])
def test_a_sweep_whose_file_is_none_is_counted(runs_dir, content):
    (runs_dir / "sweeps" / "lr" / "sweep.yaml").write_text(content)
    assert read_sweeps(runs_dir) == ([], 1)


# The terminal view.


def show(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def shown_ids(output):
    return re.findall(r"^ *(?:lr +)?(\w[\w-]*) +(?:cnn|mlp) ", output, re.MULTILINE)


def test_runs_are_shown_newest_first_with_best_value_course_and_how_many_were_skipped(runs_dir, capsys):
    (runs_dir / "notes").mkdir()
    output = show(capsys, "--runs_dir", str(runs_dir))
    assert shown_ids(output) == ["final-000-run-seed1", "002-run", "001-run", "000-run", "c", "b", "a"]
    [line] = [line for line in output.splitlines() if line.split()[:1] == ["a"]]
    assert line.split()[:7] == ["a", "cnn", "digits", "finished", "3", "1.0000", "█▁▅"]
    last = "7 runs: 3 finished, 1 stopped, 1 failed, 2 unfinished; 1 skipped: folders that are no run, or a broken one"
    assert output.splitlines()[-1] == last


def test_a_sweeps_runs_are_shown_the_best_first_with_the_settings_that_differ(runs_dir, capsys):
    output = show(capsys, "--runs_dir", str(runs_dir), "--sweep", "lr")
    assert shown_ids(output) == ["000-run", "002-run", "001-run", "final-000-run-seed1"]
    assert re.search(r"age +duration +lr *$", output, re.MULTILINE)


def test_of_a_metric_that_grows_the_most_is_best(runs_dir, capsys):
    arguments = ("--runs_dir", str(runs_dir), "--metric", "val/accuracy", "--sort", "best", "--limit", "2")
    output = show(capsys, *arguments)
    assert shown_ids(output) == ["000-run", "002-run"]
    assert f"{1 - 0.5 / 3:.4f}" in output
    assert "2 of 7 runs" in output


def test_sweeps_are_shown_with_the_ends_of_their_trials(runs_dir, capsys):
    make_study(runs_dir / "sweeps" / "lr")
    figure = {"mean": 0.5, "std": 0.01}
    write_json(runs_dir / "sweeps" / "lr" / "final.json", {"trials": [{"test/accuracy": figure}]})
    output = show(capsys, "--runs_dir", str(runs_dir), "--sweeps")
    [line] = [line for line in output.splitlines() if line.startswith(" lr ")]
    assert line.split()[1:] == [
        "bayes",
        "val/loss",
        "3",
        "1",
        "1",
        "1",
        "0.5000",
        "▁█",
        "lr=1",
        "50.00",
        "±",
        "1.00",
        "%",
    ]


def test_nothing_is_shown_as_nothing(tmp_path, capsys):
    assert show(capsys, "--runs_dir", str(tmp_path)) == "0 runs; 1 skipped: folders that are no run, or a broken one\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--runs_dir", "nowhere"], "no runs folder nowhere"),
        (["--limit", "0"], "0 is not a whole number"),
        (["--since", "yesterday"], "yesterday is no time: write 2026-11-25"),
        (["--state", "running"], "invalid choice: 'running'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, line):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_moments_are_dates_or_so_long_ago():
    assert moment("2026-11-25T12:00+02:00") == datetime(2026, 11, 25, 10, tzinfo=UTC)
    assert abs(moment("3d") - (datetime.now(UTC) - timedelta(days=3))) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0, 7, 1], "▁█▂"), ([0, 0, 0, 7, 7, 7, 0, 0], "▁▅█▁")],
)
def test_a_sparkline_goes_from_the_least_to_the_greatest(values, line):
    assert sparkline(values, 4) == line
