"""A trace of some steps."""

import gzip
import json

import pytest

from models.core.profiler import SKIPPED, TRACE
from tests.models.core.test_step_log import make_trainer, train


@pytest.mark.parametrize(("asked", "recorded"), [(2, 2), (100, 11 - SKIPPED)])
def test_the_trace_holds_the_steps_that_were_asked_for_within_the_epoch(asked, recorded, tmp_path):
    trainer = make_trainer(f"--profile={asked}", f"--runs_dir={tmp_path}", "--run_id=a", "--epochs=2")
    train(trainer, 2)
    with gzip.open(tmp_path / "a" / TRACE, "rt") as file:
        events = json.load(file)["traceEvents"]
    steps = [event for event in events if event.get("name", "").startswith("Optimizer.step#")]
    assert len(steps) == recorded


def test_no_trace_is_written_unless_it_is_asked_for(tmp_path):
    train(make_trainer(f"--runs_dir={tmp_path}", "--run_id=a"))
    assert not (tmp_path / "a" / TRACE).exists()
