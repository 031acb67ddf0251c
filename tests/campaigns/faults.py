"""One episode of a campaign: a program that is struck again and again, until it is let go on to its end."""

import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil

from analysis.record import run_folder
from sweeps.local.trial_run import MOST_INTERRUPTIONS
from tests.campaigns.processes import SHARED, descendants, start, start_for_real
from tests.campaigns.programs import Problem, Program

SIGNALS: dict[str, Sequence[int]] = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGHUP": (signal.SIGHUP,),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGTERM, SIGKILL": (signal.SIGTERM, signal.SIGKILL),
}
SECONDS_TO_END = 120.0  # after a signal
SECONDS_IN_PEACE = 900.0  # of a program that nobody disturbs, on a machine that is busy
SECONDS_OF_ORPHANS = 30.0  # in which they may save their state
MOST_CHANGES = {"train": 60, "analysis": 12, "sweeps": 60}  # files that a program changes, about
SHARE_AT_A_CHANGE = 0.4  # of the strikes, the others come at any time


class Hangs(Exception):
    """A program does not end."""


class Episode:
    """A program under one kind of fault.

    Args:
        program: with its files.
        signals: that make up one strike.
        seconds: that the program takes, about, where nobody disturbs it.
        draws: random numbers.
        for_real: whether the program is started as a user starts it.
        server: id of a process below which nothing counts as an orphan.
    """

    def __init__(
        self, program: Program, signals: Sequence[int], seconds: float, draws: random.Random,
        for_real: bool = False, server: int = 0,
    ) -> None:  # fmt: skip
        self.program = program
        self.signals = signals
        self.seconds = seconds
        self.draws = draws
        self.for_real = for_real
        self.server = server
        self.problems: list[Problem] = []
        self.process: Any = None  # while it runs: a Child or a Popen
        self.num_rows: dict[str, list[int]] = {}  # rows of each run whenever it was struck

    def run(self, most: int) -> int:
        """Strike so often, unless the program is done before; return how often it was struck."""
        num = 0
        try:
            while num < most:
                if self.process is None:
                    self.begin(may_strike_itself=True)
                end = time.monotonic() + self.draws.uniform(0, self.seconds)
                while time.monotonic() < end and self.process.poll() is None:
                    time.sleep(0.002)
                if self.process.poll() is None:
                    num += self.strike()
                if self.process.poll() is not None:
                    num += SHARED.num_struck
                    is_done = self.process.returncode == 0 and not (self.struck or SHARED.num_struck)
                    self.check_exit()
                    if is_done and num and not self.is_startable_again():
                        break
            self.let_end()
        except Hangs as error:
            self.problems.append(Problem("wrong", f"{error} does not end"))
        self.clear_away()
        return num

    def is_startable_again(self) -> bool:
        """Whether the program does its work anew at each start."""
        return self.program.module.startswith("analysis.")

    def begin(self, may_strike_itself: bool = False) -> None:
        """Start the program."""
        SHARED.num_struck = 0
        strike = None
        if may_strike_itself and len(self.signals) == 1 and self.draws.random() < SHARE_AT_A_CHANGE:
            strike = self.signals[0], self.draws.randint(1, MOST_CHANGES[self.program.module.partition(".")[0]])
        self.process = (start_for_real if self.for_real else start)(self.program.start(strike))
        self.struck = False

    def strike(self) -> int:
        """Send the signals to the program, to one of its runs, or to all of them; return whether anybody was there."""
        victims = self.choose_victims()
        if not victims:
            return 0
        for i, number in enumerate(self.signals):
            if i:
                time.sleep(self.draws.choice((0.01, 0.2, 1.1)) * self.draws.random() * 2)
            for pid in victims:
                with suppress(ProcessLookupError):
                    if pid != self.process.pid or self.process.poll() is None:
                        os.kill(pid, number)
        if self.process.pid in victims:
            self.struck = True
            self.wait()
        return 1

    def choose_victims(self) -> list[int]:
        """Ids of the processes that are struck."""
        kind = self.draws.choice(("program", "program", "run", "all")) if self.program.starts_runs else "program"
        runs = descendants(self.server)
        runs = [one for one in runs if one.pid != self.process.pid]
        if kind == "program" or (kind == "run" and not runs):
            return [self.process.pid]
        chosen = runs if kind == "all" else [self.draws.choice(runs)]
        if not all(map(self.may_be_struck, chosen)):
            return [self.process.pid]
        return [one.pid for one in chosen] + ([self.process.pid] if kind == "all" else [])

    def may_be_struck(self, process: psutil.Process) -> bool:
        """Whether a run may be struck once more: a trial that gets no further so often is given up, as is promised."""
        try:
            run = process.environ().get("WANDB_RUN_ID", "")
        except psutil.Error:
            return False
        [folder] = list(self.program.runs_dir.rglob(run))[:1] or [self.program.runs_dir]
        seen = self.num_rows.setdefault(run, [])
        seen.append(len(run_folder.read_metrics(folder)))
        return seen.count(seen[-1]) < MOST_INTERRUPTIONS

    def wait(self, seconds: float = SECONDS_TO_END) -> None:
        """Wait until the program has ended."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise Hangs(f"{self.program.module} ({self.process.pid})")
            time.sleep(0.01)

    def check_exit(self) -> None:
        """Look at how the program has ended, and at its files."""
        code = self.process.returncode
        if code not in self.fitting_codes():
            self.problems.append(Problem("wrong", f"exit code {code}"))
        if self.draws.random() < 0.5:  # else the next start meets what is left of this one
            self.count_orphans()
        self.problems += self.program.after_a_fault()
        self.process = None

    def fitting_codes(self) -> set[int]:
        """The exit codes with which the program may have ended."""
        fitting = {0} | self.program.own_codes()
        if self.struck or SHARED.num_struck:
            fitting |= {code for number in self.signals for code in (-number, 128 + number)}
        return fitting

    def count_orphans(self) -> None:
        """See that nothing is left of the program; kill what is."""
        end = time.monotonic() + SECONDS_OF_ORPHANS
        while (left := descendants(self.server)) and time.monotonic() < end:
            self.reap()
            time.sleep(0.05)
        for process in left:
            with suppress(psutil.Error):
                self.problems.append(Problem("orphans", f"{process.pid}: {' '.join(process.cmdline()[:3])}"))
                process.kill()
        self.reap()

    def reap(self) -> None:
        """Bury dead orphans, which are children of this process."""
        for process in psutil.Process().children():
            with suppress(psutil.Error, ChildProcessError):
                is_own = self.process is not None and process.pid == self.process.pid
                if process.pid != self.server and not is_own:
                    os.waitpid(process.pid, os.WNOHANG)

    def let_end(self) -> None:
        """Let the program come to its end by the same command, and look at what there is then."""
        if self.process is not None:
            self.wait(SECONDS_IN_PEACE)
            self.check_exit()
        is_whole = False
        for _ in range(2 if self.program.own_codes() else 1):  # a run of it may still be saving its state
            self.begin()
            self.wait(SECONDS_IN_PEACE)
            code = self.process.returncode
            self.process = None
            is_whole = is_whole or code == 0
        if not is_whole:
            self.problems.append(Problem("wrong", f"exit code {code} of the last start"))
        self.count_orphans()
        self.problems += self.program.after_a_fault()
        self.problems += self.program.at_the_end()

    def clear_away(self) -> None:
        """Kill whatever is left."""
        for process in descendants(self.server):
            with suppress(psutil.Error):
                process.kill()
        self.process = None
        time.sleep(0.05)
        self.reap()


def seconds_of(program: Program) -> tuple[float, int]:
    """Run a program in peace; return how long that took, and its exit code."""
    started = time.monotonic()
    code = start(program.start()).wait()
    return time.monotonic() - started, code
