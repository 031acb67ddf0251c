"""The trials of a sweep in a database, shared by any number of agents so that each trial is run by one of them.

Optuna keeps what was tried and what came of it. A trial is RUNNING there from its first claim to its end, paused or
not; whose it is at the moment stands in a table of our own, which agents change by compare-and-set.
"""

import json
import os
import socket
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Row, select
from sqlalchemy.exc import IntegrityError

from analysis.read.wandb_runs import TrialRecord
from analysis.record.tracker import fresh_run_id
from data.errors import UserError
from sweeps.local.launch import SECONDS_TO_SAVE, processes_of
from sweeps.local.search import Search, settings_of
from sweeps.local.storage import CLAIMS, address_of, open_storage
from sweeps.local.sweep_file import Sweep, parse_metric

SECONDS_TO_BE_MISSED = 60.0  # an agent on another machine that has not beaten for so long is dead
SECONDS_OF_CLOCK_ADJUSTMENT = 30.0  # which moves the time at which a process seems to have begun
NOBODY = ""


class TrialLost(RuntimeError):
    """Another agent has taken the trial over."""


@dataclass
class Beat:
    """The last beat seen of another machine's agent, and when that was, by the own clock."""

    number: int
    seen: float


def owner_name() -> str:
    """This process, as it is told from all others on all machines."""
    return json.dumps([socket.gethostname(), boot_id(), os.getpid(), psutil.Process().create_time()])


def boot_id() -> str:
    """Tells machines of one name apart, and containers of one machine, which do not see each other's processes."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return f"{path.read_text().strip()} {os.readlink('/proc/self/ns/pid')}" if path.exists() else ""


def is_alive_here(owner: str) -> bool | None:
    """Whether an agent of this machine still runs; None for an agent of another."""
    host, boot, pid, created = json.loads(owner)
    if (host, boot) != (socket.gethostname(), boot_id()):
        return None
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - created) < SECONDS_OF_CLOCK_ADJUSTMENT
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Claim:
    """A trial that this agent runs.

    Attributes:
        trial: Optuna's handle.
        run_id: name of its run folder, the same after a pause.
        settings: what train.py is told, constants included.
    """

    trial: Trial
    run_id: str
    settings: Mapping[str, Any]

    @property
    def number(self) -> int:
        """The trial's number in its sweep, from 0."""
        return self.trial.number


class Trials:
    """A sweep's trials, as one agent sees them.

    Args:
        url: SQLAlchemy's address of the database, which is made where it is a file.
        sweep: what is searched.
        name: of the sweep in the database.
        seed: of the search.

    Raises:
        UserError: the database cannot be reached, or holds another sweep of that name.
    """

    def __init__(self, url: str, sweep: Sweep, name: str, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sweep = sweep
        self.owner = owner_name()
        storage = open_storage(url)
        self.engine = storage.engine
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction=sweep.metric.goal,
            sampler=Search(sweep, seed),
            load_if_exists=True,
        )
        content = json.loads(json.dumps(sweep.content))
        known = self.study.user_attrs.get("sweep", content)
        if changed := sorted(key for key in {**known, **content} if known.get(key) != content.get(key)):
            raise UserError(f"sweep {name} was begun with another {', '.join(changed)}: give another --name")
        self.study.set_user_attr("sweep", content)
        self.beats: dict[int, Beat] = {}  # of other machines' agents, by trial id
        self.ending: dict[str, float] = {}  # when a run was first seen that a dead agent has left behind

    def all(self) -> list[FrozenTrial]:
        """Every trial so far."""
        return self.study.get_trials(deepcopy=False)

    def take(self, count: int | None, running: Collection[int] = ()) -> Claim | None:
        """A trial to run, now this agent's: one that nobody runs any more, else a new one.

        Args:
            count: trials of the whole sweep; None for any number.
            running: ids of those that this agent runs; others of its own were claimed when the database went away.
        """
        trials = self.all()
        with self.engine.begin() as connection:
            claims = {row.trial_id: row for row in connection.execute(select(CLAIMS))}
        for trial in trials:
            if trial.state != TrialState.RUNNING or (count is not None and trial.number >= count):
                continue
            claim, run_id = claims.get(trial._trial_id), trial.user_attrs.get("run_id")
            is_idle = claim is None or claim.owner == NOBODY or self.is_dead(claim)
            is_forgotten = claim is not None and claim.owner == self.owner and trial._trial_id not in running
            if not is_idle and not is_forgotten:
                continue
            is_still_ending = run_id is not None and self.is_still_ending(run_id)
            if not is_still_ending and self.claim(trial._trial_id, claim):
                return self.prepare(Trial(self.study, trial._trial_id))
        if count is not None and len(trials) >= count:
            return None
        fresh = self.study.ask()
        if not self.claim(fresh._trial_id, None):  # another agent was quicker, and runs it
            return None
        if count is not None and fresh.number >= count:  # two agents asked for the last one
            self.release(fresh._trial_id)
            return None
        return self.prepare(fresh)

    def is_still_ending(self, run_id: str) -> bool:
        """Whether a dead agent has left processes of a run behind; kills those that take too long to end."""
        processes = processes_of(run_id)
        if not processes:
            self.ending.pop(run_id, None)
        elif time.monotonic() - self.ending.setdefault(run_id, time.monotonic()) > SECONDS_TO_SAVE:
            for process in processes:
                with suppress(psutil.Error):
                    process.kill()
        return bool(processes)

    def prepare(self, trial: Trial) -> Claim:
        """What is needed to run a trial, written down at its first time."""
        settings = settings_of(self.sweep, trial)
        run_id = trial.user_attrs.get("run_id")
        if run_id is None:
            run_id = f"{trial.number:03d}-{fresh_run_id()}"
            trial.set_user_attr("settings", settings)
            trial.set_user_attr("run_id", run_id)
        return Claim(trial, run_id, settings)

    def claim(self, trial_id: int, seen: Row | None) -> bool:
        """Make a trial this agent's if its claim is still as it was `seen`; of several that try, one succeeds."""
        try:
            with self.engine.begin() as connection:
                if seen is None:
                    connection.execute(CLAIMS.insert().values(trial_id=trial_id, owner=self.owner, beat=0))
                    return True
                same = (CLAIMS.c.trial_id == trial_id, CLAIMS.c.owner == seen.owner, CLAIMS.c.beat == seen.beat)
                taken = connection.execute(CLAIMS.update().where(*same).values(owner=self.owner, beat=seen.beat + 1))
                return taken.rowcount == 1
        except IntegrityError:
            return False

    def is_dead(self, claim: Row) -> bool:
        """Whether the owner of a claim has ended without releasing it."""
        alive = is_alive_here(claim.owner)
        if alive is not None:
            return not alive
        beat = self.beats.get(claim.trial_id)
        if beat is None or beat.number != claim.beat:
            self.beats[claim.trial_id] = Beat(claim.beat, time.monotonic())
            return False
        return time.monotonic() - beat.seen > SECONDS_TO_BE_MISSED

    def beat(self) -> set[int]:
        """Show the other machines that this agent lives; returns the ids of the trials that are still its own."""
        own = CLAIMS.c.owner == self.owner
        with self.engine.begin() as connection:
            connection.execute(CLAIMS.update().where(own).values(beat=CLAIMS.c.beat + 1))
            return set(connection.execute(select(CLAIMS.c.trial_id).where(own)).scalars())

    def owned(self) -> set[int]:
        """Ids of the trials that some agent runs, or ran when it died."""
        with self.engine.begin() as connection:
            return set(connection.execute(select(CLAIMS.c.trial_id).where(CLAIMS.c.owner != NOBODY)).scalars())

    def release(self, trial_id: int) -> None:
        """Leave a trial to whoever takes it next."""
        own = (CLAIMS.c.trial_id == trial_id, CLAIMS.c.owner == self.owner)
        with self.engine.begin() as connection:
            connection.execute(CLAIMS.update().where(*own).values(owner=NOBODY))

    def hold(self, claim: Claim) -> None:
        """Make sure that a trial is this agent's, and stays so while something is written down of it.

        Raises:
            TrialLost: it is not: this agent was out of touch for too long.
        """
        own = (CLAIMS.c.trial_id == claim.trial._trial_id, CLAIMS.c.owner == self.owner)
        with self.engine.begin() as connection:
            if connection.execute(CLAIMS.update().where(*own).values(beat=CLAIMS.c.beat + 1)).rowcount == 0:
                raise TrialLost(f"trial {claim.number}")

    def end(self, claim: Claim, state: TrialState, notes: Mapping[str, Any]) -> None:
        """Record how a trial ended; its value is the best of those it logged."""
        for key, value in notes.items():
            claim.trial.set_user_attr(key, value)
        values = self.study.get_trials(deepcopy=False)[claim.number].intermediate_values.values()
        value = min(values, key=self.sweep.metric.cost) if state == TrialState.COMPLETE else None
        self.study.tell(claim.number, value, state)


def read_trials(url: str, name: str) -> tuple[dict[str, Any], list[TrialRecord]]:
    """A sweep's file and its ended trials, the best first.

    Raises:
        UserError: there is no such sweep, or its database cannot be reached.
    """
    path = address_of(url).database
    if url.startswith("sqlite") and not Path(path or "").exists():
        raise UserError(f"there is no sweep {name}: {path} does not exist; python sweeps/agent.py FILE makes one")
    try:
        study = optuna.load_study(study_name=name, storage=open_storage(url))
        content = study.user_attrs["sweep"]
    except KeyError:
        raise UserError(f"there is no sweep {name} in that database") from None
    records = [
        TrialRecord(
            name=trial.user_attrs["run_id"],
            state=trial.state.name.lower(),
            settings=trial.user_attrs["settings"],
            value=trial.user_attrs["best"],
            best_epoch=trial.user_attrs["best_epoch"],
        )
        for trial in study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
        if "best" in trial.user_attrs
    ]
    cost = parse_metric(content["metric"]).cost
    return content, sorted(records, key=lambda record: cost(record.value))
