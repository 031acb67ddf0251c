"""Run a sweep without a server: python sweeps/agent.py sweeps/quickstart.yaml --workers 2 (see --help).

It takes W&B's sweep file as it is, and starts each trial with the command and the environment that `wandb agent`
would; Optuna does the search. Agents that are given one --storage share one sweep.
"""

import math
import shlex
import shutil
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from analysis.command_line import Parser, whole_number
from analysis.record import run_folder
from data.errors import UserError
from sweeps.local.contract import check_contract
from sweeps.local.display import Display
from sweeps.local.hyperband import to_stop
from sweeps.local.launch import ARGUMENTS, OUTPUT, Run, command_words
from sweeps.local.storage import reason_of
from sweeps.local.sweep_file import Sweep, read_sweep, sweep_folder
from sweeps.local.trials import Claim, TrialLost, Trials
from sweeps.local.workers import assign_devices

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_BETWEEN_SURVEYS = 1.0  # of what other agents do
SECONDS_BETWEEN_BEATS = 10.0
MANY_FAILURES = 3  # with no trial that got anywhere
MANY_INTERRUPTIONS = 3  # of one trial, without a logged value in between
NUM_LAST_LINES = 20
NUM_SHOWN_LINES = 5
STOPPED_EARLY = "stopped early"


class SweepError(RuntimeError):
    """Trials do nothing but fail."""


@dataclass
class Running:
    """A trial that is being run."""

    claim: Claim
    run: Run
    num_values: int  # of the metric, that have been reported
    epoch: int
    metrics_size: int = -1  # bytes of metrics.jsonl that have been read
    reason: str = ""  # why it was asked to stop


class Agent:
    """Runs trials, several at once, until the sweep has `count` of them or somebody stops it."""

    def __init__(
        self,
        sweep: Sweep,
        trials: Trials,
        runs_dir: Path,
        count: int | None,
        devices: Sequence[Mapping[str, str]],
        display: Display,
    ) -> None:
        self.sweep = sweep
        self.trials = trials
        self.runs_dir = runs_dir
        self.count = count
        self.devices = devices
        self.display = display
        self.slots: list[Running | None] = [None] * len(devices)
        self.failure = ""  # what ended the sweep
        self.num_failed = 0
        self.got_somewhere = any(trial.intermediate_values for trial in trials.all())
        self.last_beat = time.monotonic()
        self.next_survey = 0.0
        self.signals: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal: the first pauses, the second ends."""
        self.signals.append(number)

    @property
    def running(self) -> list[Running]:
        """The trials that are being run."""
        return [running for running in self.slots if running is not None]

    def run(self) -> int:
        """Run to the end of the sweep; returns the exit code."""
        while True:
            try:
                if not self.look():
                    break
            except (StorageInternalError, SQLAlchemyError) as error:  # trials run on meanwhile
                self.display.say(f"the storage does not answer, trying again: {reason_of(error)}")
                self.trials.beats.clear()  # the other agents could not beat either
                self.wait_for_storage()
                if len(self.signals) > 1:
                    self.kill_all()
                    raise
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return 128 + self.signals[0] if self.signals else 0

    def wait_for_storage(self) -> None:
        """Wait a little, or until there is a signal; a trial is stopped without the storage, too."""
        num_signals = len(self.signals)
        end = time.monotonic() + SECONDS_BETWEEN_BEATS
        while time.monotonic() < end and len(self.signals) == num_signals:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        for running in self.running:
            if self.signals:
                self.stop(running, "paused")

    def look(self) -> bool:
        """See to everything once; False when there is nothing more to do.

        What it finds is read from processes, files and the storage each time, so that it can be done over.
        """
        self.keep_claims()
        has_news = False
        for slot, running in enumerate(self.slots):
            if running is not None:
                try:
                    has_news |= self.read_metrics(running)
                    if running.run.has_ended():
                        self.settle(running)
                        self.slots[slot] = None
                        has_news = True
                except (TrialLost, UpdateFinishedTrialError):
                    self.let_go(slot, running)
        if len(self.signals) > 1:
            self.end_all()
            return False
        if not has_news and not self.signals and time.monotonic() < self.next_survey:
            return True
        self.next_survey = time.monotonic() + SECONDS_BETWEEN_SURVEYS
        self.stop_the_worst()
        if self.signals or self.failure:
            reason = "paused" if self.signals else "ended"
            for running in self.running:
                self.stop(running, reason)
        elif not self.target_is_reached():
            self.fill_slots()
        if self.display.is_due():
            self.display.show(self.listed(), self.progress())
        return bool(self.running) or self.work_is_left()

    def listed(self) -> list[FrozenTrial]:
        """The trials that have been started: two agents that ask for the last one leave another behind."""
        return [trial for trial in self.trials.all() if "run_id" in trial.user_attrs]

    def progress(self) -> dict[int, tuple[int, float]]:
        """Epoch and seconds of the trials under way, those of other agents among them."""
        owned = self.trials.owned()
        others = {
            trial.number: (len(trial.intermediate_values), 0.0)
            for trial in self.trials.all()
            if trial.state == TrialState.RUNNING and trial._trial_id in owned
        }
        return others | {running.claim.number: (running.epoch, running.run.seconds()) for running in self.running}

    def work_is_left(self) -> bool:
        """Whether trials may still be started: other agents' may yet be left to this one."""
        if self.signals or self.failure:
            return False
        trials = self.trials.all()[: self.count]
        num_open = sum(trial.state == TrialState.RUNNING for trial in trials)
        return (len(trials) != self.count or num_open > 0) and not self.target_is_reached()

    def target_is_reached(self) -> bool:
        """Whether a trial is as good as the sweep file asks for."""
        metric = self.sweep.metric
        if metric.target is None:
            return False
        values = [value for trial in self.trials.all() for value in trial.intermediate_values.values()]
        return any(metric.cost(value) <= metric.cost(metric.target) for value in values)

    def keep_claims(self) -> None:
        """Tell other agents that this one lives; let go of what one of them has taken over."""
        if time.monotonic() - self.last_beat < SECONDS_BETWEEN_BEATS:
            return
        own = self.trials.beat()
        self.last_beat = time.monotonic()
        for slot, running in enumerate(self.slots):
            if running is not None and running.claim.trial._trial_id not in own:
                self.let_go(slot, running)

    def let_go(self, slot: int, running: Running) -> None:
        """End the own copy of a trial that another agent has taken over."""
        self.display.say(f"trial {running.claim.number}: another agent has taken it over")
        running.run.kill()
        self.slots[slot] = None

    def fill_slots(self) -> None:
        """Start a trial on every idle worker."""
        for slot, running in enumerate(self.slots):
            if running is not None:
                continue
            claim = self.trials.take(self.count, [running.claim.trial._trial_id for running in self.running])
            if claim is None:
                return
            self.slots[slot] = self.start(claim, slot)

    def start(self, claim: Claim, slot: int) -> Running:
        """Start a trial, or go on with it from its checkpoint."""
        folder = self.runs_dir / claim.run_id
        words = command_words(self.sweep.command, self.sweep.program, claim.settings, folder / ARGUMENTS)
        environment = {"WANDB_RUN_GROUP": self.runs_dir.name, **self.devices[slot]}
        if self.sweep.project:
            environment.setdefault("WANDB_PROJECT", self.sweep.project)
        verb = "goes on" if (folder / run_folder.CHECKPOINT).exists() else "starts"
        num_values = len(self.trials.all()[claim.number].intermediate_values)
        run = Run(words, claim.run_id, self.runs_dir, claim.settings, environment)
        self.display.log(f"trial {claim.number} {verb}: {self.display.varied(claim.settings)}")
        return Running(claim, run, num_values, num_values)

    def read_metrics(self, running: Running) -> bool:
        """Report the values that a trial has logged since the last look; returns whether there were any."""
        path = running.run.folder / run_folder.METRICS
        size = path.stat().st_size if path.exists() else -1
        if size == running.metrics_size:
            return False
        rows = run_folder.read_metrics(running.run.folder)
        running.epoch = rows[-1].get("epoch", 0) if rows else 0
        fresh = self.logged(rows)[running.num_values :]
        if fresh:
            self.trials.hold(running.claim)
        for row in fresh:
            running.claim.trial.report(row[self.sweep.metric.name], running.num_values + 1)
            running.num_values += 1
            self.got_somewhere = True
        running.metrics_size = size
        return True

    def logged(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Rows with a finite value of the metric: W&B leaves the others out, too."""
        name = self.sweep.metric.name
        return [row for row in rows if isinstance(row.get(name), int | float) and math.isfinite(row[name])]

    def stop_the_worst(self) -> None:
        """Apply hyperband to the trials of all agents; stop those of this one that it rules out."""
        candidates = {running.claim.number: running for running in self.running if not running.reason}
        if self.sweep.hyperband is None or not candidates:
            return
        costs = {
            trial.number: [self.sweep.metric.cost(value) for _, value in sorted(trial.intermediate_values.items())]
            for trial in self.trials.all()
        }
        for number in to_stop(self.sweep.hyperband, costs, list(candidates)):
            self.stop(candidates[number], STOPPED_EARLY)

    def stop(self, running: Running, reason: str) -> None:
        """Ask a trial to save its state and end, once."""
        if not running.reason:
            running.reason = reason
            running.run.stop()

    def settle(self, running: Running) -> None:
        """Record what became of a trial whose process has ended."""
        self.read_metrics(running)  # it may have logged its last values after the last look
        self.trials.hold(running.claim)
        claim, code = running.claim, running.run.process.returncode
        before = self.trials.all()[claim.number].user_attrs
        notes = self.notes(running, before)
        state = running.run.state()
        outcome = running.reason
        if running.reason and state != "finished":
            if running.reason == STOPPED_EARLY:
                self.trials.end(claim, TrialState.PRUNED, notes)
            else:
                self.leave(claim, notes)
        elif state == "stopped" or code < 0:
            tries = self.tries(running, before)
            if tries <= MANY_INTERRUPTIONS:
                outcome = f"cut short ({running.run.exit()}), goes on"
                self.leave(claim, {**notes, "tries": tries, "tried_at": running.num_values})
            else:
                outcome = "failed"
                self.fail(running, notes, f"cut short {tries} times without getting further, {running.run.exit()}")
        elif code == 0 and running.num_values:
            outcome = "finished"
            self.trials.end(claim, TrialState.COMPLETE, notes)
        else:
            outcome = "failed"
            self.fail(running, notes, running.run.exit() if code else f"it logged no {self.sweep.metric.name}")
        best = f", best {self.sweep.metric.name} {notes['best']:.4f}" if "best" in notes else ""
        self.display.log(f"trial {claim.number} {outcome}: epoch {running.epoch}{best}")

    def notes(self, running: Running, before: Mapping[str, Any]) -> dict[str, Any]:
        """What is written down of a trial beside its logged values."""
        notes = {"seconds": before.get("seconds", 0.0) + running.run.seconds()}
        rows = self.logged(run_folder.read_metrics(running.run.folder))
        if rows:
            name = self.sweep.metric.name
            best = min(rows, key=lambda row: self.sweep.metric.cost(row[name]))
            notes |= {"best": best[name], "best_epoch": best.get("epoch", rows.index(best) + 1)}
        return notes

    def tries(self, running: Running, before: Mapping[str, Any]) -> int:
        """How often in a row a trial was cut short without getting further than the time before."""
        got_further = running.num_values > before.get("tried_at", 0)
        return 1 if got_further else before.get("tries", 0) + 1

    def leave(self, claim: Claim, notes: Mapping[str, Any]) -> None:
        """Leave a trial as it stands to whoever goes on with it."""
        for key, value in notes.items():
            claim.trial.set_user_attr(key, value)
        self.trials.release(claim.trial._trial_id)

    def fail(self, running: Running, notes: Mapping[str, Any], reason: str) -> None:
        """Record a trial that crashed; end the sweep where trials do nothing else."""
        number, run = running.claim.number, running.run
        output = run.last_lines(NUM_LAST_LINES)
        self.trials.end(running.claim, TrialState.FAIL, {**notes, "error": f"{reason}\n{output}"})
        self.display.say(f"trial {number} failed: {reason}; its output in {run.folder / OUTPUT} ends with")
        self.display.say("\n".join(f"    {line}" for line in output.splitlines()[-NUM_SHOWN_LINES:]))
        self.num_failed += 1
        if self.num_failed >= MANY_FAILURES and not self.got_somewhere:
            self.failure = f"the first {self.num_failed} trials failed, none logged a {self.sweep.metric.name}"

    def end_all(self) -> None:
        """Kill every trial; each can be gone on with from its last checkpoint."""
        self.kill_all()
        for running in self.running:
            self.trials.release(running.claim.trial._trial_id)
        self.slots = [None] * len(self.slots)

    def kill_all(self) -> None:
        """Kill every trial's processes, and wait until they are dead."""
        for running in self.running:
            running.run.kill()
        for running in self.running:
            running.run.process.wait()


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line."""
    parser = Parser(prog="python sweeps/agent.py", description=__doc__)
    parser.add_argument("file", type=Path, help="sweep file, as for `wandb sweep`")
    parser.add_argument("--name", help="folder of the sweep under runs/sweeps; default: the file's name")
    parser.add_argument("--count", type=whole_number, help="trials of the sweep in all; default: the file's run_cap")
    parser.add_argument("--workers", type=whole_number, help="trials at once; default: one a device, else 1")
    parser.add_argument("--devices", help="GPUs, dealt out to the workers: 0,1 or, two for each trial, 0+1,2+3")
    parser.add_argument("--seed", type=int, default=3407, help="of the search; default: 3407")
    parser.add_argument("--storage", help="database that agents share: postgresql+psycopg://USER@HOST/DATABASE")
    return parser.parse_args(arguments)


def run_sweep(options: Namespace) -> int:
    """Run a sweep to its end; returns the exit code."""
    sweep = read_sweep(options.file)
    devices = assign_devices(options.workers, options.devices)
    if sweep.program and Path(sweep.program).resolve() == CHECKOUT / "train.py":
        check_contract(sweep)
    name = options.name or options.file.stem
    command_words(sweep.command, sweep.program, {}, Path())  # while an error costs nothing
    folder = sweep_folder(name)
    if options.storage is None:
        folder.mkdir(parents=True, exist_ok=True)
    trials = Trials(options.storage or f"sqlite:///{folder / run_folder.STUDY}", sweep, name, options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    if options.file.resolve() != (folder / run_folder.SWEEP_FILE).resolve():
        shutil.copy(options.file, folder / run_folder.SWEEP_FILE)
    count = options.count or sweep.run_cap
    if sweep.method == "grid":
        count = min(count or sys.maxsize, len(sweep.grid()))
    with Display(sweep, name, count, len(devices)) as display:
        agent = Agent(sweep, trials, folder, count, devices, display)
        code = agent.run()
    display.leaderboard(agent.listed(), agent.progress())
    if agent.failure:
        raise SweepError(f"{agent.failure}: the last lines of their output are above")
    if code == 0 and not display.leaders(agent.listed()):
        raise SweepError(f"no trial logged a {sweep.metric.name}")
    if code:
        display.say(f"paused; to go on: python sweeps/agent.py {shlex.join(sys.argv[1:])}")
    else:
        display.say(f"to train the best on all images: python sweeps/final.py {name}")
    return code


def main(arguments: Sequence[str]) -> int:
    """Run a sweep, or say in one line what keeps it from running; returns the exit code."""
    try:
        return run_sweep(parse(arguments))
    except (UserError, SweepError, OSError) as error:
        print(f"agent.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except (StorageInternalError, SQLAlchemyError) as error:
        print(f"agent.py: the storage does not answer: {reason_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before there is a trial
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
