"""The run of a trial: the values that it logs, and what became of it."""

import re
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from analysis.read.trials import FOLDS, OBJECTIVES, seeds_done, what_over
from analysis.record import run_folder
from data.errors import LATER
from data.files import read_json
from data.internals import report_values
from data.metrics import Best, Metric, is_epoch, is_finite
from data.visible import counted
from models.resolve import VARIABLES
from sweeps.local.faults import Fault, is_short_of_memory, takes_too_much
from sweeps.local.launch import NUM_LAST_LINES, Run
from sweeps.local.promotion import WAITS
from sweeps.local.repeats import best_trial, is_worse, notes_of
from sweeps.local.trials import Claim, Trials, new_run_id

MOST_INTERRUPTIONS = 3  # of one trial, without a logged value in between
REFUSED = 2  # exit code of a program that does not take its settings, nor will it next time
RANK_WAS_KILLED = re.compile(r"Signal (2|9|15) \(SIG\w+\) received by PID")
STOPPED_EARLY = "stopped early"
AT_RUNG = "at a rung"
STOP_AFTER = VARIABLES["stop_after"]  # names to train.py, or any program, the epoch after which it is to stop
PEAK = "peak_memory_gib"  # as runs log it
MOST_HALVINGS = 2  # of a trial's micro-batches


class Outcome(NamedTuple):
    """What became of a trial whose process has ended.

    Attributes:
        text: in a user's words.
        state: for the storage; None if the trial is to go on.
        notes: for the storage, beside the logged values.
        fault: what is wrong with the machine; empty if nothing is.
        is_for_later: whether this agent leaves it alone for a while.
    """

    text: str
    state: TrialState | None
    notes: dict[str, Any]
    fault: str = ""
    is_for_later: bool = False


def last_epoch_until(until: int, metric: Metric, folder: Path) -> int:
    """Return the epoch after which a run is to stop, so that it has logged so many finite values of a metric by then.

    A metric may come every few epochs, as FID does: what is between its last two values, or has passed since, is taken
    for what is between the next ones. As that may be too short, a run may have to go on from there again.

    Args:
        until: the number of values.
        metric: of the sweep.
        folder: of the run, with what it has logged so far.
    """
    rows = [row for row in run_folder.read_metrics(folder) if is_epoch(row) and is_finite(row.get("epoch"))]
    before, last = [0, 0, *(int(row["epoch"]) for row in rows if metric.name in row)][-2:]
    apart = max(last - before, (int(rows[-1]["epoch"]) if rows else 0) + 1 - last)
    return last + apart * max(0, until - sum(is_finite(row.get(metric.name)) for row in rows))


class TrialRun(Run):
    """The run of a trial, from its start or from its checkpoint.

    Args:
        claim: the trial.
        metrics: the sweep's; by the first, the best epoch is chosen.
        trial: what the storage has of it from earlier starts.
        words: the command.
        runs_dir: folder of the run's own folder.
        environment: further environment variables.
    """

    def __init__(
        self,
        claim: Claim,
        metrics: Sequence[Metric],
        trial: FrozenTrial,
        words: Sequence[str],
        runs_dir: Path,
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(words, claim.run_id, runs_dir, claim.settings, environment)
        self.claim = claim
        self.metric, *self.others = metrics
        self.at_best: Mapping[str, Any] = {}  # the row of the best epoch
        self.before: Mapping[str, Any] = trial.user_attrs
        self.seeds_done = seeds_done(trial.user_attrs)  # those before this run's: the storage has values of the first
        self.num_values = 0 if self.seeds_done else len(trial.intermediate_values)  # that are stored, or need not be
        self.epoch = self.num_values
        self.log = run_folder.LogReader(self.folder)
        self.num_read = 0  # values of the metric in the log, as far as it has been read
        self.best: Best | None = None  # of these
        self.waiting: list[float] = []  # those of them that the storage does not have yet
        self.heard = self.started  # when it logged its newest row
        self.peak_gib = 0.0  # the most memory that it says it has used
        self.had_company = False  # of other trials on its device
        self.last_epoch = int(environment.get(STOP_AFTER, 0))  # after which it was told to stop; 0 for its end
        self.verdict: TrialState | None = None  # what it counts as if it is stopped; None if it is to go on later

    def report(self, trials: Trials) -> bool:
        """Write what the run has logged since the last look into the storage; return whether there was anything.

        Raises:
            TrialLost: the trial is no longer this agent's.
        """
        if not self.log.goes_on():
            self.num_read, self.best = 0, None
        has_news = bool(self.waiting)
        for rows in self.log:
            self.read(rows)
            has_news = True
        if self.waiting:
            trials.claims.hold(self.claim.trial_id)
            if not self.seeds_done:
                report_values(self.claim.trial, dict(enumerate(self.waiting, self.num_values + 1)))
            self.num_values += len(self.waiting)
            self.waiting = []
        if self.claim.until and self.num_values > self.claim.until:  # a program that does not stop by itself
            self.stop(AT_RUNG)
        return has_news

    def read(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Note what the run has logged: its values of the metric that are finite; W&B ignores the others, too."""
        self.heard = time.monotonic()
        self.peak_gib = max(self.peak_gib, *(row[PEAK] for row in rows if is_finite(row.get(PEAK))), 0.0)
        ranked = [row for row in rows if is_finite(row.get(self.metric.name))]
        # A program that logs no epochs: its logged values are counted.
        numbered = [
            row if is_finite(row.get("epoch")) else {**row, "epoch": i}
            for i, row in enumerate(ranked, self.num_read + 1)
        ]
        ends = [row for row in rows if is_finite(row.get("epoch")) and "step" not in row] or numbered
        self.epoch = ends[-1]["epoch"] if ends else self.epoch
        before = [] if self.best is None else [{"epoch": self.best.epoch, self.metric.name: self.best.value}]
        self.best = self.metric.best([*before, *numbered])
        self.at_best = next((row for row in numbered if self.best and row["epoch"] == self.best.epoch), self.at_best)
        num_known = max(0, self.num_values + len(self.waiting) - self.num_read)
        self.waiting += [row[self.metric.name] for row in ranked[num_known:]]
        self.num_read += len(ranked)

    def seconds_in_all(self) -> float:
        """Return the seconds that the trial has taken, earlier starts included."""
        return self.before.get("seconds", 0.0) + self.seconds()

    def seconds_silent(self) -> float:
        """Return the seconds since it last logged a row, or since its start."""
        return time.monotonic() - self.heard

    def end(self, reason: str, verdict: TrialState) -> None:
        """Ask it to save its state and end for good, unless it has been asked to end before."""
        if not self.reason:
            self.verdict = verdict
            self.stop(reason)

    def outcome(self, retries: int) -> Outcome:
        """Return what became of the trial, now that its process has ended.

        Args:
            retries: how often it may be tried again if it has crashed or had nothing to say.
        """
        state, code = self.state(), self.process.returncode
        if self.has_come_to_a_rung():
            return Outcome(f"waits at {self.claim.until}", None, {**self.notes(), WAITS: self.claim.until})
        if self.reason and state != "finished":
            return self.outcome_of_a_stop(retries)
        if not code and state == "stopped" and 0 < self.last_epoch <= self.epoch:
            text = f"goes on, with {self.num_values} of {counted(self.claim.until, 'value')} at epoch {self.epoch}"
            return Outcome(text, None, self.notes())
        if code == LATER:  # by an agent that was frozen, or on NFS for a while by one that is dead
            return Outcome("waits: its run is in progress elsewhere", None, self.notes(), is_for_later=True)
        fault, words = self.fault(), f"{self.error()}\n{self.last_lines(NUM_LAST_LINES)}"
        is_short = bool(code) and state != "stopped" and is_short_of_memory(fault, words)
        if is_short and self.had_company:
            return Outcome("short of memory beside others, goes on alone", None, {**self.notes(), "alone": True})
        if is_short and not self.num_read and takes_too_much(fault, words):
            if anew := self.with_smaller_batches():
                return anew
            if steps := self.before.get("accumulation_steps"):
                return self.failure(f"short of memory even with accumulation_steps={steps}, {self.exit()}")
        if fault and not fault.may_recur:
            return Outcome(f"cut short ({fault.reason}), stays open", None, self.notes(), fault.reason)
        if fault or self.was_interrupted() or (is_short and self.num_read):
            return self.outcome_of_an_interruption(fault)
        if code:
            return self.failure(self.exit(), 0 if code == REFUSED or self.has_diverged() else retries)
        if not self.num_values:
            return self.failure(f"it logged no {self.metric.name}")
        return Outcome("finished", TrialState.COMPLETE, self.notes())

    def with_its_seed(self, outcome: Outcome, trials: Sequence[FrozenTrial], repeats: int) -> Outcome:
        """Return what becomes of a trial of several seeds or folds that has finished with one: the next follows.

        Args:
            outcome: of the run with this seed or fold.
            trials: of the sweep.
            repeats: runs of each trial.
        """
        if outcome.state != TrialState.COMPLETE or self.best is None or (repeats == 1 and not self.seeds_done):
            return outcome
        done, best = [*self.seeds_done, self.best], best_trial(trials, self.claim.number, self.metric)
        notes, what = {**outcome.notes, **notes_of(done, self.metric)}, what_over(self.before.get(FOLDS, 0))
        if len(done) >= repeats:
            return Outcome(f"finished with {counted(len(done), what)}", TrialState.COMPLETE, notes)
        if best is not None and (chance := is_worse(done, best, self.metric)) is not None:
            ending = f"worse than trial {best.number} after {len(done)} of {repeats} {what}s (p {chance:.2g})"
            notes |= {**notes_of(done, self.metric, best), "ending": ending}
            return Outcome(f"stopped early, {ending}", TrialState.PRUNED, notes)
        return Outcome(f"finished {what} {len(done)} of {repeats}", None, notes)

    def has_come_to_a_rung(self) -> bool:
        """Return whether the run has ended where it is to wait: stopped there by itself, or cut short soon after."""
        is_there = 0 < self.claim.until <= self.num_values and self.verdict is None and self.state() != "finished"
        return is_there and (bool(self.reason) or self.was_interrupted())

    def outcome_of_a_stop(self, retries: int) -> Outcome:
        """Return what became of a trial that was asked to end."""
        if self.verdict == TrialState.FAIL:
            return self.failure(self.reason, retries)
        if self.verdict and not (self.num_values or self.seeds_done):
            return self.failure(f"{self.reason}, it logged no {self.metric.name}")
        ending = {"ending": self.reason} if self.verdict else {}
        return Outcome(self.reason, self.verdict, {**self.notes(), **ending})

    def outcome_of_an_interruption(self, fault: Fault | None) -> Outcome:
        """Return that a trial goes on after its process was cut short, unless that happens again and again."""
        got_further = self.num_values > self.before.get("tried_at", 0)
        tries = 1 if got_further else self.before.get("tries", 0) + 1
        reason = fault.reason if fault else self.exit()
        if tries > MOST_INTERRUPTIONS:
            return self.failure(f"cut short {tries} times without getting further, {reason}")
        notes = {**self.notes(), "tries": tries, "tried_at": self.num_values}
        goes_on = "stays open" if fault else "goes on"
        return Outcome(f"cut short ({reason}), {goes_on}", None, notes, fault.reason if fault else "")

    def with_smaller_batches(self) -> Outcome | None:
        """Return that a trial begins anew with micro-batches half as large; None if that is not possible.

        A step still sees the same images. As the number of micro-batches belongs to a run's recipe, it is another run.
        """
        settings, halvings = read_json(self.folder / run_folder.SETTINGS), self.before.get("halvings", 0) + 1
        batch_size, steps = (settings.get(name) for name in ("batch_size", "accumulation_steps"))
        if self.seeds_done or halvings > MOST_HALVINGS or not isinstance(batch_size, int) or not isinstance(steps, int):
            return None
        num_processes = read_json(self.folder / run_folder.ENVIRONMENT).get("num_processes", 1)
        if batch_size % (2 * steps * num_processes):
            return None
        changed = {"accumulation_steps": 2 * steps}
        # First the new run: its agent may be killed before the last note, and the earlier run goes on with no others.
        notes: dict[str, Any] = {"run_id": new_run_id(self.claim.number)}
        notes |= {"settings": {**self.claim.settings, **changed}, **changed, "halvings": halvings, **self.notes()}
        return Outcome(f"short of memory, begins anew with accumulation_steps={2 * steps}", None, notes)

    def failure(self, error: str, retries: int = 0) -> Outcome:
        """Return that the trial has failed or, as often as it may be, that it is tried again."""
        failures = self.before.get("failures", 0) + 1
        if failures <= retries:
            text = f"failed ({error}), is tried again"
            return Outcome(text, None, {**self.notes(), "failures": failures})
        error = f"{error}\n{self.last_lines(NUM_LAST_LINES)}"
        return Outcome("failed", TrialState.FAIL, {**self.notes(), "error": error})

    def was_interrupted(self) -> bool:
        """Return whether the run was cut short from outside, so that it can go on.

        That is so for a signal, which a shell passes on as an exit code and torchrun as a line of its report, and for a
        run that has saved its state but could not even note that it failed.
        """
        state, code = self.state(), self.process.returncode
        if state == "stopped" or code < 0 or RANK_WAS_KILLED.search(self.last_lines(NUM_LAST_LINES)):
            return True
        has_saved = (self.folder / run_folder.CHECKPOINT).exists()
        return state == "unfinished" and (128 < code <= 128 + max(signal.valid_signals()) or (code == 1 and has_saved))

    def notes(self) -> dict[str, Any]:
        """Return the trial's time so far, and its best value with its epoch, unless it had other seeds before."""
        notes: dict[str, Any] = {"seconds": self.seconds_in_all()}
        if peak := max(self.peak_gib, self.before.get("peak_gib", 0.0)):
            notes["peak_gib"] = float(peak)
        if self.best is None or self.seeds_done:
            return notes
        if self.others:
            notes[OBJECTIVES] = {metric.name: self.at_best.get(metric.name) for metric in self.others}
        return {**notes, "best": self.best.value, "best_epoch": self.best.epoch}
