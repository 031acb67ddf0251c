"""A trace of some steps."""

import gzip
import json

import pytest

from data.errors import UserError
from models.core.profiler import SKIPPED, TRACE
from tests.models.core.test_step_log import make_trainer, train


def num_steps(trace):
    """How many steps a trace holds."""
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    return sum(event.get("name", "").startswith("Optimizer.step#") for event in events)


@pytest.mark.parametrize(("asked", "recorded"), [(2, 2), (100, 11 - SKIPPED)])
def test_the_trace_holds_the_steps_that_were_asked_for_within_the_epoch(asked, recorded, tmp_path):
    trainer = make_trainer(f"--profile={asked}", f"--runs_dir={tmp_path}", "--run_id=a", "--epochs=2")
    train(trainer, 2)
    assert num_steps(tmp_path / "a" / TRACE) == recorded


def test_steps_of_the_second_epoch_are_recorded_where_the_first_ends_before_them(tmp_path):
    words = ("--profile=3", "--epochs=2", f"--limit_batches={SKIPPED}")
    train(make_trainer(*words, f"--runs_dir={tmp_path}", "--run_id=a"), 2)
    assert num_steps(tmp_path / "a" / TRACE) == 3


def test_a_run_that_is_stopped_in_its_first_epoch_leaves_the_trace_of_what_it_did(tmp_path):
    trainer = make_trainer("--profile=100", f"--runs_dir={tmp_path}", "--run_id=a")

    class StopAfterEight:
        def __bool__(self):
            return trainer.progress.step >= 8

    assert not trainer.train_epoch(StopAfterEight())
    assert num_steps(tmp_path / "a" / TRACE) == 8 - SKIPPED


def test_a_run_of_fewer_steps_than_are_passed_over_is_refused():
    with pytest.raises(UserError, match="--profile=2 records from step 6 on, and the run has 5: give it more --epochs"):
        make_trainer("--profile=2", "--epochs=1", "--limit_batches=5")
    make_trainer("--profile=2", "--epochs=2", "--limit_batches=3")


def test_no_trace_is_written_unless_it_is_asked_for(tmp_path):
    train(make_trainer(f"--runs_dir={tmp_path}", "--run_id=a"))
    assert not (tmp_path / "a" / TRACE).exists()
