"""What there is to compare of some runs: the metric that ranks them, their values, what varies, their curves."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from analysis.read.runs import UNCOMPARED, RunRecord, history, is_maximized
from analysis.read.sweeps import SweepRecord, Trial
from data.errors import UserError

KINDS = ("model", "dataset")
WIDE = 20  # a setting whose values lie further apart, as a factor, may have a logarithmic axis
MOST_POINTS = 500  # of a curve
DIGITS = 6  # significant ones of figures
STATES_OF_RUNS = {"finished": "finished", "stopped": "stopped", "failed": "failed", "unfinished": "not ended"}
STATES_OF_TRIALS = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "not ended"}


class Metric(NamedTuple):
    """What runs are ranked by."""

    name: str
    is_minimized: bool

    def cost(self, value: float) -> float:
        """`value` with the sign at which less is better."""
        return value if self.is_minimized else -value


class Setting(NamedTuple):
    """A setting that differs between the runs."""

    name: str
    is_number: bool
    is_log: bool  # whether its axis is
    num_deviating: int  # runs that have not its commonest value


@dataclass(frozen=True)
class Entry:
    """A run in a comparison.

    Attributes:
        record: what is known of it.
        number: its place in the order of their starts, from 1.
        state: how it ended, in a user's words.
        value: of the metric, at its best; None where it has none.
        best_epoch: the epoch of that value; None where that is not known.
        seconds: time of its training; None where that is not known.
        ended: when it ended, as far as that can be told; UTC.
    """

    record: RunRecord
    number: int
    state: str
    value: float | None
    best_epoch: int | None
    seconds: float | None
    ended: datetime

    @property
    def is_ranked(self) -> bool:
        """Whether it takes part: it has a value, and did not fail."""
        return self.value is not None and self.state != "failed"


@dataclass(frozen=True)
class Comparison:
    """Some runs beside each other.

    Attributes:
        title: what they are.
        metric: what they are ranked by.
        entries: the best first; those that failed or have no value last.
        varied: settings that differ between them, the most varied first.
        num_skipped: run folders that could not be read.
    """

    title: str
    metric: Metric
    entries: Sequence[Entry]
    varied: Sequence[Setting]
    num_skipped: int = 0

    @property
    def ranked(self) -> list[Entry]:
        """Those that take part, the best first."""
        return [entry for entry in self.entries if entry.is_ranked]


def compare(
    title: str, records: Sequence[RunRecord], metric: Metric, sweeps: Iterable[SweepRecord] = (), num_skipped: int = 0
) -> Comparison:
    """Rank runs and find out in what they differ.

    Args:
        title: what they are.
        records: the runs.
        metric: what they are ranked by.
        sweeps: that know more of their trials than their folders do.
        num_skipped: run folders that could not be read.

    Raises:
        UserError: there are no runs.
    """
    if not records:
        raise UserError(f"{title}: there are no runs to compare; train some, or name others")
    trials = {
        (sweep.name, trial.run_id): trial
        for sweep in sweeps
        if (sweep.metric.name, sweep.metric.goal == "minimize") == metric
        for trial in sweep.trials
    }
    by_start = sorted(records, key=lambda record: (record.created, record.run_id))
    entries = [
        entry_of(record, i, metric, trials.get((record.sweep, record.run_id))) for i, record in enumerate(by_start, 1)
    ]
    entries.sort(key=lambda entry: (not entry.is_ranked, metric.cost(entry.value or 0.0), entry.number))
    searched = [entry.record.settings for entry in entries if not entry.record.is_final]
    return Comparison(title, metric, entries, varied_settings(searched or [r.settings for r in records]), num_skipped)


def entry_of(record: RunRecord, place: int, metric: Metric, trial: Trial | None) -> Entry:
    """A run as its sweep knows it, else as its own summary does, else by what it has logged."""
    seconds = number(record.summary.get("train_seconds"))
    if trial is not None:
        state = STATES_OF_TRIALS[trial.state]
        value, best_epoch = number(trial.value), trial.best_epoch
    else:
        is_early = record.state == "stopped" and record.sweep
        state = "final" if record.is_final else "stopped early" if is_early else STATES_OF_RUNS[record.state]
        value, best_epoch = best_value(record, metric)
    ended = trial.ended if trial else None
    return Entry(
        record, place, state, value, best_epoch, seconds, ended or record.created + timedelta(seconds=seconds or 0.0)
    )


def best_value(record: RunRecord, metric: Metric) -> tuple[float | None, int | None]:
    """A run's value of a metric, and its epoch: of its summary, else the best that it has logged."""
    if metric.name in record.summary or record.state == "finished":
        return number(record.summary.get(metric.name)), record.summary.get("best_epoch")
    rows = [row for row in history(record) if number(row.get(metric.name)) is not None]
    best = min(rows, key=lambda row: metric.cost(row[metric.name]), default={})
    return number(best.get(metric.name)), best.get("epoch")


def number(value: Any) -> float | None:
    """A finite number, to a few digits; None for anything else: W&B gives NaN and infinity as text."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def common_metric(records: Sequence[RunRecord]) -> Metric:
    """What runs of no one sweep can be ranked by: validation accuracy where most of them have one, else the loss."""
    num_accurate = sum("val/accuracy" in record.summary for record in records)
    return metric_of("val/accuracy" if 2 * num_accurate > len(records) else "val/loss")


def metric_of(name: str) -> Metric:
    """A metric by its name, which tells whether more is better."""
    return Metric(name, not is_maximized(name))


def varied_settings(all_settings: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The settings that have more than one value: model and dataset, then the most varied first."""
    names = dict.fromkeys(name for settings in all_settings for name in settings if name not in UNCOMPARED)
    found = [setting_of(name, [settings.get(name) for settings in all_settings]) for name in names]
    varied = [setting for setting in found if setting.num_deviating]
    return sorted(varied, key=lambda setting: (setting.name not in KINDS, -setting.num_deviating))


def setting_of(name: str, values: Sequence[Any]) -> Setting:
    """What a setting's values are like; None stands for a run that has no such setting, which deviates from nothing."""
    present = [value for value in values if value is not None]
    is_number = all(number(value) is not None for value in present)
    num_commonest = max(Counter(map(repr, present)).values(), default=0)
    is_log = is_number and (name == "lr" or lies_evenly_on_log(present))
    return Setting(name, is_number, is_log and min(present) > 0, len(present) - num_commonest)


def lies_evenly_on_log(values: Sequence[float]) -> bool:
    """Whether numbers are far apart, their median nearer to the middle of a logarithmic axis than of a plain one."""
    low, high, median = min(values), max(values), statistics.median(values)
    if low <= 0 or high < WIDE * low:
        return False
    plain = (median - low) / (high - low)
    logarithmic = math.log(median / low) / math.log(high / low)
    return abs(logarithmic - 0.5) < abs(plain - 0.5)


def curves_of(record: RunRecord) -> dict[str, list[float | None]]:
    """What a run logged in every epoch, thinned out to at most MOST_POINTS; "seconds" is its time of training."""
    rows = [row for row in history(record) if "lr" in row and number(row.get("epoch")) is not None]
    seconds = 0.0
    points = []
    for row in rows:
        seconds += number(row.get("epoch_seconds")) or 0.0
        points.append({**row, "seconds": seconds})
    stride = math.ceil(len(points) / MOST_POINTS) or 1
    points = points[-1::-stride][::-1]  # the last is kept
    names = dict.fromkeys(name for row in points for name in row if name.startswith(("train/", "val/")))
    return {name: [number(row.get(name)) for row in points] for name in ("epoch", "seconds", *names)}
