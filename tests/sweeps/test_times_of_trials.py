"""When trials began and ended, told by agents in other time zones."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from optuna.trial import TrialState

from analysis.read.sweeps import read_study
from sweeps.local.trials import Trials
from tests.sweep_helpers import sweep_of


@pytest.fixture
def zone(monkeypatch):
    """Take this machine into a time zone, and home again at the end."""

    def move(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("place", ["America/Los_Angeles", "UTC", "Asia/Tokyo"])
def test_trials_began_and_ended_when_their_agents_say_so_wherever_they_are_read(place, zone, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    zone(place)
    trials = Trials(url, sweep_of({"lr": {"min": 0.1, "max": 1.0}}), "s", seed=0)
    before = datetime.now(UTC)
    claim = trials.take(None)
    claim.trial.report(0.5, 1)
    trials.end(claim, TrialState.COMPLETE, {"best": 0.5})
    trials.take(None)
    after = datetime.now(UTC)
    zone("Europe/Berlin")
    _, (ended, running) = read_study(url, "s")
    assert before - timedelta(seconds=0.1) <= ended.started <= ended.ended <= running.started <= after
    assert running.ended is None
