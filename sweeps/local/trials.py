"""The trials of a sweep in a database that any number of agents share, so that each trial is run by one of them.

Optuna stores what was tried and what came of it. There, a trial is RUNNING from its first claim to its end, paused or
not. Which agent holds it stands in a table of our own, see claims.py.
"""

import json
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Row

from analysis.read.storage import open_storage, reason_of, unusable
from analysis.read.sweep_command import told_in_all
from analysis.read.trials import ENDED, FOLDS, STARTED, checked_run_id, seeds_done
from analysis.record.run_folder import fresh_run_id, run_of_seed
from analysis.record.wandb_start import NOT_APPLICABLE
from data.internals import let_ranges_change, reopen_trials, trial_id
from sweeps.local.agreement import AMOUNTS, go_on
from sweeps.local.claims import CLAIMS, Claims
from sweeps.local.launch import SECONDS_TO_SAVE, processes_of
from sweeps.local.observations import is_of
from sweeps.local.owners import has_another_agent
from sweeps.local.promotion import UNTIL, goal_of, is_waiting, promotable
from sweeps.local.repeats import notes_of, settings_of_next, value_of
from sweeps.local.search import Search, settings_of
from sweeps.local.study_checks import check_amounts, check_study
from sweeps.local.sweep import Sweep

SECONDS_TO_LEAVE = 60.0  # until a trial is tried again whose run is in progress elsewhere


@dataclass(frozen=True)
class Claim:
    """A trial that this agent holds.

    Attributes:
        trial: Optuna's handle.
        run_id: name of its run folder; it stays the same after a pause, but each further seed has its own.
        settings: what its run is told, constants included.
        fault: why it cannot be run: what its database has of it does not fit the sweep; "" for nothing.
        is_alone: whether it needs a device to itself.
        until: logged values after which it waits to be promoted; 0 if it goes on to its end.
    """

    trial: Trial
    run_id: str
    settings: Mapping[str, Any]
    fault: str = ""
    is_alone: bool = False
    until: int = 0

    @property
    def number(self) -> int:
        """The trial's number in its sweep, from 0."""
        return self.trial.number

    @property
    def trial_id(self) -> int:
        """The trial's id in the database."""
        return trial_id(self.trial)


def new_run_id(number: int) -> str:
    """Return a name for the run of the trial of that number."""
    return f"{number:03d}-{fresh_run_id()}"


class Trials:
    """A sweep's trials, for one agent.

    Args:
        url: address of the database; a SQLite file is made if it is not there.
        sweep: what is searched.
        name: name of the sweep in the database.
        seed: seed of the search.

    Raises:
        UserError: the database cannot be reached, or holds another sweep of that name.
    """

    def __init__(self, url: str, sweep: Sweep, name: str, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sweep = sweep
        self.storage = open_storage(url, CLAIMS)
        let_ranges_change(self.storage)
        self.claims = Claims(self.storage.engine)
        self.name = name
        self.sampler = Search(sweep, seed)
        self.content = json.loads(json.dumps(sweep.content))
        try:
            self.study = self.open_study()
            known = dict(self.study.user_attrs.get("sweep", self.content))
            check_study(self.study, sweep, known)
        except Exception as error:  # Optuna raises nearly anything where something else has written to the database
            raise unusable(url, reason_of(error)) from None
        check_amounts(name, self.started(), sweep)
        self.changes = go_on(self.study, sweep, known)
        self.left_until: dict[int, float] = {}  # by trial id, for a while
        self.ending: dict[str, float] = {}  # when the run of a dead agent was first seen to be still ending

    def is_superseded(self) -> bool:
        """Return whether another agent has since gone on with the sweep by another file, or other seeds or folds."""
        has_other_folds = any(trial.user_attrs.get(FOLDS, 0) != self.sweep.folds for trial in self.started())
        has_other_seeds = self.repeats() != self.sweep.repeats
        return has_other_folds or has_other_seeds or self.study.user_attrs.get("sweep") != self.content

    def repeats(self) -> int:
        """Return how many seeds or folds each trial is to have by the agent that was the last to begin."""
        noted = None if self.sweep.folds else self.study.user_attrs.get(AMOUNTS, {}).get("repeats")
        return noted or self.sweep.repeats

    def open_study(self) -> optuna.Study:
        """Open the study, which has read no trials yet; it is made if it is not there."""
        return optuna.create_study(
            storage=self.storage,
            study_name=self.name,
            direction=self.sweep.metric.goal,
            sampler=self.sampler,
            load_if_exists=True,
        )

    def reopen_failed(self) -> int:
        """Let trials that have failed go on, with the numbers and the settings that they have; return how many.

        Other agents that run have seen them fail: for these they stay failed, and so the trials are this one's.
        """
        failed = [trial for trial in self.all() if trial.state == TrialState.FAIL]
        ids = [trial_id(trial) for trial in failed]
        self.claims.clear(ids, [self.id_of_end()])  # first, since the agents that held them may live
        reopen_trials(self.storage, ids)
        self.study = self.open_study()  # which does not know that they were failed
        for trial in failed:
            for note in trial.user_attrs.keys() & {"failures", "tries"}:
                self.storage.set_trial_user_attr(trial_id(trial), note, 0)
        return len(failed)

    def all(self) -> list[FrozenTrial]:
        """Return every trial so far, by number."""
        return self.study.get_trials(deepcopy=False)

    def started(self) -> list[FrozenTrial]:
        """Return the trials that have a run: when two agents ask for the last trial at once, they make one too many."""
        return [trial for trial in self.all() if "run_id" in trial.user_attrs]

    def have_reached_target(self) -> bool:
        """Return whether a trial is as good as the target of the sweep file; one of several seeds is so by its mean."""
        metric = self.sweep.metric
        if metric.target is None:
            return False
        if self.sweep.repeats > 1:
            values = [trial.value for trial in self.all() if trial.state == TrialState.COMPLETE]
        else:
            values = [value for trial in self.all() for value in trial.intermediate_values.values()]
        return any(metric.cost(value) <= metric.cost(metric.target) for value in values if value is not None)

    def take(self, count: int | None, running: Collection[int] = ()) -> Claim | None:
        """Claim a trial: one that nobody runs any more, else one to promote, else a new one; None if there is none now.

        Args:
            count: number of trials of the whole sweep; None for no limit.
            running: ids of the trials that this agent runs. Others that it holds, it claimed as the database went away.
        """
        claims = self.claims.all()  # before the trials: one that changes later on has another claim then
        trials = self.all()
        started = [trial for trial in trials[:count] if trial.state == TrialState.RUNNING]
        promoted = [trials[number] for number in promotable(self.sweep, trials, count)]
        for trial in [*(trial for trial in started if not is_waiting(self.sweep, trial)), *promoted]:
            claim = claims.get(trial_id(trial))
            if self.is_free(trial, claim, running) and (taken := self.take_over(trial, claim)):
                return taken
        return self.take_new(trials, count)

    def is_free(self, trial: FrozenTrial, claim: Row | None, running: Collection[int]) -> bool:
        """Return whether nobody runs a trial any more, and this agent has not just left it for later.

        Args:
            trial: one that has begun.
            claim: to it, as it stands in the database; None for none.
            running: ids of the trials that this agent runs.
        """
        own_id, run_id = trial_id(trial), trial.user_attrs.get("run_id")
        is_forgotten = claim is not None and claim.owner == self.claims.owner and own_id not in running
        is_held = not self.claims.is_idle(claim) and not is_forgotten
        if is_held or time.monotonic() < self.left_until.get(own_id, 0.0):
            return False
        return run_id is None or not self.is_still_ending(run_of_seed(run_id, len(seeds_done(trial.user_attrs))))

    def take_over(self, trial: FrozenTrial, claim: Row | None) -> Claim | None:
        """Claim a trial that is free; None if another agent was quicker, or there is nothing left to run of it."""
        if not self.claims.take(trial_id(trial), claim):
            return None
        taken, done = self.prepare(Trial(self.study, trial_id(trial))), seeds_done(trial.user_attrs)
        if len(done) < self.sweep.repeats:
            return taken
        # Its agent was killed once it had noted the last seed.
        self.end(taken, TrialState.COMPLETE, notes_of(done, self.sweep.metric))
        return None

    def take_new(self, trials: Sequence[FrozenTrial], count: int | None) -> Claim | None:
        """Claim a new trial; None if the sweep has as many as it is to have, or another agent was quicker.

        Args:
            trials: those so far.
            count: number of trials of the whole sweep; None for no limit.
        """
        is_any_queued = any(trial.state == TrialState.WAITING for trial in trials[:count])
        if count is not None and len(trials) >= count and not is_any_queued:
            return None
        fresh = self.study.ask()
        if not self.claims.take(trial_id(fresh), None):  # another agent was quicker, and runs it
            return None
        if count is not None and fresh.number >= count:  # two agents asked for the last one
            self.claims.release(trial_id(fresh))
            return None
        return self.prepare(fresh)

    def is_still_ending(self, run_id: str) -> bool:
        """Return whether processes of a dead agent's run are still ending; kill them where they take too long.

        Those that another agent watches over after all are left to it.
        """
        processes = processes_of(run_id)
        if not processes or any(map(has_another_agent, processes)):
            self.ending.pop(run_id, None)
        elif time.monotonic() - self.ending.setdefault(run_id, time.monotonic()) > SECONDS_TO_SAVE:
            for process in processes:
                with suppress(psutil.Error):
                    process.kill()
        return bool(processes)

    def prepare(self, trial: Trial) -> Claim:
        """Return what is needed to run a trial; the first time, draw its settings and store them."""
        settings, fault, notes = dict[str, Any](), "", trial.user_attrs
        try:
            settings = self.settings_for(trial)
        except (ValueError, TypeError, KeyError) as error:  # no agent has stored these
            fault = f"its settings in the storage are not those of the sweep ({error})"
        until = goal_of(self.sweep, self.all()[trial.number])
        if until != notes.get(UNTIL, 0):
            trial.set_user_attr(UNTIL, until)
        run_id, num_done = notes.get("run_id"), len(seeds_done(notes))
        if run_id is None:
            run_id = self.begin(trial, settings)
        settings = settings | settings_of_next(told_in_all(self.sweep.content, settings), num_done, self.sweep.folds)
        own_run = run_of_seed(checked_run_id(run_id), num_done)
        return Claim(trial, own_run, settings, fault, notes.get("alone", False), 0 if num_done else until)

    def settings_for(self, trial: Trial) -> dict[str, Any]:
        """Return the settings of a trial: those that it has begun with, else new ones, which are drawn.

        Raises:
            ValueError, TypeError, KeyError: what the database has of it does not fit the sweep.
        """
        begun = trial.user_attrs.get("settings")
        if isinstance(begun, dict) and trial.params and not is_of(self.sweep, trial, begun):
            names = {self.sweep.path_to(name)[0] for name in self.sweep.parameters}
            settings = {name: value for name, value in begun.items() if name in names}  # of other ranges
        else:
            with warnings.catch_warnings(action="ignore"):  # of a choice outside the ranges, which is told
                settings = settings_of(self.sweep, trial)
            begun = trial.user_attrs.get("settings", settings)  # without what agents tell since, it goes on
            settings = {name: value for name, value in settings.items() if name in begun}
        return settings | {name: begun[name] for name in ("accumulation_steps",) if name in begun}

    def begin(self, trial: Trial, settings: Mapping[str, Any]) -> str:
        """Store what a new trial begins with, last the name of its run, by which it counts as started; return that."""
        run_id = new_run_id(trial.number)
        trial.set_user_attr("settings", settings)
        if self.sweep.folds:
            trial.set_user_attr(FOLDS, self.sweep.folds)
        if foreign := self.sweep.foreign(trial.params):
            trial.set_user_attr(NOT_APPLICABLE, foreign)
        trial.set_user_attr(STARTED, time.time())
        trial.set_user_attr("run_id", run_id)
        return run_id

    def id_of_end(self) -> int:
        """Return the claim id by which the end is announced: minus the last trial's, so another in a longer sweep."""
        return -max(map(trial_id, self.all()), default=0)

    def is_first_to_end(self) -> bool:
        """Return whether this agent is the first to say that the sweep, as far as it goes, has ended."""
        return self.claims.take(self.id_of_end(), None)

    def give_up(self, number: int) -> None:
        """End a trial that waits at a rung and cannot be promoted any more, unless another agent is about to."""
        own_id = trial_id(self.all()[number])
        claim = self.claims.of(own_id)
        is_free = claim is not None and (claim.owner == self.claims.owner or self.claims.is_idle(claim))
        if is_free and self.claims.take(own_id, claim):
            self.storage.set_trial_user_attr(own_id, "ending", "not promoted")
            self.storage.set_trial_user_attr(own_id, ENDED, time.time())
            self.study.tell(number, None, TrialState.PRUNED, skip_if_finished=True)

    def end(self, claim: Claim, state: TrialState, notes: Mapping[str, Any]) -> None:
        """Store how a trial has ended; the value of one that is complete is the best that it has logged."""
        self.note(claim, {**notes, ENDED: time.time()})
        value = value_of(self.sweep.metric, self.all()[claim.number]) if state == TrialState.COMPLETE else None
        self.study.tell(claim.number, value, state)

    def leave(self, claim: Claim, notes: Mapping[str, Any], is_for_later: bool = False) -> None:
        """Store notes on a trial and give up the claim to it: it is not ended, and any agent may go on with it.

        Args:
            claim: to the trial.
            notes: to be stored.
            is_for_later: whether this agent does so after a minute at the earliest.
        """
        self.note(claim, notes)
        if is_for_later:
            self.left_until[claim.trial_id] = time.monotonic() + SECONDS_TO_LEAVE
        self.claims.release(claim.trial_id)

    def note(self, claim: Claim, notes: Mapping[str, Any]) -> None:
        """Store notes on a trial, beside the values that it has logged."""
        for key, value in notes.items():
            claim.trial.set_user_attr(key, value)
