"""The reader of sweeps: their trials, from a database of their own or from their runs."""

import json
import sqlite3
import statistics
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import optuna
import pytest

from analysis.read.records import RunRecord
from analysis.read.runs import read_runs
from analysis.read.storage import open_storage, unusable, url_of_file
from analysis.read.sweep_content import is_varied
from analysis.read.sweep_metrics import metrics_of_sweeps
from analysis.read.sweeps import SweepRecord, read_study, read_sweep, read_sweeps
from analysis.read.trials import Trial, trials_of, with_their_seeds
from analysis.record.run_folder import run_of_seed
from data.errors import UserError
from data.files import write_json
from data.metrics import Curve, Metric
from tests.run_folders import write_run, write_study

CONTENT = {"metric": {"name": "val/loss"}, "parameters": {"lr": {"min": 0.1, "max": 1.0}}}


@pytest.mark.slow
def test_a_sweep_has_its_trials_in_order_with_their_ends(runs_dir):
    folder = runs_dir / "sweeps" / "lr"
    write_study(folder)
    before = (folder / "study.db").read_bytes()
    write_json(folder / "final.json", {"trials": [1]})
    [sweep], skipped = read_sweeps(runs_dir)
    assert skipped == []
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


def test_sweeps_are_found_by_their_runs_however_deep_these_lie(tmp_path):
    for machine, num in (("a", 1), ("b", 2)):
        folder = tmp_path / machine / "sweeps" / "lr"
        for i in range(num):
            write_run(folder / f"00{i}-{machine}", [1.0 + i])
        write_json(folder / "sweep.yaml", {**CONTENT, "metric": {"name": "val/perplexity", "goal": "maximize"}})
    metric = Metric("val/perplexity", "maximize")
    for runs_dir, nums in ((tmp_path, [1, 2]), (tmp_path / "b", [2]), (tmp_path / "b" / "sweeps" / "lr", [2])):
        records = read_runs(runs_dir).records
        sweeps, skipped = read_sweeps(runs_dir, records)
        assert [(sweep.name, sweep.metric, len(sweep.trials)) for sweep in sweeps] == [("lr", metric, n) for n in nums]
        assert skipped == []
        assert metrics_of_sweeps(records) == {"lr": [metric]}


def ended(*ends, **final):
    """A sweep whose trials ended in these states with these values, and its final runs."""
    trials = [Trial(i, f"00{i}-a", *each, 1, {}, None, None) for i, each in enumerate(ends)]
    return SweepRecord("s", "s", Metric("val/loss"), "random", (), tuple(trials), final)


def test_a_trial_that_failed_leads_no_sweep_whatever_it_had_reached():
    sweep = ended(("FAIL", 0.1), ("COMPLETE", 0.5), ("RUNNING", 0.3), ("PRUNED", None))
    assert [trial.number for trial in sweep.leaders] == [2, 1]


@pytest.mark.parametrize(
    ("told", "are_of_its_best"),
    [
        ({"trials": [{"trial": "000-a"}]}, True),
        ({"trials": [{"trial": "001-a"}]}, False),
        ({"trials": [{"trial": "000-a"}], "picked": True}, False),
        ({"trials": [{"trial": "000-a"}], "from_width": 64}, False),
    ],
)
def test_final_runs_are_of_the_best_trial_unless_another_or_a_width_was_picked(told, are_of_its_best):
    assert ended(("COMPLETE", 0.1), ("COMPLETE", 0.5), **told).has_finals_of_its_best() is are_of_its_best


def test_runs_of_further_seeds_are_parts_of_their_trials():
    def run(run_id, value, state="COMPLETE"):
        return Trial(0, run_id, state, value, 4, {"lr": 1}, None, None)

    runs = [
        run("000-a", 1.0),
        run("000-a-s2", 2.0),
        run("001-b", 5.0),
        run("002-c-s2", 3.0),
        run("001-b-s2", 9.0, "FAIL"),
        run("000-a-small", 7.0),
    ]
    found = with_their_seeds(runs, Metric("val/loss"))
    assert [(trial.number, trial.run_id, trial.state, trial.value) for trial in found] == [
        (0, "000-a", "COMPLETE", 1.5),
        (1, "001-b", "FAIL", 5.5),  # its first seed was 4 worse than that of the first
        (2, "002-c-s2", "COMPLETE", 3.5),  # of which no first one is there
        (3, "000-a-small", "COMPLETE", 7.5),
    ]
    assert [len(trial.seeds) for trial in found] == [2, 1, 1, 1]
    assert with_their_seeds(runs[2:4], Metric("val/loss"))[0] == replace(runs[2], number=0)  # none has several


def test_a_trial_that_was_ended_early_does_not_lead_with_its_easy_seed():
    """Without the sweep's database, as it does not with it; of more than nine seeds, -s2 is the second."""
    hard = [0.5, *(0.8 + 0.1 * place for place in range(10))]
    told = [
        *((run_of_seed("000-a", place), "COMPLETE", value) for place, value in enumerate(hard)),
        ("001-b", "COMPLETE", 0.55),  # 0.05 worse than the first, then 0.1 better
        ("001-b-s2", "COMPLETE", 0.7),
        ("002-c", "RUNNING", 0.52),
        ("003-d", "RUNNING", None),
    ]
    for goal, sign in (("minimize", 1), ("maximize", -1)):
        runs = [Trial(0, name, state, value and sign * value, 4, {}, None, None) for name, state, value in sorted(told)]
        first, second, third, fourth = with_their_seeds(runs, Metric("val/loss", goal))
        assert sign * first.value == pytest.approx(statistics.fmean(hard))
        assert sign * second.value == pytest.approx(statistics.fmean(hard) - 0.025)
        assert sign * third.value == pytest.approx(statistics.fmean(hard) + 0.02)
        assert fourth.value is None


def test_a_damaged_database_and_one_of_another_sweep_are_told_with_the_remedy(runs_dir, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(runs_dir))
    path = runs_dir / "sweeps" / "lr" / "study.db"
    path.write_bytes(b"SQLite format 3\x00" + b"\xab" * 5000)
    with pytest.raises(UserError) as error:
        read_sweep("lr")
    assert str(error.value).startswith(f"{path} cannot be reached (")
    assert str(error.value).endswith("): restore it, or move it away and start the sweep anew")
    path.unlink()
    write_study(path.parent)
    path.parent.rename(path.parent.with_name("other"))
    told = "^there is no sweep other in that database, which holds lr: name one of these$"
    with pytest.raises(UserError, match=told):
        read_sweep("other")


def test_a_database_on_a_full_disk_is_not_told_to_be_moved_away():
    with closing(sqlite3.connect(":memory:")) as full:
        full.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.OperationalError) as error:
            full.execute("CREATE TABLE trials (id INTEGER)")
    told = str(unusable("sqlite:////runs/lr/study.db", str(error.value)))
    assert told == (
        "/runs/lr/study.db cannot be written (database or disk is full): make room on its disk, or write to another"
    )


@pytest.mark.parametrize("content", ["", "[]", "metric: 1", "metric: {name: x}\nparameters: []", "a: [", "\x00"])
def test_a_sweep_whose_file_is_none_is_counted(runs_dir, content):
    (runs_dir / "sweeps" / "lr" / "sweep.yaml").write_text(content)
    assert read_sweeps(runs_dir) == ([], ["lr"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("trial_user_attributes", "value_json", '"\\ud800"'),
        ("trial_user_attributes", "value_json", "[1]"),
        ("trial_user_attributes", "value_json", None),
        ("trials", "datetime_start", "[0]"),
        ("trials", "state", "ODD"),
    ],
)
def test_a_database_with_odd_values_is_refused_in_one_line(runs_dir, table, column, value):
    folder = runs_dir / "sweeps" / "lr"
    write_study(folder)
    with sqlite3.connect(folder / "study.db") as database:
        database.execute(f"UPDATE {table} SET {column} = ?", (value,))
    with pytest.raises(UserError) as caught:
        read_study(f"sqlite:///{folder / 'study.db'}", "lr")
    assert "\n" not in str(caught.value)
    [sweep], _ = read_sweeps(runs_dir, read_runs(runs_dir).records)
    assert [trial.state for trial in sweep.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["q?x", "a%20b", "%s{0}", "{SCHEMA_VERSION}", "#x", "a b;c", "K\u00e4fer"])
def test_a_sweep_may_have_any_name_of_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    (tmp_path / "sweeps" / name).mkdir(parents=True)
    path = tmp_path / "sweeps" / name / "study.db"
    optuna.create_study(storage=open_storage(url_of_file(path)), study_name=name).set_user_attr("sweep", CONTENT)
    (path.parent / "sweep.yaml").write_text(json.dumps(CONTENT))
    before = sorted(tmp_path.rglob("*"))
    assert read_sweep(name).content == CONTENT
    [sweep], _ = read_sweeps(tmp_path)
    assert (sweep.name, sweep.trials) == (name, ())
    assert read_study(url_of_file(path, mode="ro", uri="true"))[0] == CONTENT
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("config", "varies"), [({"values": None}, True), ({"values": [1]}, False), (None, False)])
def test_what_varies_is_told_of_odd_entries_too(config, varies):
    assert is_varied(config) == varies


def test_without_a_database_further_metrics_have_their_values_of_the_best_epoch(runs_dir):
    folder = runs_dir / "sweeps" / "several"
    content = {
        "metrics": [{"name": "val/loss"}, {"name": "speed", "goal": "maximize"}],
        "parameters": {"lr": {"min": 0}},
    }
    for number, speeds in enumerate([(5.0, 6.0, 7.0), (1.0, 2.0, 9.0)]):
        run = write_run(folder / f"00{number}-x", [0.9, 0.5 + number, 0.8 + number])
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        told = [row | {"speed": speed} for row, speed in zip(rows, speeds, strict=True)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    (folder / "sweep.yaml").write_text(json.dumps(content))
    [sweep] = [each for each in read_sweeps(runs_dir, read_runs(runs_dir).records).sweeps if each.name == "several"]
    assert [(trial.value, trial.objectives) for trial in sweep.trials] == [(0.5, {"speed": 6.0}), (0.9, {"speed": 1.0})]
    assert sweep.front == [sweep.trials[0]]


def test_a_summary_has_a_further_metric_of_the_best_epoch_only_where_that_is_the_epoch_it_tells_of():
    """Of W&B's runs, whose curves a list of sweeps does not ask for."""
    metrics = [Metric("val/loss"), Metric("val/accuracy", "maximize")]
    summary = {"val/loss": 0.5, "val/accuracy": 0.9, "best_epoch": 3}
    for best, expected in (({}, 0.9), ({"best": {"val/loss": {"value": 0.4, "epoch": 2}}}, None)):
        url = "https://wandb.ai/e/p/runs/x"
        record = RunRecord("x", url, "s", "finished", datetime.now(UTC), "", "", (), {}, {**summary, **best}, {})
        [trial] = trials_of([record], [(Curve(), Curve())], metrics)
        assert trial.objectives == {"val/accuracy": expected}
