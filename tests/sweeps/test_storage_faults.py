"""Agents whose storage goes away, and passwords that must not be seen."""

import json
import os
import signal
import subprocess
import time
from collections import Counter

import psutil
import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from data.errors import UserError
from data.internals import report_values
from sweeps.local.contract import with_best_by
from sweeps.local.owners import OWNER_VARIABLE, is_alive_here, owner_name, start_of
from sweeps.local.sweep_file import parse_sweep
from sweeps.local.trials import Trials
from tests.forks import FORKS, start_forks
from tests.sweep_agents import (
    PROGRAM,
    TIMEOUT_SECONDS,
    settings_after_a_time,
    wait_until,
)
from tests.sweeps.test_storage import OTHER_MACHINE, QUICK, SLOW, THIS_MACHINE, postgresql, server  # noqa: F401


@pytest.mark.slow
def test_a_signal_ends_an_agent_whose_database_is_away(server, stage, postgresql):
    command = (stage.write(parameters={**SLOW, "epochs": 1000}), "--count=2", f"--storage={postgresql}", "--workers=2")
    agent = stage.start(*command, patches=QUICK)
    stage.wait_for("epoch", 4)
    server.stop()
    try:
        wait_until(lambda: "the storage does not answer" in agent.output, "the agent finds out")
        agent.signal(signal.SIGTERM)
        stage.wait_for_no_process(10)  # they have saved their state meanwhile
        assert [row["state"] for row in stage.journal("end")] == ["stopped", "stopped"]
        assert agent.wait(15) == 1
        assert len(agent.errors.splitlines()) == 1
        assert agent.errors.startswith("agent.py: the storage does not answer: ")
    finally:
        server.start()


# Passwords.


@pytest.fixture
def secured(server):
    """Address of a database that asks for a password, without it."""
    url = server.new_database()
    name = url.rpartition("/")[2]
    with server.connect() as connection:
        connection.execute(f"CREATE ROLE {name}_user LOGIN PASSWORD 'SECRET'")
        connection.execute(f"ALTER DATABASE {name} OWNER TO {name}_user")
        connection.execute(f"GRANT CREATE ON SCHEMA public TO {name}_user")
        rules = server.folder / "data" / "pg_hba.conf"
        rules.write_text(f"host {name} {name}_user 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        connection.execute("SELECT pg_reload_conf()")
    return f"postgresql+psycopg://{name}_user@127.0.0.1:{server.port}/{name}"


@pytest.mark.slow
def test_a_password_is_asked_for(stage, secured):
    done = stage.run(stage.write(), "--count=1", f"--storage={secured}", code=2)
    assert "cannot be reached" in done.errors
    assert len(done.errors.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["before the host", "in the query"])
def test_a_password_in_the_address_is_never_printed(stage, secured, form):
    given = secured.replace("@", ":SECRET@") if form == "before the host" else f"{secured}?password=SECRET"
    agent = stage.start(stage.write(parameters=SLOW), "--count=1", "--storage", given)
    stage.wait_for("epoch", 1)
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 143
    assert "paused; to go on: python sweeps/agent.py sweep.yaml --count=1 --storage" in agent.output
    assert "***" in agent.output
    assert "SECRET" not in agent.output + agent.errors
    refused = stage.run("other", f"--storage={given}", program="final", code=2)
    gone = stage.run("sweep", f"--storage={given.replace('127.0.0.1', '127.0.0.9')}", program="final", code=2)
    assert "cannot be reached" in gone.errors
    assert "SECRET" not in refused.errors + gone.errors + refused.output + gone.output


@pytest.mark.slow
@pytest.mark.parametrize("way", ["PGPASSWORD", "a service file"])
def test_the_password_can_be_left_out_of_the_address(stage, secured, way):
    url, environment = secured, {"PGPASSWORD": "SECRET"}
    if way == "a service file":
        user, _, place = secured.partition("//")[2].partition("@")
        host, _, name = place.partition("/")
        lines = ["[sweeps]", f"host={host.partition(':')[0]}", f"port={host.partition(':')[2]}", f"dbname={name}"]
        (stage.folder / "services").write_text("\n".join([*lines, f"user={user}", "password=SECRET", ""]))
        url, environment = "postgresql+psycopg:///?service=sweeps", {"PGSERVICEFILE": str(stage.folder / "services")}
    done = stage.run(stage.write(), "--count=1", f"--storage={url}", environment=environment)
    assert "1 trial: 1 finished" in done.output


# Who gets which trial.

NUM_RACERS = 5
COUNT = 12


def parsed_sweep():
    parameters = {"lr": {"min": 0.0, "max": 1.0}}
    return parse_sweep(
        {"program": str(PROGRAM), "method": "random", "metric": {"name": "val/loss"}, "parameters": parameters}
    )


def race(url, barrier, results):
    """Take all trials there are; leave some; take what the others have left."""
    barrier.wait(TIMEOUT_SECONDS)
    trials = Trials(url, parsed_sweep(), "race", seed=1)  # they all make the tables
    barrier.wait(TIMEOUT_SECONDS)
    first = take_all(trials, [])
    barrier.wait(TIMEOUT_SECONDS)
    left = first[::2]
    for claim in left:
        trials.claims.release(claim.trial_id)
    barrier.wait(TIMEOUT_SECONDS)
    second = take_all(trials, first[1::2])
    results.put([[claim.number for claim in claims] for claims in (first, left, second)])
    barrier.wait(TIMEOUT_SECONDS)  # nobody is dead before all have taken


def take_all(trials, kept):
    claims, num_in_vain = [], 0
    while num_in_vain < 5:
        claim = trials.take(COUNT, {claim.trial_id for claim in [*kept, *claims]})
        if claim is None:
            num_in_vain += 1
        else:
            claims.append(claim)
    return claims


def test_a_trial_that_the_database_went_away_with_is_taken_again(tmp_path, monkeypatch):
    trials = Trials(f"sqlite:///{tmp_path / 'study.db'}", parsed_sweep(), "sweep", seed=1)
    monkeypatch.setattr(trials, "prepare", lambda trial: 1 / 0)  # after it was claimed
    with pytest.raises(ZeroDivisionError):
        trials.take(1)
    monkeypatch.undo()
    claim = trials.take(1)
    assert claim is not None
    assert claim.number == 0
    assert trials.take(1, [claim.trial_id]) is None


def test_a_trial_goes_on_with_the_settings_that_it_began_with(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    begun = Trials(url, parsed_sweep(), "sweep", seed=1).take(1)
    assert begun is not None
    assert "best_by" not in begun.settings  # as before the setting was there
    trials = Trials(url, with_best_by(parsed_sweep()), "sweep", seed=1)
    trials.claims.release(begun.trial_id)
    paused = trials.take(2)
    assert paused is not None
    fresh = trials.take(2, [paused.trial_id])
    assert fresh is not None
    assert (paused.number, paused.settings) == (0, begun.settings)
    assert (fresh.number, fresh.settings["best_by"]) == (1, "val/loss")


def test_a_run_id_of_the_database_that_leads_elsewhere_is_not_run(tmp_path):
    trials = Trials(f"sqlite:///{tmp_path / 'study.db'}", parsed_sweep(), "sweep", seed=1)
    claim = trials.take(1)
    assert claim is not None
    claim.trial.set_user_attr("run_id", "../evil")
    trials.claims.release(claim.trial_id)
    with pytest.raises(UserError, match="no plain name"):
        trials.take(1)


def test_a_live_agent_is_told_from_a_dead_one_though_the_clock_is_set(tmp_path, monkeypatch):
    trials = Trials(f"sqlite:///{tmp_path / 'study.db'}", parsed_sweep(), "sweep", seed=1)
    host, boot, pid, start = json.loads(trials.claims.owner)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: time.time() + 3600)  # the clock was set
    assert is_alive_here(trials.claims.owner) is True
    assert is_alive_here(json.dumps([host, boot, pid, start - 1])) is False
    assert is_alive_here(json.dumps([host, boot, 2**22 + 1, start])) is False
    assert is_alive_here(json.dumps([host, "another boot", pid, start])) is None
    assert is_alive_here(json.dumps(["other", boot, pid, start])) is None


def test_an_agent_that_has_ended_and_whose_parent_has_not_noticed_is_dead():
    ended = subprocess.Popen(["true"])
    host, boot, _, _ = json.loads(owner_name())
    start = wait_until(lambda: start_of(ended.pid) or 1, "it starts")
    wait_until(lambda: start_of(ended.pid) is None, "it ends")
    assert is_alive_here(json.dumps([host, boot, ended.pid, start])) is False
    ended.wait()


def test_what_a_living_agent_runs_is_not_killed_by_one_that_takes_it_for_dead(tmp_path, monkeypatch):
    trials = Trials(f"sqlite:///{tmp_path / 'study.db'}", parsed_sweep(), "sweep", seed=1)
    monkeypatch.setattr("sweeps.local.trials.SECONDS_TO_SAVE", 0.0)
    mother = subprocess.Popen(["sleep", "60"])
    host, boot, _, _ = json.loads(owner_name())
    agent = json.dumps([host, boot, mother.pid, start_of(mother.pid)])
    run = subprocess.Popen(["sleep", "60"], env={**os.environ, "WANDB_RUN_ID": "000-abc", OWNER_VARIABLE: agent})
    try:
        wait_until(lambda: trials.is_still_ending("000-abc"), "it is up")
        time.sleep(0.1)
        assert trials.is_still_ending("000-abc")
        assert run.poll() is None
        mother.kill()
        mother.wait()
        wait_until(lambda: not trials.is_still_ending("000-abc") and run.poll() is not None, "the orphan is killed", 5)
    finally:
        for process in (mother, run):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_an_agent_that_is_busy_with_a_proposal_keeps_its_trials(stage, postgresql):
    parameters = {"epochs": 70, "seconds": 0.1}
    command = (stage.write(parameters=parameters), "--count=2", f"--storage={postgresql}")
    busy = {**QUICK, **OTHER_MACHINE, "sweeps.local.trials.settings_of": settings_after_a_time}
    one = stage.start(*command, "--workers=2", patches=busy)
    stage.wait_for("epoch", 1)
    two = stage.start(*command, "--workers=2", patches={**QUICK, **THIS_MACHINE})
    assert [one.wait(), two.wait()] == [0, 0], one.errors + two.errors
    assert list(stage.starts().values()) == [1, 1]
    assert "another agent" not in one.output


@pytest.mark.slow
def test_thousands_of_logged_values_are_stored_in_one_transaction(tmp_path):
    trials = Trials(f"sqlite:///{tmp_path / 'study.db'}", parsed_sweep(), "sweep", seed=1)
    claim = trials.take(1)
    assert claim is not None
    commits = []
    sqlalchemy.event.listen(trials.claims.engine, "commit", commits.append)
    report_values(claim.trial, {step: 1 / step for step in range(1, 3001)})
    assert len(commits) == 1
    report_values(claim.trial, {3000: 9.0, 3001: 0.5})  # the first was stored, but the answer was lost
    [trial] = trials.all()
    assert trial.intermediate_values == {step: 1 / step for step in range(1, 3001)} | {3001: 0.5}
    trials.end(claim, TrialState.COMPLETE, {})
    with pytest.raises(UpdateFinishedTrialError):
        report_values(claim.trial, {3002: 0.5})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_trial_never_has_two_owners_and_there_are_never_too_many(kind, tmp_path, request):
    url = f"sqlite:///{tmp_path / 'study.db'}" if kind == "sqlite" else request.getfixturevalue("postgresql")
    barrier, results = FORKS.Barrier(NUM_RACERS), FORKS.Queue()
    racers = [FORKS.Process(target=race, args=(url, barrier, results)) for _ in range(NUM_RACERS)]
    start_forks()
    for racer in racers:
        racer.start()
    found = [results.get(timeout=TIMEOUT_SECONDS) for _ in racers]
    for racer in racers:
        racer.join(TIMEOUT_SECONDS)
    assert [racer.exitcode for racer in racers] == [0] * NUM_RACERS
    first, left, second = (Counter(number for racer in found for number in racer[i]) for i in range(3))
    assert first == dict.fromkeys(range(COUNT), 1)
    assert second == left
    assert sum(bool(racer[0]) for racer in found) > 1  # else it was no race
