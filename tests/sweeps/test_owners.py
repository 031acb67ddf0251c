"""Which agent holds which trial, and whether a process still runs where the system hides it, as with hidepid."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from sweeps.local.claims import CLAIMS, Claims, TrialLost
from sweeps.local.owners import is_alive_here, place

READ, KILL = Path.read_text, os.kill
HIDDEN = [FileNotFoundError, PermissionError]  # by hidepid=2 and by hidepid=1


@pytest.fixture(params=HIDDEN)
def of_another_user(request, monkeypatch):
    """The name of an agent that lives, and belongs to another user."""
    pid = os.getppid()

    def read(path, *arguments, **options):
        if path == Path(f"/proc/{pid}/stat"):
            raise request.param(path)
        return READ(path, *arguments, **options)

    def kill(number, signal):
        if number == pid:
            raise PermissionError
        KILL(number, signal)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(os, "kill", kill)
    return json.dumps([socket.gethostname(), place(), pid, 1])


def test_of_a_process_that_is_hidden_it_is_not_known_whether_it_is_the_one(of_another_user):
    assert is_alive_here(of_another_user) is None


def test_an_agent_that_is_hidden_holds_its_trial_as_long_as_its_beat_changes(of_another_user, monkeypatch):
    monkeypatch.setattr("sweeps.local.claims.SECONDS_TO_BE_MISSED", -1.0)  # at once
    claims = Claims(create_engine("sqlite://"))
    CLAIMS.create(claims.engine)
    with claims.engine.begin() as connection:
        connection.execute(CLAIMS.insert().values(trial_id=1, owner=of_another_user, beat=0))
    assert not claims.is_idle(claims.of(1))
    with claims.engine.begin() as connection:
        connection.execute(CLAIMS.update().values(beat=1))
    assert not claims.is_idle(claims.of(1))
    assert claims.is_idle(claims.of(1))


@pytest.fixture
def two_agents():
    engine = create_engine("sqlite://")
    CLAIMS.create(engine)
    one, other = Claims(engine), Claims(engine)
    other.owner = "another"
    return one, other


def test_of_agents_that_saw_the_same_claim_one_takes_it(two_agents):
    one, other = two_agents
    assert [one.take(1, None), other.take(1, None)] == [True, False]
    one.release(1)
    seen = one.of(1)
    assert other.is_idle(seen)
    assert [other.take(1, seen), one.take(1, seen)] == [True, False]


def test_a_claim_that_has_beaten_since_it_was_seen_is_not_taken(two_agents):
    one, other = two_agents
    one.take(1, None)
    seen = other.of(1)
    one.beat()
    assert not other.take(1, seen)


def test_a_claim_that_its_own_agent_has_renewed_is_not_taken(two_agents):
    one, other = two_agents
    one.take(1, None)
    seen = other.of(1)
    assert [one.take(1, seen), other.take(1, seen)] == [True, False]


def test_an_agent_beats_holds_and_releases_its_own_trials_alone(two_agents):
    for trial, agent in enumerate(two_agents):
        agent.take(trial, None)
    one, other = two_agents
    assert one.beat() == {0}
    assert [one.of(trial).beat for trial in (0, 1)] == [1, 0]
    with pytest.raises(TrialLost):
        one.hold(1)
    one.release(1)
    other.hold(1)
    one.release(0)
    assert one.owned() == {1}


def test_what_is_cleared_can_be_taken_or_was_never_claimed_and_other_claims_stay(two_agents):
    one, other = two_agents
    for trial in range(3):
        one.take(trial, None)
    other.clear([0], [1])
    assert [one.of(0).owner, one.of(1), one.of(2).owner] == ["", None, one.owner]


def test_a_process_that_has_ended_is_dead(monkeypatch):
    with subprocess.Popen(["true"]) as ended:
        pass
    assert is_alive_here(json.dumps([socket.gethostname(), place(), ended.pid, 1])) is False
