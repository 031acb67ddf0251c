"""Agents that promote trials from rung to rung: which go on, whatever is killed meanwhile, and how a sweep ends."""

import json
import math
import os
import signal
import sys

import pytest

from analysis.read.sweeps import read_sweep
from analysis.record import run_folder
from data.metrics import Metric
from sweeps.local.trial_run import last_epoch_until
from tests.sweep_agents import wait_until

ASHA = {"type": "asha", "min_iter": 1, "eta": 3}
# The nearer to 0.001, the better: of the nine, 4 is the best, then 2 and 6.
RATES = [1e-5, 3e-5, 5e-4, 1e-1, 1e-3, 3e-2, 2e-3, 5e-2, 9e-2]
GRID = {"lr": {"values": RATES}, "epochs": 9, "seconds": 0.01}

# A program whose metric comes every few epochs, as FID does.
SPARING = """
import json, os, pathlib, sys
told = dict(word[2:].split("=") for word in sys.argv[1:])
folder = pathlib.Path(os.environ["VISION_SWEEPS_RUNS"], os.environ["WANDB_RUN_ID"])
log = folder / "metrics.jsonl"
rows = log.read_text().splitlines() if log.exists() else []
epochs, last = int(told["epochs"]), int(os.environ.get("VISION_SWEEPS_STOP_AFTER", 0))
for epoch in range(len(rows) + 1, min(last or epochs, epochs) + 1):
    value = {"val/loss": float(told["lr"])} if epoch % int(told["every"]) == 0 else {}
    rows.append(json.dumps({"epoch": epoch, "lr": 0.1, **value}))
log.write_text("\\n".join(rows) + "\\n")
summary = {"state": "finished" if len(rows) == epochs else "stopped"}
(folder / "summary.json").write_text(json.dumps(summary))
"""


def write(stage, **parameters):
    return stage.write(method="grid", early_terminate=ASHA, parameters={**GRID, **parameters})


def epochs_of(stage, name="sweep"):
    """How many epochs each trial has logged."""
    return [len(trial.intermediate_values) for trial in stage.trials(name)]


@pytest.mark.slow
def test_each_trial_waits_at_the_first_rung_and_the_best_third_goes_on_without_an_epoch_trained_twice(stage):
    done = stage.run(write(stage))
    # Of three that have come, the best goes on: 2 at first, later 4; once all are there, 6 is among the best three.
    assert epochs_of(stage) == [1, 1, 3, 1, 9, 1, 3, 1, 1]
    assert stage.states() == ["RUNNING"] * 4 + ["COMPLETE"] + ["RUNNING"] * 4
    trained = [(row["run"][:3], row["epoch"]) for row in stage.journal("epoch")]
    assert len(trained) == len(set(trained)) == sum(epochs_of(stage))
    assert [stage.starts()[run] for run in sorted(stage.starts())] == [1, 1, 2, 1, 3, 1, 2, 1, 1]
    assert "9 trials: 1 finished, 8 waiting" in done.output
    assert "trial 4 goes on to 3: lr=0.001" in done.output
    assert "trial 2 waits at 3: epoch 3, best val/loss 0." in done.output


@pytest.mark.slow
def test_a_sweep_of_promotions_that_has_ended_ends_at_once_and_a_larger_count_promotes_more(stage):
    file = write(stage)
    stage.run(file, "--count=3")
    assert epochs_of(stage) == [1, 1, 9]  # no more will come: the best goes on to its end
    before = len(stage.journal())
    stage.run(file, "--count=3")
    assert len(stage.journal()) == before
    stage.run(file)
    assert epochs_of(stage) == [1, 1, 9, 1, 9, 1, 3, 1, 1]  # at 3, 4 is the best of three
    assert stage.disorder() == []


@pytest.mark.slow
def test_kills_of_trials_and_agents_at_rungs_lose_nothing_and_promote_none_twice(stage):
    file = write(stage, seconds=0.05)
    for num_epochs in (1, 3, 4, 7, 9, 12):
        agent = stage.start(file)
        wait_until(lambda num=num_epochs: len(stage.journal("epoch")) >= num, "trials are under way")
        agent.signal(signal.SIGKILL)
        agent.wait()
    agent = stage.start(file)
    [under_way] = stage.wait_for("epoch", 1, epoch=5)
    os.kill(under_way["pid"], signal.SIGKILL)
    assert agent.wait() == 0
    assert epochs_of(stage) == [1, 1, 3, 1, 9, 1, 3, 1, 1]
    assert stage.disorder() == []


@pytest.mark.slow
def test_agents_and_workers_share_the_promotions(stage):
    file = write(stage, seconds=0.05)
    agents = [stage.start(file, "--workers=2") for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0]
    assert stage.disorder() == []
    found = epochs_of(stage)
    assert found[4] == 9
    assert stage.states()[4] == "COMPLETE"
    assert found.count(3) >= 2  # as they come, others may be among the best three for a while
    assert all(num in (1, 3, 9) for num in found)


@pytest.mark.slow
def test_ctrl_c_pauses_and_the_same_command_goes_on_to_the_same_end(stage):
    file = write(stage, seconds=0.1)
    agent = stage.start(file)
    stage.wait_for("epoch", 1, epoch=2)
    agent.signal(signal.SIGINT)
    assert agent.wait() == 130
    assert "1 paused" in agent.output
    stage.run(file)
    assert epochs_of(stage) == [1, 1, 3, 1, 9, 1, 3, 1, 1]
    assert stage.disorder() == []


@pytest.mark.slow
def test_a_program_that_does_not_stop_by_itself_is_stopped_after_its_rung(stage):
    stage.run(write(stage, deaf="all", seconds=0.1), "--count=3")
    assert stage.states() == ["RUNNING", "RUNNING", "COMPLETE"]
    assert all(2 <= num < 9 for num in epochs_of(stage)[:2])
    assert stage.disorder() == []


@pytest.mark.slow
def test_an_epoch_without_a_finite_value_counts_for_no_rung(stage):
    done = stage.run(write(stage, jumping="0"), "--count=3")
    assert epochs_of(stage) == [1, 1, 9]
    assert stage.states() == ["RUNNING", "RUNNING", "COMPLETE"]
    assert len(run_folder.read_metrics(next(stage.sweep().glob("000-*")))) == 2
    assert "failed" not in done.output


@pytest.mark.slow
def test_checkpoints_go_of_trials_that_can_no_longer_be_promoted(stage):
    stage.run(write(stage), "--keep_weights=1")
    assert stage.states().count("PRUNED") == 8
    assert stage.trials()[0].user_attrs["ending"] == "not promoted"
    kept = [path.parent.name[:3] for path in stage.sweep().glob("*/checkpoint.pt")]
    assert kept == ["004"]
    assert epochs_of(stage) == [1, 1, 3, 1, 9, 1, 3, 1, 1]


@pytest.mark.slow
def test_final_runs_take_the_best_trial_of_a_sweep_of_promotions(stage, monkeypatch):
    stage.run(write(stage))
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(stage.runs_dir))
    assert [trial.number for trial in read_sweep("sweep").leaders[:3]] == [4, 2, 6]


@pytest.mark.slow
def test_waiting_trials_go_on_to_their_end_once_the_file_asks_for_no_promotions(stage):
    stage.run(write(stage), "--count=3")
    file = stage.write(method="grid", parameters=GRID)
    stage.run(file, "--count=3")
    assert stage.states() == ["COMPLETE"] * 3
    assert epochs_of(stage) == [9, 9, 9]
    assert stage.disorder() == []


@pytest.mark.slow
def test_the_median_rule_stops_a_trial_that_is_worse_than_finished_ones(stage):
    rule = {"type": "median", "min_iter": 2, "min_trials": 2}
    file = stage.write(
        method="grid",
        early_terminate=rule,
        parameters={"lr": {"values": [0.001, 0.002, 0.1]}, "epochs": 30, "seconds": 0.03},
    )
    stage.run(file)
    assert stage.states() == ["COMPLETE", "COMPLETE", "PRUNED"]


@pytest.mark.parametrize(
    ("until", "values", "last"),
    [
        (3, {}, 3),
        (3, {3: None}, 12),  # one comes every four epochs at the earliest
        (3, {10: 1.0, 12: None}, 30),
        (9, {10: 1.0, 20: 1.0, 30: 1.0}, 90),
        (3, {1: 1.0, 2: 1.0}, 3),
        (1, {1: math.nan}, 2),  # it comes every epoch, though it was no number
        (3, {1: math.nan, 2: 1.0}, 4),
        (3, {1: 1.0, 3: None}, 7),
        (3, {1: 1.0, 10: 1.0, 19: None}, 20),
        (2, {10: 1.0, 20: 1.0}, 20),
    ],
)
def test_a_run_is_to_stop_at_the_epoch_of_its_rungs_last_value(tmp_path, until, values, last):
    rows = [{"epoch": epoch + 1, "lr": 0.1} for epoch in range(max(values, default=0))]
    for epoch, value in values.items():
        rows[epoch - 1] |= {} if value is None else {"val/fid": value}
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert last_epoch_until(until, Metric("val/fid"), tmp_path) == last


@pytest.mark.slow
@pytest.mark.parametrize("every", [3, 10])
def test_trials_whose_metric_comes_every_few_epochs_wait_at_rungs_of_values(stage, every):
    (stage.folder / "sparing.py").write_text(SPARING)
    command, parameters = [sys.executable, "${program}", "${args}"], {**GRID, "epochs": 9 * every, "every": every}
    rule = {**ASHA, "min_iter": 3}
    file = stage.write(
        program="sparing.py", command=command, method="grid", early_terminate=rule, parameters=parameters
    )
    done = stage.run(file, "--count=3")
    assert epochs_of(stage) == [9, 3, 3]
    assert stage.states() == ["COMPLETE", "RUNNING", "RUNNING"]
    assert "goes on, with 0 of 3 values at epoch 3" in done.output or every == 3
    rows = [len(run_folder.read_metrics(folder)) for folder in sorted(stage.sweep().glob("0*"))]
    assert rows == [9 * every, 3 * every, 3 * every]  # no epoch beyond the rung
