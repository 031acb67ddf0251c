"""Runs and sweeps as tables in a terminal, by `python -m analysis.runs`.

python -m analysis.runs                                the newest runs
python -m analysis.runs --sweep cnn_lr                 a sweep's runs, the best first, with the settings that differ
python -m analysis.runs --state failed --since 2d      what went wrong lately
python -m analysis.runs --sweeps                       every sweep
python -m analysis.runs --project ENTITY/PROJECT       what W&B keeps
"""

import math
import re
from argparse import ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from analysis.command_line import Parser, run_program, whole_number
from analysis.compare.results_table import plus_minus
from analysis.read.index import Curve
from analysis.read.runs import STATES, Filter, RunList, RunRecord, curves, differing_settings, is_maximized, read_runs
from analysis.read.sweeps import SweepRecord, read_sweeps
from analysis.terminal import clock, make_console, make_table, number, sparkline

NUM_SHOWN = 30
SPARKLINE_WIDTH = 16
MOST_SETTINGS = 5  # columns of settings that differ
COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red", "unfinished": "cyan"}
HOURS = {"h": 1, "d": 24, "w": 168}


class Row(NamedTuple):
    """A run, and the course of the metric asked for."""

    record: RunRecord
    curve: Curve
    best: float | None


# What rows can be sorted by, the first shown first; those that lack it come last.
SORTS: dict[str, Callable[[Row], Any]] = {
    "age": lambda row: -row.record.created.timestamp(),
    "accuracy": lambda row: negative(row.record.summary.get("test/accuracy")),
    "duration": lambda row: negative(seconds_of(row.record)),
    "epochs": lambda row: negative(epochs_of(row)),
    "run": lambda row: row.record.run_id,
}


def negative(value: Any) -> float:
    """A key that puts the largest first, and what is no number last."""
    return -value if isinstance(value, int | float) and math.isfinite(value) else math.inf


def seconds_of(record: RunRecord) -> float | None:
    """Seconds of training."""
    seconds = record.summary.get("train_seconds")
    return seconds if isinstance(seconds, int | float) else None


def epochs_of(row: Row) -> int | None:
    """Epochs that a run has trained for."""
    epochs = row.record.summary.get("epochs", row.curve[-1][0] if row.curve else None)
    return int(epochs) if isinstance(epochs, int | float) else None


def moment(text: str) -> datetime:
    """A point in time: a date, with or without a time, or so many hours, days or weeks ago."""
    if match := re.fullmatch(r"(\d+)([hdw])", text):
        return datetime.now(UTC) - timedelta(hours=int(match[1]) * HOURS[match[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)  # of a time without a zone, the machine's own
    except ValueError:
        raise ArgumentTypeError(f"{text} is no time: write 2026-11-25, or 12h, 3d or 2w for so long ago") from None


def age(created: datetime, now: datetime) -> str:
    """How long ago something was."""
    seconds = max(0.0, (now - created).total_seconds())
    days = int(seconds // 86400)
    return f"{days}d" if days > 1 else clock(seconds)


def percent(value: Any) -> str:
    """An accuracy."""
    return f"{value:.2%}" if isinstance(value, int | float) else ""


def rows_of(records: Sequence[RunRecord], metric: str, goal: str) -> list[Row]:
    """The records with their curves and best values."""
    is_better = max if goal == "maximize" else min
    return [
        Row(record, curve, is_better((value for _, value in curve), default=None))
        for record, curve in zip(records, curves(records, metric), strict=True)
    ]


def show_runs(options: Namespace, runs: RunList) -> None:
    """Print the runs that are asked for."""
    wanted = Filter(
        **{name: getattr(options, name) for name in ("sweep", "model", "dataset", "tag", "state", "since", "until")}
    ).apply(runs.records)
    goal = "maximize" if is_maximized(options.metric) else "minimize"
    sort = options.sort or ("best" if options.sweep else "age")
    chosen = wanted
    if sort == "age":  # else curves of runs that are not shown would be read
        chosen = wanted[: options.limit]
    rows = rows_of(chosen, options.metric, goal)
    sign = -1 if goal == "maximize" else 1
    rows.sort(key=SORTS.get(sort, lambda row: math.inf if row.best is None else sign * row.best))
    print_runs(rows[: options.limit], options.metric, sort)
    counts = Counter(record.state for record in wanted)
    ends = ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])
    shown = f"{min(options.limit, len(rows)):,} of " if len(wanted) > options.limit else ""
    print(f"{shown}{len(wanted):,} runs{': ' * bool(ends)}{ends}{skipped(runs.num_skipped, 'folders that are no run')}")


def skipped(number: int, what: str) -> str:
    """The end of a line that says how much was passed over."""
    return f"; {number:,} skipped: {what}, or a broken one" if number else ""


def print_runs(rows: Sequence[Row], metric: str, sort: str) -> None:
    """Print a table of runs."""
    records = [row.record for row in rows]
    sweeps = {record.sweep for record in records}
    of_one_sweep = len(sweeps - {""}) == len(sweeps) == 1
    settings = differing_settings([record for record in records if of_one_sweep and not record.is_final])[
        :MOST_SETTINGS
    ]
    headings = [
        "run",
        "model",
        "dataset",
        "state",
        "epochs",
        metric,
        "course",
        "test acc.",
        "age",
        "duration",
        *settings,
    ]
    with_sweep = len(sweeps) > 1
    table = make_table([*["sweep"] * with_sweep, *headings], f"runs by {sort}, with their best {metric}" * bool(rows))
    left_align(table, ("sweep", "run", "model", "dataset", "state", "course"))
    now = datetime.now(UTC)
    for row in rows:
        record, seconds = row.record, seconds_of(row.record)
        cells = [
            Text(record.run_id),
            Text(record.model),
            Text(record.dataset),
            Text(record.state, COLOURS[record.state]),
            Text(number(epochs_of(row))),
            Text("" if row.best is None else f"{row.best:.4f}"),
            Text(sparkline([value for _, value in row.curve], SPARKLINE_WIDTH)),
            Text(percent(record.summary.get("test/accuracy"))),
            Text(age(record.created, now)),
            Text("" if seconds is None else clock(seconds)),
            *(Text(number(record.settings.get(name))) for name in settings),
        ]
        table.add_row(*[Text(record.sweep)] * with_sweep, *cells)
    print_table(table)


def show_sweeps(options: Namespace) -> None:
    """Print every sweep."""
    runs = read_runs(options.runs_dir, options.project)
    sweeps, num_skipped = read_sweeps(options.runs_dir, runs.records, options.project)
    headings = [
        "sweep",
        "method",
        "metric",
        "trials",
        "done",
        "early",
        "failed",
        "best",
        "values in order",
        "best settings",
    ]
    table = make_table([*headings, "final test acc."], "sweeps" * bool(sweeps))
    left_align(table, ("sweep", "method", "metric", "values in order", "best settings"))
    for sweep in sweeps:
        counts = Counter(trial.state for trial in sweep.trials)
        best = sweep.leaders[0] if sweep.leaders else None
        values = [trial.value for trial in sweep.trials if trial.value is not None and math.isfinite(trial.value)]
        varied = {name: best.settings.get(name) for name in sweep.varied} if best else {}
        cells = [
            sweep.name,
            sweep.method,
            sweep.metric.name,
            str(len(sweep.trials)),
            *(number(counts[state] or None) for state in ("COMPLETE", "PRUNED", "FAIL")),
            f"{best.value:.4f}" if best else "",
            sparkline(values, SPARKLINE_WIDTH),
            " ".join(f"{name}={number(value)}" for name, value in varied.items()),
            final_accuracy(sweep),
        ]
        table.add_row(*map(Text, cells))
    print_table(table)
    print(f"{len(sweeps):,} sweeps{skipped(num_skipped, 'no sweep that ranks its runs')}")


def final_accuracy(sweep: SweepRecord) -> str:
    """What the final runs of a sweep's best trial came to."""
    try:
        return plus_minus(sweep.final["trials"][0]["test/accuracy"], "test/accuracy")
    except (KeyError, IndexError, TypeError, ValueError):  # none yet, or not ours
        return ""


def left_align(table: Table, headings: Sequence[str]) -> None:
    """Set the columns of text flush left."""
    for column in table.columns:
        if str(column.header) in headings:
            column.justify = "left"


def print_table(table: Table) -> None:
    """Print a table, unless it is empty."""
    if table.row_count:
        make_console().print(table)


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line."""
    parser = Parser(prog="python -m analysis.runs", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--runs_dir", type=Path, help="folder of the runs; default: $VISION_SWEEPS_RUNS, else runs")
    parser.add_argument("--project", default="", help="entity/project of W&B, in place of a folder")
    parser.add_argument("--sweeps", action="store_true", help="list the sweeps, not the runs")
    for name in ("sweep", "model", "dataset", "tag"):
        parser.add_argument(f"--{name}", default="", help="runs of it alone; * and ? stand for anything")
    parser.add_argument("--state", default="", choices=STATES, help="runs that ended so; unfinished ones may still run")
    for name in ("since", "until"):
        parser.add_argument(f"--{name}", type=moment, help="2026-11-25, or 12h, 3d or 2w for so long ago")
    parser.add_argument("--metric", default="val/loss", help="whose best value and course are shown; default: val/loss")
    parser.add_argument("--sort", choices=("best", *SORTS), help="default: age, and best with --sweep")
    parser.add_argument("--limit", type=whole_number, default=NUM_SHOWN, help=f"rows shown; default: {NUM_SHOWN}")
    return parser.parse_args(arguments)


def show(options: Namespace) -> None:
    """Print what is asked for."""
    if options.sweeps:
        show_sweeps(options)
    else:
        show_runs(options, read_runs(options.runs_dir, options.project))


def main(arguments: Sequence[str]) -> int:
    """Show runs or sweeps, or say in one line what keeps them from being shown; returns the exit code."""
    return run_program("runs", lambda: show(parse(arguments)))
