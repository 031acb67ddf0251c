"""What an agent shows of its sweep: a live table in a terminal, or lines in a log; at the end a leaderboard."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.read.trials import OBJECTIVES, seeds_done, value_text
from analysis.terminal import clock, make_console, make_table, number, number_or_dash
from data.metrics import shown
from data.pareto import pareto_front
from data.visible import counted, visible, visible_lines
from sweeps.local.promotion import is_waiting
from sweeps.local.repeats import value_of
from sweeps.local.sweep import Sweep
from sweeps.local.worth import costs_of

SECONDS_BETWEEN_DRAWINGS = 1.0
NUM_ROWS = 15
NUM_LEADERS = 10
WAITING = ("paused", "waiting")  # a trial that nobody runs: to go on, or at a rung
Running = Mapping[int, tuple[int, float]]  # epoch and seconds of each trial under way, by its number


class Display:
    """Shows how a sweep stands; used as a context, during which a terminal shows the table.

    Args:
        sweep: what is searched.
        name: name of the sweep.
        count: number of trials that there are to be; None for no limit.
        num_workers: trials at a time.
    """

    def __init__(self, sweep: Sweep, name: str, count: int | None, num_workers: int) -> None:
        self.sweep = sweep
        self.name = name
        self.count = count
        self.num_workers = num_workers
        self.console = make_console()
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.started = time.monotonic()
        self.drawn = 0.0
        self.is_unread = False  # since a pipe was closed, or the terminal

    def __enter__(self) -> "Display":
        if self.is_live():
            self.attempt(self.live.start)
        return self

    def __exit__(self, *exception: object) -> None:
        self.attempt(self.live.stop)

    def is_live(self) -> bool:
        """Return whether this is a terminal in which a table can be drawn again and again."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def attempt(self, write: Callable[[], object]) -> None:
        """Write something, and note if nobody is there to read it any more."""
        if self.is_unread:
            return
        try:
            write()
        except OSError:
            self.is_unread = True
            with suppress(OSError):  # what Python still has to write when it ends goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.console.file.fileno())

    def say(self, line: str) -> None:
        """Print a line that must not be missed."""
        self.attempt(lambda: self.console.print(visible_lines(line), markup=False, highlight=False))

    def log(self, line: str) -> None:
        """Print a line of the log; a terminal has the table instead."""
        if not self.is_live():
            self.say(f"{clock(time.monotonic() - self.started):>7}  {line}")

    def is_due(self) -> bool:
        """Return whether the table has to be drawn anew: one is shown, and it is some time since it was last drawn."""
        return self.is_live() and time.monotonic() - self.drawn >= SECONDS_BETWEEN_DRAWINGS

    def show(self, trials: Sequence[FrozenTrial], running: Running) -> None:
        """Draw the table again.

        Args:
            trials: all trials of the sweep.
            running: those that are under way, with any agent.
        """
        self.drawn = time.monotonic()
        newest = sorted(trials, key=lambda trial: (trial.number in running, trial.number))[-NUM_ROWS:]
        rows = self.table(sorted(newest, key=lambda trial: trial.number), running)
        drawing = Group(rows, Text(visible(self.summary(trials, running))))
        self.attempt(lambda: self.live.update(drawing, refresh=True))

    def summary(self, trials: Sequence[FrozenTrial], running: Running) -> str:
        """Return how many trials have ended, the best value so far and the time left, in one line."""
        num_ended = sum(self.has_ended(trial) for trial in trials)
        of_all = counted(self.count, "trial") if self.count else "any number of trials"
        parts = [f"{self.name}: {num_ended:,} of {of_all}"]
        if leaders := self.leaders(trials):
            best = leaders[0]
            name = self.sweep.metric.name
            parts.append(f"best {name} {shown(name, value_of(self.sweep.metric, best))} by trial {best.number}")
        seconds = self.seconds_left(trials, running)
        if seconds and round(seconds):
            parts.append(f"about {clock(seconds)} left")
        return ", ".join(parts)

    def has_ended(self, trial: FrozenTrial) -> bool:
        """Return whether nobody has to run a trial, unless it is promoted."""
        return trial.state.is_finished() or is_waiting(self.sweep, trial)

    def seconds_left(self, trials: Sequence[FrozenTrial], running: Running) -> float | None:
        """Estimate the time left by the mean duration of the trials so far, without the workers of other agents."""
        durations = [trial.user_attrs["seconds"] for trial in trials if self.has_ended(trial)]
        if not durations or self.count is None:
            return None
        mean = sum(durations) / len(durations)
        to_come = mean * (self.count - len(durations) - len(running))
        under_way = sum(max(0.0, mean - seconds) for _, seconds in running.values())
        return max(0.0, to_come + under_way) / self.num_workers

    def leaders(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials that have a value and have not failed, the best first; of several metrics by the first.

        With several, the trials of the Pareto front come before the others.
        """
        metric = self.sweep.metric
        known = [trial for trial in trials if trial.intermediate_values and trial.state != TrialState.FAIL]
        by_first = sorted(known, key=lambda trial: metric.cost(value_of(metric, trial)))
        front = self.front(trials)
        return sorted(by_first, key=lambda trial: bool(front) and trial.number not in front)

    def front(self, trials: Sequence[FrozenTrial]) -> set[int]:
        """Return the numbers of the trials that no other beats by every metric; none where there is one metric."""
        objectives = self.sweep.objectives
        if len(objectives.metrics) == 1:
            return set()
        costs = {trial.number: costs_of(objectives, trial) for trial in trials if trial.state != TrialState.FAIL}
        return set(pareto_front({number: known for number, known in costs.items() if known is not None}))

    def leaderboard(self, trials: Sequence[FrozenTrial], running: Running) -> None:
        """Print the best trials, and how many trials ended in which way."""
        leaders, front = self.leaders(trials), self.front(trials)
        table = self.table(leaders[: len(front) or NUM_LEADERS], running)
        what = "the best" if not front else "the Pareto front, which no other trial beats by every metric,"
        table.title = Text(f"{visible(self.name)}: {what} of {counted(len(trials), 'trial')}")
        self.attempt(lambda: self.console.print(table))
        ends = ", ".join(f"{count} {text}" for text, count in self.counts(trials, running).items() if count)
        self.say(f"{counted(len(trials), 'trial')}: {ends}; {clock(time.monotonic() - self.started)}")

    def counts(self, trials: Sequence[FrozenTrial], running: Running) -> dict[str, int]:
        """Return how many trials are in each state, in a user's words."""
        counts = Counter(self.state(trial, running) for trial in trials)
        return {text: counts[text] for text in ("finished", "stopped early", "failed", "running", *WAITING)}

    def table(self, trials: Sequence[FrozenTrial], running: Running) -> Table:
        """Return a table with a row for each trial."""
        metric, *others = (metric.name for metric in self.sweep.objectives.metrics)
        table = make_table(("trial", "state", "epoch", metric, *others, *self.sweep.varied({})))
        table.columns[1].justify = "left"
        for trial in trials:
            settings, further = trial.user_attrs.get("settings", {}), trial.user_attrs.get(OBJECTIVES, {})
            epoch, _ = running.get(trial.number, (len(trial.intermediate_values), 0.0))
            cells = [
                str(trial.number),
                self.state(trial, running),
                str(epoch),
                self.value(trial) if trial.intermediate_values else "",
                *(shown(name, further.get(name)) for name in others),
                *(number_or_dash(value) if settings else "" for value in self.sweep.varied(settings).values()),
            ]
            table.add_row(*(Text(visible(cell)) for cell in cells))
        return table

    def value(self, trial: FrozenTrial) -> str:
        """Return a trial's value as text, over several seeds or folds with its deviation and their number."""
        metric = self.sweep.metric
        return value_text(metric, value_of(metric, trial), seeds_done(trial.user_attrs), self.sweep.folds)

    def state(self, trial: FrozenTrial, running: Running) -> str:
        """Return a trial's state in a user's words."""
        ended = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
        if trial.number in running:
            return "running"
        return ended.get(trial.state, WAITING[is_waiting(self.sweep, trial)])

    def varied(self, settings: Mapping[str, Any]) -> str:
        """Return the settings that the sweep varies, in one line."""
        told = self.sweep.varied(settings)
        return " ".join(f"{name}={number(value)}" for name, value in told.items() if value is not None)
