"""The reader of sweeps: their trials, from a database of their own or from their runs."""

from datetime import UTC, datetime, timedelta

import pytest

from analysis.read.runs import read_runs
from analysis.read.sweeps import read_sweeps
from data.files import write_json
from data.metrics import Metric
from tests.run_folders import write_study


@pytest.mark.slow
def test_a_sweep_has_its_trials_in_order_with_their_ends(runs_dir):
    folder = runs_dir / "sweeps" / "lr"
    write_study(folder)
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
