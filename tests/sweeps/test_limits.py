"""Trials that crash, hang, or take too long."""

import os
import signal

import pytest
from optuna.trial import TrialState

from data.metrics import Best
from sweeps.local.agent import Agent
from sweeps.local.device_memory import DeviceMemory
from sweeps.local.display import Display
from sweeps.local.limits import Limits
from sweeps.local.repeats import notes_of
from sweeps.local.trials import Trials
from tests.sweep_agents import num_bytes_free
from tests.sweep_helpers import LR, sweep_of
from tests.sweeps.test_agent import SLOW

SHORT = "0.01"  # minutes
LONG = {"epochs": 1000, "seconds": 0.05}


class FakeRun:
    """A run of a trial that has taken so many seconds, and said nothing in the last of them."""

    def __init__(self, seconds, silent):
        self.seconds_in_all, self.seconds_silent = lambda: seconds, lambda: silent
        self.ends = []

    def end(self, reason, verdict):
        self.ends.append((reason, verdict.name))


@pytest.mark.parametrize(
    ("seconds", "silent", "ends"),
    [
        (179, 59, []),
        (181, 59, [("over its 3 minutes", "PRUNED")]),
        (179, 61, [("silent for 1 minutes", "FAIL")]),
        (181, 61, [("over its 3 minutes", "PRUNED")]),
    ],
)
def test_a_run_is_ended_for_good_once_it_is_over_a_limit(seconds, silent, ends):
    run = FakeRun(seconds, silent)
    Limits(trial_minutes=3, silent_minutes=1).enforce(run)
    Limits().enforce(run)
    assert run.ends == ends


def test_after_the_failure_that_ends_a_sweep_no_trial_is_claimed_any_more(tmp_path, monkeypatch):
    sweep = sweep_of({"lr": LR})
    trials = Trials(f"sqlite:///{tmp_path}/study.db", sweep, "s", seed=0)
    agent = Agent(trials, tmp_path, Limits(), DeviceMemory([{}]), Display(sweep, "s", None, 1))

    def refuse(claim, slot):
        raise ValueError("its settings are refused")

    monkeypatch.setattr(agent, "start", refuse)
    agent.fill_slots()
    assert agent.failure == "the first 3 trials failed, none logged a val/loss"
    assert [trial.state.name for trial in trials.all()] == ["FAIL"] * 3


@pytest.mark.slow
def test_a_crash_is_tried_again_from_the_checkpoint_as_often_as_asked(stage):
    crash = {"crashing": "0,1", "crash_times": 2, "crash_epoch": 3, "epochs": 4}
    done = stage.run(stage.write(parameters=crash), "--count=2", "--retries=2", "--workers=2")
    assert stage.states() == ["COMPLETE"] * 2
    assert list(stage.starts().values()) == [3, 3]
    assert stage.disorder() == []
    assert done.output.count("failed (exit code 1), is tried again") == 4
    stage.run(stage.write("other", parameters=crash), "--count=1", "--retries=1", code=1)
    assert stage.states("other") == ["FAIL"]


@pytest.mark.slow
def test_settings_that_a_program_refuses_are_not_tried_again(stage):
    stage.run(stage.write(parameters={"cut_code": 2, "cut_epoch": 1}), "--count=1", "--retries=3", code=1)
    assert stage.states() == ["FAIL"]
    assert list(stage.starts().values()) == [1]


@pytest.mark.slow
def test_a_trial_over_its_minutes_is_saved_and_counts_as_stopped_early_with_its_best_value(stage):
    done = stage.run(stage.write(parameters=LONG), "--count=1", f"--trial_minutes={SHORT}")
    [trial] = stage.trials()
    assert trial.state.name == "PRUNED"
    assert trial.user_attrs["ending"] == f"over its {SHORT} minutes"
    assert trial.user_attrs["best"] == min(trial.intermediate_values.values())
    assert [row["state"] for row in stage.journal("end")] == ["stopped"]
    assert f"trial 0 over its {SHORT} minutes: epoch" in done.output
    assert "1 trial: 1 stopped early" in done.output


@pytest.mark.slow
def test_the_minutes_of_all_starts_count_together(stage):
    file = stage.write(parameters={**LONG, "seconds": 0.1})
    agent = stage.start(file, "--count=1", "--trial_minutes=0.03")
    stage.wait_for("epoch", 1, epoch=8)
    agent.signal(signal.SIGINT)
    assert agent.wait() == 130
    stage.run(file, "--count=1", "--trial_minutes=0.03")
    [trial] = stage.trials()
    assert trial.state.name == "PRUNED"
    assert 1.8 < trial.user_attrs["seconds"] < 3.5


@pytest.mark.slow
def test_a_trial_over_its_minutes_without_a_value_has_failed(stage):
    stage.run(stage.write(parameters={"hanging": "0"}), "--count=2", f"--trial_minutes={SHORT}")
    assert stage.states() == ["FAIL", "COMPLETE"]
    assert stage.trials()[0].user_attrs["error"].startswith(f"over its {SHORT} minutes, it logged no val/loss")


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [False, True])
def test_a_silent_trial_is_stopped_and_has_failed_and_the_sweep_goes_on(stage, deaf):
    parameters = {"hanging": "0", **({"ignoring": "0"} if deaf else {})}
    soon = {"sweeps.local.launch.SECONDS_TO_SAVE": 0.3}
    done = stage.run(stage.write(parameters=parameters), "--count=2", f"--silent_minutes={SHORT}", patches=soon)
    assert stage.states() == ["FAIL", "COMPLETE"]
    assert stage.trials()[0].user_attrs["error"].startswith(f"silent for {SHORT} minutes")
    assert f"trial 0 failed: silent for {SHORT} minutes" in done.output
    assert len(stage.journal("end")) == (1 if deaf else 2)
    assert stage.processes() == []


@pytest.mark.slow
def test_failed_trials_are_tried_again_with_their_numbers_settings_and_checkpoints(stage):
    crash = {"crashing": "0,2", "crash_times": 1, "crash_epoch": 3, "epochs": 4}
    file = stage.write(parameters=crash)
    stage.run(file, "--count=3")
    before = stage.trials()
    assert stage.states() == ["FAIL", "COMPLETE", "FAIL"]
    assert "3 trials: 1 finished, 2 failed" in stage.run(file, "--count=3").output
    again = stage.run(file, "--count=3", "--retry-failed")
    assert "2 failed trials to be tried again" in again.output
    assert stage.states() == ["COMPLETE"] * 3
    assert list(stage.starts().values()) == [2, 1, 2]
    assert [trial.params for trial in stage.trials()] == [trial.params for trial in before]
    assert [trial.user_attrs["run_id"] for trial in stage.trials()] == [trial.user_attrs["run_id"] for trial in before]
    assert [len(trial.intermediate_values) for trial in stage.trials()] == [4] * 3
    assert stage.disorder() == []
    assert "0 failed trials to be tried again" in stage.run(file, "--count=3", "--retry-failed").output


@pytest.mark.slow
def test_what_is_stopped_from_outside_goes_on_whatever_its_exit_code(stage):
    none_free = {"sweeps.local.faults.free_bytes": num_bytes_free}
    agent = stage.start(stage.write(parameters={**SLOW, "stop_code": 143}), "--count=1", patches=none_free)
    [under_way] = stage.wait_for("epoch", 1, epoch=3)
    os.kill(under_way["pid"], signal.SIGTERM)
    assert agent.wait() == 0, agent.output + agent.errors
    assert "cut short (exit code 143), goes on" in agent.output
    assert stage.states() == ["COMPLETE"]
    assert stage.disorder() == []


@pytest.mark.slow
def test_a_sweep_keeps_the_weights_of_its_best_trials_alone(stage):
    lrs = {"values": [0.1, 0.001, 0.01, 0.0001]}
    file = stage.write(method="grid", parameters={"lr": lrs, "epochs": 1, "crashing": "3", "crash_times": 1})
    stage.run(file, "--keep_weights=1")
    assert stage.states() == ["COMPLETE"] * 3 + ["FAIL"]
    kept = [path.parent.name[:3] for path in sorted(stage.sweep().glob("*/checkpoint.pt"))]
    assert kept == ["001"]
    stage.run(file, "--keep_weights=0", "--retry-failed")
    assert list(stage.sweep().glob("*/checkpoint.pt")) == []


def test_of_a_trial_that_ends_in_its_second_seed_the_weights_of_both_runs_go(tmp_path):
    sweep = sweep_of({"lr": LR}, repeats=3)
    trials = Trials(f"sqlite:///{tmp_path}/study.db", sweep, "s", seed=0)
    claim = trials.take(None)
    claim.trial.report(0.5, 1)
    runs = [tmp_path / name for name in (claim.run_id, f"{claim.run_id}-s2")]
    for run in runs:
        run.mkdir()
        for name in ("best.pt", "checkpoint.pt"):
            (run / name).touch()
    trials.end(claim, TrialState.PRUNED, {"ending": "over its minutes", **notes_of([Best(0.5, 1)], sweep.metric)})
    limits = Limits(count=2, keep_weights=0)
    Agent(trials, tmp_path, limits, DeviceMemory([{}]), Display(sweep, "s", 2, 1)).thin_out_weights()
    assert [list(run.glob("*.pt")) for run in runs] == [[], []]
