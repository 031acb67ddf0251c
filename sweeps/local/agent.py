"""The agent of a sweep: it starts and stops trials, and stores what becomes of them."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from analysis.read.spare import free_weights
from analysis.read.storage import reason_of
from analysis.read.sweep_command import is_ours, place_on_wandb, told_in_all
from analysis.read.trials import REPEATS, checked_run_id, runs_of, seeds_done, what_over
from analysis.record import run_folder
from analysis.record.wandb_start import trial_name
from data.errors import UserError
from data.internals import trial_id
from data.metrics import shown
from models.resolve import validate
from sweeps.local.claims import TrialLost
from sweeps.local.device_memory import DeviceMemory
from sweeps.local.display import Display
from sweeps.local.heartbeat import Heartbeat
from sweeps.local.launch import ARGUMENTS, NUM_SHOWN_LINES, OUTPUT, command_words, unless_set
from sweeps.local.limits import Limits
from sweeps.local.pool import SECONDS_BETWEEN_LOOKS, Pool
from sweeps.local.promotion import hopeless, is_waiting, logged_costs, promotable
from sweeps.local.trial_run import STOP_AFTER, STOPPED_EARLY, TrialRun, last_epoch_until
from sweeps.local.trials import Claim, Trials

SECONDS_BETWEEN_SURVEYS = 1.0  # of what other agents do
SECONDS_BETWEEN_BEATS = 10.0
MANY = {"failed": 3, "diverged": 10}  # such trials end the sweep if none has logged a value
UNREAD = 141  # exit code where nobody reads the output any more, as a shell gives it for SIGPIPE


class Agent:
    """Runs trials, several at a time, until the sweep has all that its limits allow, or somebody ends it."""

    def __init__(self, trials: Trials, runs_dir: Path, limits: Limits, room: DeviceMemory, display: Display) -> None:
        self.sweep = trials.sweep
        self.trials = trials
        self.runs_dir = runs_dir
        self.limits = limits
        self.room = room
        self.display = display
        self.pool: Pool[TrialRun] = Pool(room.devices)
        self.failure = ""  # what ended the sweep
        self.fault = ""  # what is wrong with this machine, so that it pauses the sweep
        self.is_retired = False
        self.num_failed: Counter[str] = Counter()  # trials, by what became of them
        self.waiting: int | None = None  # number of the trial that there is no room for
        self.heartbeat = Heartbeat(trials, SECONDS_BETWEEN_BEATS)
        self.next_survey = 0.0

    def run(self) -> int:
        """Run to the end of the sweep; return the exit code."""
        with self.heartbeat:
            try:
                return self.look_until_done()
            finally:  # trials are left only where an exception has ended the loop
                self.pool.close("paused")

    def look_until_done(self) -> int:
        """Look after the trials every moment until there is nothing more to do; return the exit code."""
        while True:
            try:
                if not self.look():
                    return self.pool.exit_code or int(bool(self.fault)) or (UNREAD if self.display.is_unread else 0)
            except (StorageInternalError, SQLAlchemyError) as error:  # meanwhile the trials run on
                self.display.say(f"the storage does not answer, trying again: {reason_of(error)}")
                self.trials.claims.beats.clear()  # the other agents could not beat either
                self.wait_for_storage()
                if len(self.pool.signals) > 1:
                    self.pool.kill()
                if self.is_pausing() and self.pool.has_ended():  # the next agent finds their values in their folders
                    raise
            except OSError as error:  # the agent itself has no room on the disk, for example
                self.fault = self.fault or str(error)
                self.pool.stop("paused")
                if self.pool.has_ended():
                    raise
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def wait_for_storage(self) -> None:
        """Wait a little, or until a signal has ended all trials, which it does even without the storage."""
        end = time.monotonic() + SECONDS_BETWEEN_BEATS
        while time.monotonic() < end and len(self.pool.signals) < 2:
            if self.is_pausing():
                self.announce_pause()
                if self.pool.has_ended():
                    return
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def announce_pause(self) -> None:
        """Ask the trials to save their state, and say so once."""
        if any(not run.reason for run in self.pool.runs):
            self.display.say("pausing: the trials save their state; a second signal kills them")
        self.pool.stop("paused")

    def look(self) -> bool:
        """Look after all trials once; return False when there is nothing more to do.

        It takes its knowledge from processes, files and the storage each time. So after an error in the middle of it,
        it is simply called again.
        """
        self.let_go_of_lost_ones()
        has_news = self.see_to_runs()
        if len(self.pool.signals) > 1:
            self.kill_all()
            return False
        if not has_news and not self.is_pausing() and time.monotonic() < self.next_survey:
            return True
        self.next_survey = time.monotonic() + SECONDS_BETWEEN_SURVEYS
        self.stop_the_worst()
        if self.is_pausing():
            self.announce_pause()
        elif self.failure:
            self.pool.stop("ended")
        elif not self.is_to_retire() and not self.trials.have_reached_target():
            self.fill_slots()
        if self.display.is_due():
            self.display.show(self.trials.started(), self.progress())
        return bool(self.pool.runs) or self.work_is_left()

    def is_to_retire(self) -> bool:
        """Return whether this agent takes no more trials, since another one has gone on with another sweep file."""
        if not self.is_retired and self.trials.is_superseded():
            self.is_retired = True
            self.display.say("another agent goes on with a changed sweep: this one ends after the trials it runs")
        return self.is_retired

    def is_pausing(self) -> bool:
        """Return whether the trials are to be stopped so that a later command can go on with them."""
        return bool(self.pool.signals or self.fault or self.display.is_unread)

    def see_to_runs(self) -> bool:
        """Look at each run of this agent: store what it has logged since the last look and, if it has ended, how.

        Returns:
            Whether any run has logged something or ended.
        """
        has_news = False
        for run in self.pool.runs:
            try:
                has_news |= run.report(self.trials)
                self.limits.enforce(run)
                if run.has_ended():
                    self.settle(run)
                    self.pool.free(run)
                    has_news = True
            except (TrialLost, UpdateFinishedTrialError):
                self.let_go(run)
        return has_news

    def progress(self) -> dict[int, tuple[int, float]]:
        """Return epoch and seconds of every trial under way, those of other agents included."""
        owned = self.trials.claims.owned()
        others = {
            trial.number: (len(trial.intermediate_values), 0.0)
            for trial in self.trials.all()
            if trial.state == TrialState.RUNNING and trial_id(trial) in owned
        }
        return others | {run.claim.number: (run.epoch, run.seconds()) for run in self.pool.runs}

    def work_is_left(self) -> bool:
        """Return whether trials may still have to be started, such as those that others may leave to this one."""
        if self.is_pausing() or self.failure or self.is_retired:
            return False
        trials = self.trials.all()[: self.limits.count]
        is_any_open = any(not trial.state.is_finished() and not is_waiting(self.sweep, trial) for trial in trials)
        is_any_open |= bool(promotable(self.sweep, trials, self.limits.count))
        return (len(trials) != self.limits.count or is_any_open) and not self.trials.have_reached_target()

    def let_go_of_lost_ones(self) -> None:
        """Let go of trials that other agents have taken over."""
        for run in self.pool.runs:
            if self.heartbeat.has_lost(run.claim, run.started):
                self.let_go(run)

    def let_go(self, run: TrialRun) -> None:
        """Kill the run of a trial that another agent has taken over."""
        self.display.say(f"trial {run.claim.number}: another agent has taken it over")
        run.kill()
        self.pool.free(run)

    def fill_slots(self) -> None:
        """Start a trial in every free slot, as far as there are trials."""
        while self.pool.free_slots() and not self.failure:  # trials that cannot start may end the sweep
            claim = self.trials.take(self.limits.count, [run.claim.trial_id for run in self.pool.runs])
            if claim is None:
                return
            slot = self.room.slot_for(claim, self.pool, self.trials.all())
            if slot is None:
                self.wait_for_room(claim)
                return
            try:
                self.start(claim, slot)
            except ValueError as error:
                self.trials.end(claim, TrialState.FAIL, {"error": str(error), "seconds": 0.0})
                self.count_failure(claim.number, str(error))

    def wait_for_room(self, claim: Claim) -> None:
        """Leave a trial until others have ended, or to an agent with more memory; those after it wait as well."""
        self.trials.claims.release(claim.trial_id)
        if self.waiting != claim.number:
            self.display.log(f"trial {claim.number} waits for memory: {self.display.varied(claim.settings)}")
        self.waiting = claim.number

    def start(self, claim: Claim, slot: int) -> None:
        """Start a trial, or go on with it from its checkpoint.

        Raises:
            ValueError: it cannot be told its settings, as they may be in a storage that others write to.
        """
        if claim.fault:
            raise UserError(claim.fault)
        if is_ours(self.sweep.program):
            validate(told_in_all(self.sweep.content, claim.settings), {})
        folder = self.runs_dir / claim.run_id
        verb = "goes on" if (folder / run_folder.CHECKPOINT).exists() else "starts"
        words = command_words(self.sweep.command, self.sweep.program, claim.settings, folder / ARGUMENTS)
        trial = self.trials.all()[claim.number]
        varied = {name: value for name, value in self.sweep.varied(claim.settings).items() if value is not None}
        what, num_done = what_over(self.sweep.folds), len(seeds_done(trial.user_attrs))
        part = {what: claim.settings[what]} if num_done or self.sweep.folds else {}
        own = {"WANDB_RUN_GROUP": self.runs_dir.name, "WANDB_NAME": trial_name(f"{claim.number:03d}", varied | part)}
        environment = {**unless_set(own), **self.pool.devices[slot], **place_on_wandb(self.sweep.place)}
        if claim.until:
            environment[STOP_AFTER] = str(last_epoch_until(claim.until, self.sweep.metric, folder))
        try:
            run = TrialRun(claim, self.sweep.objectives.metrics, trial, words, self.runs_dir, environment)
        except OSError:
            self.trials.claims.release(claim.trial_id)
            raise
        for other in self.room.on_device(slot, self.pool):
            run.had_company = other.had_company = True
        self.pool.add(run, slot)
        goal = f" to {claim.until}" if claim.until and verb == "goes on" else ""
        goal += f" with {what} {part[what]}" if part else ""
        self.display.log(f"trial {claim.number} {verb}{goal}: {self.display.varied(claim.settings)}")

    def stop_the_worst(self) -> None:
        """Stop those of this agent's trials that the sweep's rule rules out, by the trials of all agents."""
        candidates = {run.claim.number: run for run in self.pool.runs if not (run.reason or run.seeds_done)}
        if self.sweep.early_terminate is None or not candidates:
            return
        trials = self.trials.all()
        finished = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
        for number in self.sweep.early_terminate.to_stop(logged_costs(self.sweep, trials), list(candidates), finished):
            candidates[number].end(STOPPED_EARLY, TrialState.PRUNED)

    def settle(self, run: TrialRun) -> None:
        """Store what became of a trial whose process has ended."""
        run.report(self.trials)  # it may have logged its last values after the last look
        claim = run.claim
        self.trials.claims.hold(claim.trial_id)
        outcome = run.with_its_seed(run.outcome(self.limits.retries), self.trials.all(), self.trials.repeats())
        if outcome.state is None:
            self.trials.leave(claim, outcome.notes, outcome.is_for_later)
        else:
            self.trials.end(claim, outcome.state, outcome.notes)
        self.fault = self.fault or outcome.fault
        if outcome.state == TrialState.FAIL:
            reason, *output = outcome.notes["error"].splitlines()
            where = f"; its output in {run.folder / OUTPUT} ends with" if output else ""
            self.count_failure(claim.number, reason + where, output, "diverged" if run.has_diverged() else "failed")
        self.thin_out_weights()
        name = self.sweep.metric.name
        what = "mean" if REPEATS in outcome.notes else "best"
        best = f", {what} {name} {shown(name, outcome.notes['best'])}" if "best" in outcome.notes else ""
        self.display.log(f"trial {claim.number} {outcome.text}: epoch {run.epoch}{best}")

    def thin_out_weights(self) -> None:
        """Delete the weights of trials that have ended and are not among the best that are to keep theirs."""
        if self.limits.keep_weights is None:
            return
        for number in hopeless(self.sweep, self.trials.all(), self.limits.count):
            self.trials.give_up(number)
        ended = [trial for trial in self.trials.started() if trial.state.is_finished()]
        for trial in self.display.leaders(ended)[self.limits.keep_weights :]:
            run_id = checked_run_id(trial.user_attrs["run_id"])
            for name in runs_of(run_id, len(seeds_done(trial.user_attrs))):
                free_weights(self.runs_dir / name)

    def count_failure(self, number: int, reason: str, output: Sequence[str] = (), kind: str = "failed") -> None:
        """Count a trial that failed, and show the reason and the end of its output; too many of a kind end the sweep.

        Settings with which a loss diverges are what a search is there to find out: more of these are let pass.
        """
        self.num_failed[kind] += 1
        self.display.say(f"trial {number} failed: {reason}")
        if output:
            self.display.say("\n".join(f"    {line}" for line in output[-NUM_SHOWN_LINES:]))
        num = self.num_failed[kind]
        if num >= MANY[kind] and not any(trial.intermediate_values for trial in self.trials.all()):
            self.failure = f"the first {num} trials {kind}, none logged a {self.sweep.metric.name}"

    def kill_all(self) -> None:
        """Kill every trial; each can go on from its last checkpoint."""
        self.pool.kill()
        for run in self.pool.runs:
            self.trials.claims.release(run.claim.trial_id)
            self.pool.free(run)
