"""The run of a trial: what a program logs, and what is noted of it."""

import json
import sys
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from analysis.read.sweeps import read_study
from data.metrics import Metric
from sweeps.local.trial_run import TrialRun
from sweeps.local.trials import Claim, Trials
from tests.sweep_helpers import LR, sweep_of

LOSS = {"val/loss": 0.5}


def opened(tmp_path):
    return Trials(f"sqlite:///{tmp_path}/study.db", sweep_of({"lr": LR}), "s", seed=0)


def run_that_logs(tmp_path, *rows, claim=None, code=""):
    """The run of a trial whose program has logged some rows."""
    claim = claim or Claim(SimpleNamespace(number=0), "000-a", {})
    folder = tmp_path / claim.run_id
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    fresh = SimpleNamespace(user_attrs={}, intermediate_values={})
    run = TrialRun(claim, [Metric("val/loss")], fresh, [sys.executable, "-c", code], tmp_path, {})
    for some in run.log:
        run.read(some)
    run.process.wait()
    return run


@pytest.mark.parametrize(
    ("row", "epoch"),
    [
        ({"epoch": 0.5}, 0.5),
        ({"epoch": 4}, 4),
        ({}, 1),  # its values are counted
        ({"epoch": None}, 1),
        ({"epoch": "first"}, 1),
        ({"epoch": 4, "peak_memory_gib": 2}, 4),
    ],
)
def test_a_study_is_read_again_whatever_numbers_its_program_logs(tmp_path, row, epoch):
    trials = opened(tmp_path)
    claim = trials.take(None)
    claim.trial.report(0.5, 1)
    trials.end(claim, TrialState.COMPLETE, run_that_logs(tmp_path, {**LOSS, **row}, claim=claim).notes())
    [trial] = opened(tmp_path).all()
    assert (trial.user_attrs["best"], trial.user_attrs["best_epoch"]) == (0.5, epoch)
    assert type(trial.user_attrs.get("peak_gib", 2.0)) is float
    [trial] = read_study(f"sqlite:///{tmp_path}/study.db", "s")[1]
    assert (trial.value, trial.best_epoch) == (0.5, epoch)


def test_a_study_of_0_1_0_with_such_numbers_is_read(tmp_path):
    trials = opened(tmp_path)
    claim = trials.take(None)
    claim.trial.report(0.5, 1)
    trials.end(claim, TrialState.COMPLETE, {"seconds": 9.0, "peak_gib": 2, "best": 1, "best_epoch": 1.5})
    assert opened(tmp_path).take(None).number == 1
    assert read_study(f"sqlite:///{tmp_path}/study.db", "s")[1][0].best_epoch == 1.5


@pytest.mark.parametrize(
    ("rows", "epoch"),
    [
        ([{"epoch": 1, "lr": 0.1, **LOSS}, {"epoch": 1 + 1 / 3, "step": 4, "step/lr": 0.1}], 1),
        ([{"epoch": 1 / 3, "step": 1, "step/lr": 0.1}], 0),
        ([LOSS, LOSS, LOSS], 3),
        ([LOSS, {"train/loss": 1.0}], 1),
        ([{"epoch": 1, **LOSS}, {"epoch": 2, "train/loss": 1.0}], 2),
        ([{"epoch": 0.5, **LOSS}], 0.5),
    ],
)
def test_the_epoch_of_a_run_is_the_last_that_has_ended_or_the_number_of_its_values(tmp_path, rows, epoch):
    assert run_that_logs(tmp_path, *rows).epoch == epoch


@pytest.mark.parametrize(("summary", "is_tried_again"), [({}, True), ({"diverged": True}, False)], ids=str)
def test_a_trial_that_has_diverged_is_not_tried_again_since_it_would_do_so_again(tmp_path, summary, is_tried_again):
    run = run_that_logs(tmp_path, code="raise SystemExit(1)")
    (run.folder / "summary.json").write_text(json.dumps({"state": "failed", **summary}))
    (run.folder / "checkpoint.pt").touch()
    outcome = run.outcome(retries=2)
    assert (outcome.state is None) == is_tried_again
    assert is_tried_again == (outcome.notes.get("failures") == 1)


@pytest.mark.parametrize("num_notes", range(6))
def test_a_trial_that_begins_anew_is_told_what_its_run_was_begun_with_wherever_its_agent_is_killed(tmp_path, num_notes):
    trials = opened(tmp_path)
    claim = trials.take(None)
    run = run_that_logs(tmp_path, claim=claim)
    (run.folder / "settings.json").write_text('{"batch_size": 128, "accumulation_steps": 1}')
    notes = run.with_smaller_batches().notes
    assert len(notes) == 5
    trials.note(claim, dict(list(notes.items())[:num_notes]))
    trials.claims.release(claim.trial_id)
    again = opened(tmp_path).take(None)
    steps = again.settings.get("accumulation_steps", 1)
    assert steps == again.trial.user_attrs["settings"].get("accumulation_steps", 1)  # of which final runs learn
    assert steps == 1 or again.run_id != claim.run_id
    assert steps == 2 or num_notes < 5
