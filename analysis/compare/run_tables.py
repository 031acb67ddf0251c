"""Runs as a table in a terminal."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from analysis.compare.comparability import warning_of
from analysis.compare.text_table import TESTED, Column, print_table, skipped
from analysis.read.figures import plus_minus, spread
from analysis.read.recipe import differing_settings
from analysis.read.records import STATES, RunList, RunRecord
from analysis.read.runs import best_of, curves, kept_value
from analysis.read.trials import counted_value, values_of_best
from analysis.terminal import SPARKLINE_WIDTH, clock, number, number_or_dash, sparkline
from data.metrics import Best, Curve, Metric, is_finite, metrics_of_finals, shown
from data.visible import counted, say

MOST_SETTINGS = 5  # columns of settings that differ
MOST_REASONS = 10
MOST_TRIALS = 5  # whose means are told
RANKINGS = ("best", "accuracy")


class Row(NamedTuple):
    """A run in the table, and the metric that is shown of it."""

    record: RunRecord
    curve: Curve
    best: Best | None
    kept: Best | None  # what the weights that the run has kept have of it
    cost: float  # of the best value, the less the better; infinite for a run without one


# What the rows can be sorted by; what the key is least for comes first.
SORTS: dict[str, Callable[[Row], Any]] = {
    "best": lambda row: row.cost,
    "age": lambda row: -row.record.created.timestamp(),
    "accuracy": lambda row: largest_first(row.record.summary.get("test/accuracy")),
    "duration": lambda row: largest_first(row.record.train_seconds),
    "epochs": lambda row: largest_first(epochs_of(row)),
    "run": lambda row: row.record.run_id,
}


def largest_first(value: Any) -> float:
    """Return a key that sorts the largest number first, and what is no number last."""
    return -value if is_finite(value) else math.inf


def epochs_of(row: Row) -> int | None:
    """Return how many epochs a run has trained; None where neither its summary nor its curve says."""
    counts = [row.record.summary.get("epochs"), *(epoch for epoch, _ in row.curve[-1:])]
    return next((int(count) for count in counts if count is not None and is_finite(count)), None)


def age(created: datetime, now: datetime) -> str:
    """Return how long ago a run was started, in days or as a clock shows it."""
    seconds = max(0.0, (now - created).total_seconds())
    days = int(seconds // 86400)
    return f"{days}d" if days > 1 else clock(seconds)


def print_runs(runs: RunList, metric: Metric, sort: str, limit: int) -> None:
    """Print a table of runs, and a line that counts them.

    A ranking has the final runs in a table of their own, means of trials and of final runs, and a warning where it is
    no fair one.

    Args:
        runs: the runs to list, the newest first.
        metric: the metric whose best value and course are shown.
        sort: a key of SORTS.
        limit: the most rows of a table; the means are over all runs.
    """
    found, is_ranking = runs.records, sort in RANKINGS
    listed = found[:limit] if sort == "age" else found  # by age they are sorted, and the others' curves need no reading
    if is_ranking:
        listed = sorted(listed, key=lambda record: record.created)  # of equal runs the first is the best
    rows = sorted(rows_of(listed, metric), key=SORTS[sort])
    all_finals = [row for row in rows if is_ranking and row.record.is_final]
    all_searched = [row for row in rows if not (is_ranking and row.record.is_final)]
    searched, finals = all_searched[:limit], all_finals[:limit]
    rows = searched + finals
    columns = columns_of(rows, metric)
    print_table(columns, searched, f"runs by {sort}, with their best {metric.name}")
    print_table(columns, finals, "final runs, with the settings of the best trials")
    lines = means_of_trials(all_searched, metric) if is_ranking else []
    lines += [*means_of_finals([row.record for row in all_finals], metric), *reasons([row.record for row in rows])]
    lines += [warning_of([row.record for row in searched])] if is_ranking else []
    say(*filter(None, lines), count_line(runs, len(rows)))


def count_line(runs: RunList, num_shown: int) -> str:
    """Return the line that counts the runs by their ends, and names some of what is no run."""
    counts = Counter(record.state for record in runs.records)
    ends = ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])
    of_all = f"{num_shown:,} of " if len(runs.records) > num_shown else ""
    left_out = skipped("folders that are no run", runs.skipped)
    return f"{of_all}{counted(len(runs.records), 'run')}{': ' if ends else ''}{ends}{left_out}"


def means_of_trials(rows: Sequence[Row], metric: Metric) -> list[str]:
    """Return a line for each of the best trials with several runs: mean and deviation over its seeds or folds.

    The table ranks runs, of which the luckiest seed or the easiest fold stands first. A trial that was ended early,
    with fewer runs than the best of its sweep, takes the place that it counts with.

    Args:
        rows: of runs that are no final ones.
        metric: whose best values are meant.
    """
    by_sweep: dict[str, dict[str, list[float]]] = {}
    for row in sorted(rows, key=lambda row: row.record.order_of_seeds):
        if row.best is not None and row.record.sweep and row.record.state != "failed":
            of_sweep = by_sweep.setdefault(row.record.sweep, {})
            of_sweep.setdefault(row.record.first_of_trial, []).append(row.best.value)
    found = []
    for trials in by_sweep.values():
        better = values_of_best(trials.values(), metric)
        several = {trial: values for trial, values in trials.items() if len(values) > 1}
        found += [(metric.cost(counted_value(own, better, metric)), trial, own) for trial, own in several.items()]
    return [
        f"mean of {trial}: {metric.name} {plus_minus(spread(values), metric.name)} ({counted(len(values), 'run')})"
        for _, trial, values in sorted(found)[:MOST_TRIALS]
    ]


def means_of_finals(finals: Sequence[RunRecord], metric: Metric) -> list[str]:
    """Return a line for the final runs of each trial that says what they reach: mean and deviation over the seeds.

    Each figure is told with the number of runs that have it.

    Args:
        finals: the runs.
        metric: whose test figure comes first.
    """
    by_trial: dict[str, list[RunRecord]] = {}
    for record in finals:
        by_trial.setdefault(record.name_of_seeds, []).append(record)
    lines = []
    for trial, records in by_trial.items():
        by_number: dict[int, list[str]] = {}  # of the runs that have a figure
        for name in (each.name for each in metrics_of_finals(metric)):
            if by_number and name == metric.name:
                continue  # of the held-out images, beside figures of test images
            if known := [record.summary[name] for record in records if is_finite(record.summary.get(name))]:
                by_number.setdefault(len(known), []).append(f"{name} {plus_minus(spread(known), name)}")
        if means := [f"{', '.join(texts)} ({counted(number, 'run')})" for number, texts in by_number.items()]:
            lines.append(f"mean of {trial}: {', '.join(means)}")
    return lines


def reasons(records: Sequence[RunRecord]) -> list[str]:
    """Return a line for each of the runs that failed and say why."""
    lines = [f"{record.run_id} failed: {record.error}" for record in records if record.error]
    return lines[:MOST_REASONS]


def rows_of(records: Sequence[RunRecord], metric: Metric) -> list[Row]:
    """Return the rows of runs, in their order."""
    rows = []
    for record, curve in zip(records, curves(records, metric.name), strict=True):
        best = best_of(record, curve, metric)
        kept = kept_value(record, metric)
        is_same = kept is None or best is None or math.isclose(kept.value, best.value, rel_tol=1e-6)
        cost = math.inf if best is None or record.state == "failed" else metric.cost(best.value)
        rows.append(Row(record, curve, best, best if is_same else kept, cost))
    return rows


def columns_of(rows: Sequence[Row], metric: Metric) -> list[Column]:
    """Return the heading of each column, and what makes a row's cell in it."""
    records = [row.record for row in rows]
    sweeps = {record.sweep for record in records}
    is_one_sweep = len(sweeps - {""}) == len(sweeps) == 1
    searched = [record.settings for record in records if is_one_sweep and not record.is_final]
    now = datetime.now(UTC)
    kept: list[Column] = [("of kept weights", lambda row: figure(metric, row.kept))]
    columns: list[Column] = [
        ("sweep", lambda row: row.record.sweep),
        ("run", lambda row: row.record.run_id),
        ("model", lambda row: row.record.model),
        ("dataset", lambda row: row.record.dataset),
        ("state", lambda row: row.record.state),
        ("epochs", lambda row: number(epochs_of(row))),
        (metric.name, lambda row: figure(metric, row.best)),
        *(kept if any(row.kept != row.best for row in rows) else []),
        ("course", lambda row: sparkline([value for _, value in row.curve], SPARKLINE_WIDTH)),
        *((heading, partial(test_figure, name)) for name, heading in TESTED.items()),
        ("age", lambda row: age(row.record.created, now)),
        ("duration", lambda row: "" if (seconds := row.record.train_seconds) is None else clock(seconds)),
        *(setting_column(name) for name in differing_settings(searched)[:MOST_SETTINGS]),
    ]
    return columns if len(sweeps) > 1 else columns[1:]


def setting_column(name: str) -> Column:
    """Return the column of a setting."""
    return name, lambda row: number_or_dash(row.record.settings.get(name))


def test_figure(name: str, row: Row) -> str:
    """Return a test figure of a run as text; "" for none."""
    return shown(name, row.record.summary.get(name))


def figure(metric: Metric, best: Best | None) -> str:
    """Return a run's best value of a metric as text; "" for none."""
    return shown(metric.name, best and best.value)
