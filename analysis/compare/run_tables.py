"""Runs and sweeps as tables in a terminal."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from analysis.compare.results_table import plus_minus
from analysis.read.index import Curve
from analysis.read.recipe import differing_settings
from analysis.read.records import STATES, Filter, RunList, RunRecord
from analysis.read.runs import best_of, curves
from analysis.read.sweeps import SweepList, SweepRecord
from analysis.terminal import clock, make_console, make_table, number, sparkline
from data.metrics import Best, Metric, is_finite

SPARKLINE_WIDTH = 16
MOST_SETTINGS = 5  # columns of settings that differ
COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red", "unfinished": "cyan"}
FLUSH_LEFT = {"sweep", "run", "model", "dataset", "state", "course", "method", "metric"}  # headings of columns
FLUSH_LEFT |= {"values in order", "best settings"}


class Row(NamedTuple):
    """A run in the table, and the metric that is shown of it."""

    record: RunRecord
    curve: Curve
    best: Best | None
    cost: float  # of the best value, the less the better; infinite for a run without one


# What the rows can be sorted by; what the key is least for comes first.
SORTS: dict[str, Callable[[Row], Any]] = {
    "best": lambda row: row.cost,
    "age": lambda row: -row.record.created.timestamp(),
    "accuracy": lambda row: largest_first(row.record.summary.get("test/accuracy")),
    "duration": lambda row: largest_first(seconds_of(row.record)),
    "epochs": lambda row: largest_first(epochs_of(row)),
    "run": lambda row: row.record.run_id,
}


def largest_first(value: Any) -> float:
    """Return a key that sorts the largest number first, and what is no number last."""
    return -value if is_finite(value) else math.inf


def seconds_of(record: RunRecord) -> float | None:
    """Return how long a run has trained, in seconds; None where its summary does not say."""
    seconds = record.summary.get("train_seconds")
    return seconds if is_finite(seconds) else None


def epochs_of(row: Row) -> int | None:
    """Return how many epochs a run has trained; None where neither its summary nor its curve says."""
    epochs = row.record.summary.get("epochs", row.curve[-1][0] if row.curve else None)
    return int(epochs) if is_finite(epochs) else None


def age(created: datetime, now: datetime) -> str:
    """Return how long ago a run was started, in days or as a clock shows it."""
    seconds = max(0.0, (now - created).total_seconds())
    days = int(seconds // 86400)
    return f"{days}d" if days > 1 else clock(seconds)


def print_runs(runs: RunList, wanted: Filter, metric: Metric, sort: str, limit: int) -> None:
    """Print a table of runs, and a line that counts them.

    Args:
        runs: all the runs.
        wanted: which of them to list.
        metric: the metric whose best value and course are shown.
        sort: a key of SORTS.
        limit: the most rows.
    """
    found = wanted.apply(runs.records)
    listed = found[:limit] if sort == "age" else found  # by age they are sorted, and the others' curves need no reading
    rows = sorted(rows_of(listed, metric), key=SORTS[sort])[:limit]
    print_table(columns_of(rows, metric), rows, f"runs by {sort}, with their best {metric.name}")
    counts = Counter(record.state for record in found)
    ends = ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])
    shown = f"{len(rows):,} of " if len(found) > limit else ""
    print(f"{shown}{len(found):,} runs{': ' * bool(ends)}{ends}{skipped(runs.num_skipped, 'folders that are no run')}")


def rows_of(records: Sequence[RunRecord], metric: Metric) -> list[Row]:
    """Return the rows of runs, in their order."""
    rows = []
    for record, curve in zip(records, curves(records, metric.name), strict=True):
        best = best_of(record, curve, metric)
        rows.append(Row(record, curve, best, metric.cost(best.value) if best else math.inf))
    return rows


def columns_of(rows: Sequence[Row], metric: Metric) -> list[tuple[str, Callable[[Row], str]]]:
    """Return the heading of each column, and what makes a row's cell in it."""
    records = [row.record for row in rows]
    sweeps = {record.sweep for record in records}
    is_one_sweep = len(sweeps - {""}) == len(sweeps) == 1
    searched = [record.settings for record in records if is_one_sweep and not record.is_final]
    now = datetime.now(UTC)
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("sweep", lambda row: row.record.sweep),
        ("run", lambda row: row.record.run_id),
        ("model", lambda row: row.record.model),
        ("dataset", lambda row: row.record.dataset),
        ("state", lambda row: row.record.state),
        ("epochs", lambda row: number(epochs_of(row))),
        (metric.name, lambda row: f"{row.best.value:.4f}" if row.best else ""),
        ("course", lambda row: sparkline([value for _, value in row.curve], SPARKLINE_WIDTH)),
        ("test acc.", lambda row: percent(row.record.summary.get("test/accuracy"))),
        ("age", lambda row: age(row.record.created, now)),
        ("duration", lambda row: "" if (seconds := seconds_of(row.record)) is None else clock(seconds)),
        *(setting_column(name) for name in differing_settings(searched)[:MOST_SETTINGS]),
    ]
    return columns if len(sweeps) > 1 else columns[1:]


def setting_column(name: str) -> tuple[str, Callable[[Row], str]]:
    """Return the column of a setting."""
    return name, lambda row: number(row.record.settings.get(name))


def percent(value: Any) -> str:
    """Return a share in percent; "" for what is no number."""
    return f"{value:.2%}" if is_finite(value) else ""


def print_sweeps(sweeps: SweepList) -> None:
    """Print a table of sweeps, and a line that counts them."""
    columns: list[tuple[str, Callable[[SweepRecord], str]]] = [
        ("sweep", lambda sweep: sweep.name),
        ("method", lambda sweep: sweep.method),
        ("metric", lambda sweep: sweep.metric.name),
        ("trials", lambda sweep: str(len(sweep.trials))),
        ("done", lambda sweep: num_trials(sweep, "COMPLETE")),
        ("early", lambda sweep: num_trials(sweep, "PRUNED")),
        ("failed", lambda sweep: num_trials(sweep, "FAIL")),
        ("best", lambda sweep: f"{sweep.leaders[0].value:.4f}" if sweep.leaders else ""),
        ("values in order", lambda sweep: sparkline(values_in_order(sweep), SPARKLINE_WIDTH)),
        ("best settings", best_settings),
        ("final test acc.", final_accuracy),
    ]
    print_table(columns, sweeps.sweeps, "sweeps")
    print(f"{len(sweeps.sweeps):,} sweeps{skipped(sweeps.num_skipped, 'no sweep that ranks its runs')}")


def num_trials(sweep: SweepRecord, state: str) -> str:
    """Return how many of a sweep's trials are in a state; "" for none."""
    return number(sum(trial.state == state for trial in sweep.trials) or None)


def values_in_order(sweep: SweepRecord) -> list[float]:
    """Return the finite values of a sweep's trials, in the order in which the trials were started."""
    return [trial.value for trial in sweep.trials if trial.value is not None and is_finite(trial.value)]


def best_settings(sweep: SweepRecord) -> str:
    """Return what a sweep's best trial has for the settings that are searched; "" where no trial has a value yet."""
    names = sweep.varied if sweep.leaders else ()
    return " ".join(f"{name}={number(sweep.leaders[0].settings.get(name))}" for name in names)


def final_accuracy(sweep: SweepRecord) -> str:
    """Return the test accuracy of the final runs of a sweep's best trial; "" where there is none."""
    try:
        return plus_minus(sweep.final["trials"][0]["test/accuracy"], "test/accuracy")
    except (KeyError, IndexError, TypeError, ValueError):  # there are no final runs yet, or the file is not ours
        return ""


def print_table(columns: Sequence[tuple[str, Callable[[Any], str]]], rows: Sequence[Any], title: str) -> None:
    """Print a table with a row for each of `rows`; nothing where there are none.

    Args:
        columns: heading of each column, and what makes a row's cell in it.
        rows: what the rows show.
        title: stands above the table.
    """
    if not rows:
        return
    table: Table = make_table([heading for heading, _ in columns], title)
    for column, (heading, _) in zip(table.columns, columns, strict=True):
        if heading in FLUSH_LEFT:
            column.justify = "left"
    for row in rows:
        cells = [(heading, cell(row)) for heading, cell in columns]
        table.add_row(*(Text(text, COLOURS.get(text, "") if heading == "state" else "") for heading, text in cells))
    make_console().print(table)


def skipped(number: int, what: str) -> str:
    """Return the end of a line of counts that says how much could not be read; "" for nothing."""
    return f"; {number:,} skipped: {what}, or a broken one" if number else ""
