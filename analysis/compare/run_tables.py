"""Runs and sweeps as tables in a terminal."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from analysis.compare.comparability import warning_of
from analysis.read.figures import plus_minus, spread
from analysis.read.recipe import differing_settings
from analysis.read.records import STATES, RunList, RunRecord
from analysis.read.runs import best_of, curves, kept_value
from analysis.read.sweeps import SweepList, SweepRecord
from analysis.read.trials import counted_value, values_of_best
from analysis.terminal import clock, make_console, make_table, number, number_or_dash, sparkline, table_width
from data.metrics import TEST_METRICS, Best, Curve, Metric, is_finite, metrics_of_finals, shown
from data.visible import counted, listed, say, visible

SPARKLINE_WIDTH = 16
MOST_SETTINGS = 5  # columns of settings that differ
COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red", "unfinished": "cyan"}
FLUSH_LEFT = {"sweep", "run", "model", "dataset", "state", "course", "method", "metric"}  # headings of columns
FLUSH_LEFT |= {"values in order", "best settings", "setting", "values"}
NAMES = ("sweep", "run")  # columns that are never left out or clipped: other commands take what stands there
TESTED = {"test/accuracy": "test acc.", "test/mAP": "test mAP"}  # the headings of test figures
OWN_FINAL = "final by its metric"
WHERE_KNOWN = {*TESTED.values(), *(f"final {heading}" for heading in TESTED.values()), OWN_FINAL}  # are never empty
# Columns that a narrow terminal does without, the first of them first.
NARROW_FIRST = (
    "course",
    "values in order",
    "duration",
    "dataset",
    "age",
    "epochs",
    *TESTED.values(),
    "model",
    "method",
)
NUM_KEPT = 3  # of the other columns, the first of which say most
LONGEST_CELL = 60  # letters
MOST_NAMED = 5  # folders
MOST_REASONS = 10
MOST_TRIALS = 5  # whose means are told
RANKINGS = ("best", "accuracy")

Column = tuple[str, Callable[[Any], str]]  # its heading, and what makes a row's cell


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


def print_sweeps(sweeps: SweepList) -> None:
    """Print a table of sweeps, and a line that counts them."""
    columns: list[Column] = [
        ("sweep", lambda sweep: sweep.name),
        ("method", lambda sweep: sweep.method),
        ("metric", lambda sweep: sweep.metric.name),
        ("trials", lambda sweep: str(len(sweep.trials))),
        ("done", lambda sweep: num_trials(sweep, "COMPLETE")),
        ("early", lambda sweep: num_trials(sweep, "PRUNED")),
        ("failed", lambda sweep: num_trials(sweep, "FAIL")),
        ("best", best_value),
        ("values in order", lambda sweep: sparkline(values_in_order(sweep), SPARKLINE_WIDTH)),
        ("best settings", best_settings),
        *((f"final {heading}", partial(final_figure, name)) for name, heading in TESTED.items()),
        (OWN_FINAL, own_final_figure),
    ]
    print_table(columns, sweeps.sweeps, "sweeps")
    say(f"{counted(len(sweeps.sweeps), 'sweep')}{skipped('no sweep that ranks its runs', sweeps.skipped)}")


def num_trials(sweep: SweepRecord, state: str) -> str:
    """Return how many of a sweep's trials are in a state; "" for none."""
    return number(sum(trial.state == state for trial in sweep.trials) or None)


def best_value(sweep: SweepRecord) -> str:
    """Return the value of a sweep's best trial, over several seeds with its deviation; "" where none has any yet."""
    if not sweep.leaders:
        return ""
    best = sweep.leaders[0]
    text = shown(sweep.metric.name, best.value, best.deviation)
    return f"{text} ({counted(len(best.seeds), best.what_over)})" if best.seeds else text


def values_in_order(sweep: SweepRecord) -> list[float]:
    """Return the finite values of a sweep's trials, in the order in which the trials were started."""
    return [trial.value for trial in sweep.trials if trial.value is not None and is_finite(trial.value)]


def best_settings(sweep: SweepRecord) -> str:
    """Return what a sweep's best trial has for the settings that are searched; "" where no trial has a value yet."""
    settings = sweep.leaders[0].settings if sweep.leaders else {}
    return " ".join(f"{name}={number(settings[name])}" for name in sweep.varied if name in settings)


def final_figure(name: str, sweep: SweepRecord) -> str:
    """Return a test figure of the final runs of a sweep's best trial; "" where there is none."""
    try:
        figure = sweep.final["trials"][0][name]
        return plus_minus(figure, name) if sweep.has_finals_of_its_best() else ""
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):  # no final runs yet, or a file not ours
        return ""


def own_final_figure(sweep: SweepRecord) -> str:
    """Return the test figure of a sweep's own metric in the final runs of its best trial; "" for a usual one."""
    name = metrics_of_finals(sweep.metric)[0].name
    return "" if name in TEST_METRICS else final_figure(name, sweep)


def print_table(columns: Sequence[Column], rows: Sequence[Any], title: str) -> None:
    """Print a table with a row for each of `rows`; nothing where there are none.

    Where the terminal is too narrow, it leaves out columns, those of NARROW_FIRST before others, and says which.

    Args:
        columns: heading of each column, and what makes a row's cell in it.
        rows: what the rows show.
        title: stands above the table.
    """
    if not rows:
        return
    console = make_console()
    cells = {heading: [clipped(heading, cell(row)) for row in rows] for heading, cell in columns}
    cells = {heading: texts for heading, texts in cells.items() if any(texts) or heading not in WHERE_KNOWN}
    # Whatever $FORCE_COLOR says: a file has no window.
    left_out = columns_to_leave_out(cells, console.width) if console.file.isatty() else []
    kept = {heading: texts for heading, texts in cells.items() if heading not in left_out}
    console.width = max(console.width, table_width(kept))  # what is wider still is folded by the terminal
    table: Table = make_table([visible(heading) for heading in kept], title)
    for column, heading in zip(table.columns, kept, strict=True):
        column.no_wrap = True
        if heading in FLUSH_LEFT:
            column.justify = "left"
    for texts in zip(*kept.values(), strict=True):
        pairs = zip(kept, texts, strict=True)
        table.add_row(*(Text(text, COLOURS.get(text, "") if heading == "state" else "") for heading, text in pairs))
    console.print(table)
    if left_out:
        console.print(Text(f"too narrow for {', '.join(map(visible, left_out))}: widen it, or write to a file"))


def clipped(heading: str, text: str) -> str:
    """Return the text of a cell as it is shown: one line and not too long, but for names, which others take."""
    if heading not in NAMES and len(text) > LONGEST_CELL:
        text = f"{text[: LONGEST_CELL - 1]}…"
    return visible(text)


def columns_to_leave_out(cells: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """Return the headings of the columns to leave out of a table so that it is not wider than a terminal."""
    kept = dict(cells)
    optional = [name for name in cells if name not in (*NARROW_FIRST, *NAMES)]
    droppable = [*(name for name in NARROW_FIRST if name in cells), *reversed(optional[NUM_KEPT:])]
    left_out: list[str] = []
    while table_width(kept) > width and len(left_out) < len(droppable):
        left_out.append(droppable[len(left_out)])
        del kept[left_out[-1]]
    return left_out


def skipped(what: str, names: Sequence[str]) -> str:
    """Return the end of a line of counts that says how much is left out, and names some; "" for nothing."""
    return f"; {len(names):,} skipped: {what}, a broken one or a copy ({listed(names, MOST_NAMED)})" if names else ""
