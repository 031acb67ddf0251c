"""A comparison of runs: the metric that ranks them, the best value of each, the settings that differ, the curves."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from analysis.compare.comparability import warning_of
from analysis.compare.edges import ends_reached
from analysis.compare.fronts import Front, front_of
from analysis.compare.ranking import disagreement
from analysis.read.recipe import DRAWS, differing_settings
from analysis.read.records import RunRecord
from analysis.read.runs import best_values, history, kept_value, names_of_metrics
from analysis.read.sweeps import SweepRecord, entries_for
from analysis.read.trials import Trial, runs_of, valued_by_seeds
from data.errors import UserError
from data.metrics import RANKING, Best, Metric, is_epoch, is_finite, metric_named, metrics_of_finals

KINDS = ("model", "dataset")  # settings that tell what is trained: they come first
WIDE = 20  # a setting whose values lie further apart than by this factor may have a logarithmic axis
MOST_POINTS = 500  # of a curve
DIGITS = 6  # significant ones that a number keeps
TEST = "test/"  # metrics of test images begin with it
STATES_OF_RUNS = {"finished": "finished", "stopped": "stopped", "failed": "failed", "unfinished": "not ended"}
STATES_OF_TRIALS = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "not ended"}


class Setting(NamedTuple):
    """A setting that differs between the runs."""

    name: str
    is_number: bool  # whether all its values are numbers
    is_log: bool  # whether its axis is logarithmic
    num_deviating: int  # runs that do not have its most common value


@dataclass(frozen=True)
class Entry:
    """One run of a comparison.

    Attributes:
        record: what is known of the run.
        number: its place among the runs by the time of their start, from 1.
        state: how it ended, in words for a reader.
        value: its best value of the metric; None where it has none.
        best_epoch: the epoch of that value; None where there is no value.
        kept: what the weights that the run has kept have of the metric, and their epoch; None where that is not known,
            or is the best value.
        further: its best value of each further metric, by name; those that it has none of are left out.
        seconds: how long it trained; None where that is not known.
        ended: when it ended or, where that is not known, its start and the time that it trained; in UTC.
        is_ranked: whether it takes part in the ranking: it has a value, and did not fail.
        trial: the trial of several seeds that it is of, where that has a value of the metric; None for none.
    """

    record: RunRecord
    number: int
    state: str
    value: float | None
    best_epoch: int | None
    kept: Best | None
    further: Mapping[str, float | None]
    seconds: float | None
    ended: datetime
    is_ranked: bool
    trial: Trial | None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        title: headline that says which runs these are.
        metric: the metric that ranks them.
        entries: all the runs: those that are ranked, the best first, and then those that are not.
        varied: the settings that differ between the runs, the most varied first.
        further: names of the metrics that are shown beside the one that ranks the runs.
        skipped: folders beside them that hold no run, or a broken one.
        warning: in what the runs differ that makes their values no fair comparison; "" for nothing.
        edges: a line for each setting whose best value lies at an end of what its sweep has searched.
        front: what the runs reach by each metric of their sweep, if it is after several.
        tested: the trials of the sweeps, the best first by validation images, where the metric is of test images; else
            none.
    """

    title: str
    metric: Metric
    entries: Sequence[Entry]
    varied: Sequence[Setting]
    further: Sequence[str] = ()
    skipped: Sequence[str] = ()
    warning: str = ""
    edges: Sequence[str] = ()
    front: Front | None = None
    tested: Sequence[Entry] = ()

    @property
    def ranked(self) -> list[Entry]:
        """The runs that are ranked, the best first."""
        return [entry for entry in self.entries if entry.is_ranked]

    @property
    def trials(self) -> list[Entry]:
        """The ranked runs but for final ones, a trial's first for all its seeds, the best first by their means.

        By a metric of test images nothing is chosen: then it is the trials as their sweeps rank them.
        """
        if self.tested:
            return list(self.tested)
        first = [entry for entry in self.ranked if not entry.trial or entry.trial.run_id == entry.record.run_id]
        values = {entry.number: (entry.trial.value if entry.trial else entry.value) or 0.0 for entry in first}
        searched = [entry for entry in first if not entry.record.is_final]
        return sorted(searched, key=lambda entry: self.metric.cost(values[entry.number]))


def compare(
    title: str,
    records: Sequence[RunRecord],
    metric: Metric,
    sweeps: Iterable[SweepRecord] = (),
    skipped: Sequence[str] = (),
) -> Comparison:
    """Rank runs, and find the settings in which they differ.

    Args:
        title: headline of the comparison.
        records: the runs.
        metric: the metric that ranks them.
        sweeps: the runs' sweeps, which know more of their trials than the runs' own folders do.
        skipped: folders beside them that hold no run, or a broken one.

    Raises:
        UserError: there are no runs.
    """
    if not records:
        raise UserError(f"{title}: there are no runs to compare; train some, or name others")
    sweeps = list(sweeps)
    ranking = [sweep for sweep in sweeps if sweep.metric == metric]
    starts = {  # of runs, the last resumption
        (sweep.name, trial.run_id): trial.started for sweep in sweeps for trial in sweep.trials if trial.started
    }
    by_start = sorted(
        records, key=lambda record: (starts.get((record.sweep, record.run_id), record.created), record.run_id)
    )
    known = set[str]().union(*names_of_metrics(records))
    beside = [*map(metric_named, RANKING), *metrics_of_finals(metric)]
    further = [each for each in beside if each.name != metric.name and each.name in known]
    best = best_values(by_start, [metric, *further])
    pairs = list(zip(by_start, best, strict=True))
    finished = {
        (record.sweep, record.run_id): own[metric.name]
        for record, own in pairs
        if record.state == "finished" and metric.name in own
    }
    trials = {
        (sweep.name, run_id): trial
        for sweep in sweeps
        for trial in (sweep.trials if sweep.metric == metric else valued_by_another(metric, sweep, finished))
        for run_id in runs_of(trial.run_id, len(trial.seeds))
    }
    # W&B knows no more of a trial than of any other run, of which the history has the best value.
    of_runs = [trials.get((record.sweep, record.run_id)) if record.is_local else None for record in by_start]
    entries = [
        entry_of(record, place, metric, values, trial)
        for place, ((record, values), trial) in enumerate(zip(pairs, of_runs, strict=True), 1)
    ]
    front = front_of(ranking)
    best_by_all = set(front.best) if front else set[str]()  # of equal values of the first metric, these come first
    entries.sort(
        key=lambda entry: (
            not entry.is_ranked,
            metric.cost(entry.value or 0.0),
            entry.record.run_id not in best_by_all,
            entry.number,
        )
    )
    searched = [entry.record for entry in entries if not entry.record.is_final] or records
    varied = [
        setting._replace(is_log=setting.is_log and is_positive(setting.name, records))
        for setting in varied_settings([record.settings for record in searched])
    ]
    edges = [line for sweep in ranking for line in edges_of(sweep, is_one_of_many=len(ranking) > 1)]
    told = (warning_of(records), disagreement(metric, [sweep.metrics for sweep in sweeps]))
    warning, names = " ".join(filter(None, told)), [each.name for each in further]
    tested = tested_trials(entries, sweeps) if metric.name.startswith(TEST) else []
    return Comparison(title, metric, entries, varied, names, skipped, warning, edges, front, tested)


def valued_by_another(metric: Metric, sweep: SweepRecord, values: Mapping[tuple[str, str], Best]) -> list[Trial]:
    """Return a sweep's trials with their values of another metric, of several seeds or folds the mean over them.

    Trials of a single run have no value: that of the run is its best one.

    Args:
        metric: the one in place of the sweep's.
        sweep: the one.
        values: best values of the metric of runs that have finished, by their sweeps and names.
    """
    whole, others = [], []
    for trial in sweep.trials:
        places = [(sweep.name, run_id) for run_id in runs_of(trial.run_id, len(trial.seeds))[:-1]]
        if seeds := tuple(values[place] for place in places if place in values):
            whole.append(replace(trial, seeds=seeds))
        else:
            others.append(replace(trial, value=None))
    return [*valued_by_seeds(whole, metric), *others]


def tested_trials(entries: Sequence[Entry], sweeps: Iterable[SweepRecord]) -> list[Entry]:
    """Return the first run of each trial, the best first by the metric of its sweep."""
    by_place = {(entry.record.sweep, entry.record.run_id): entry for entry in entries}
    places = [(sweep.name, trial.run_id) for sweep in sweeps for trial in sweep.leaders]
    return [by_place[place] for place in places if place in by_place]


def value_of_recipe(entries: Sequence[Entry]) -> float:
    """Return what runs of one recipe reach: their mean or, of a trial's runs, the value that its sweep counts it with.

    A trial that was ended early has an estimate for the seeds that it was spared: its first may have been easy ones.
    """
    trials = {entry.trial.run_id: entry.trial for entry in entries if entry.trial}
    if len(trials) == 1 and all(entry.trial for entry in entries):
        [trial] = trials.values()
        assert trial.value is not None
        return trial.value
    return statistics.fmean(entry.value or 0.0 for entry in entries)


def edges_of(sweep: SweepRecord, is_one_of_many: bool) -> list[str]:
    """Return a line for each setting whose best value lies at an end of what a sweep has searched."""
    if not sweep.leaders:
        return []
    best = sweep.leaders[0].settings
    found = ends_reached(entries_for(sweep.content, best), best, len(sweep.leaders))
    return [f"{sweep.name}, {line}" if is_one_of_many else line for line in found]


def entry_of(record: RunRecord, place: int, metric: Metric, best: Mapping[str, Best], trial: Trial | None) -> Entry:
    """Return the entry of a run.

    Args:
        record: what is known of the run.
        place: its place by the time of its start.
        metric: the metric that ranks the runs.
        best: its best value of that metric and of further ones.
        trial: what its sweep knows of its trial, without a value where the sweep is by another metric: that is taken
            first, unless the trial has several runs; None for a run of no sweep.
    """
    state, ended, (value, best_epoch) = state_of(record), None, best.get(metric.name, (None, None))
    if trial is not None and not trial.seeds:
        state, ended = STATES_OF_TRIALS[trial.state], trial.ended
        if is_finite(trial.value):
            value, best_epoch = trial.value, trial.best_epoch
    kept = kept_value(record, metric)
    return Entry(
        record=record,
        number=place,
        state=state,
        value=finite(value),
        best_epoch=best_epoch,
        kept=kept if kept and finite(kept.value) != finite(value) else None,
        further={name: finite(known.value) for name, known in best.items() if name != metric.name},
        seconds=finite(record.train_seconds),
        ended=ended or end_of(record),
        # A final run that has validation images, for want of others, was not chosen by them.
        is_ranked=is_finite(value) and state != "failed" and (not record.is_final or metric.name.startswith(TEST)),
        trial=trial if trial is not None and trial.seeds and is_finite(trial.value) else None,
    )


def end_of(record: RunRecord) -> datetime:
    """Return when a run ended: as its summary says, else as far as its last start and the time that it trained tell."""
    with suppress(TypeError, ValueError):  # of a summary of an earlier version, or a damaged one
        ended = datetime.fromisoformat(record.summary.get("ended", ""))
        if ended.tzinfo is not None:
            return ended
    with suppress(OverflowError):  # started at the end of the calendar
        return record.created + timedelta(seconds=record.train_seconds or 0.0)
    return record.created


def state_of(record: RunRecord) -> str:
    """Return how a run ended, in words for a reader."""
    if record.is_final and record.state == "finished":
        return "final"
    return "stopped early" if record.sweep and record.state == "stopped" else STATES_OF_RUNS[record.state]


def finite(value: Any) -> float | None:
    """Return a finite number, to a few digits; None for anything else: W&B gives NaN and infinity as text."""
    if not is_finite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def varied_settings(all_settings: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Return the settings that have more than one value: model and dataset, then the others, the most varied first.

    Seeds and folds, of which a trial may have several, come last.
    """
    names = differing_settings(all_settings)
    varied = [setting_of(name, [settings.get(name) for settings in all_settings]) for name in names]
    return sorted(varied, key=lambda each: (each.name not in KINDS, each.name in DRAWS, -each.num_deviating))


def setting_of(name: str, values: Sequence[Any]) -> Setting:
    """Return what the values of a setting are like; None stands for a run that has no such setting, and is no value."""
    present = [value for value in values if value is not None]
    is_number = all(is_finite(value) for value in present)
    num_commonest = max(Counter(map(repr, present)).values(), default=0)
    is_log = is_number and bool(present) and (name == "lr" or lies_evenly_on_log(present))
    return Setting(name, is_number, is_log and min(present) > 0, len(present) - num_commonest)


def is_positive(name: str, records: Iterable[RunRecord]) -> bool:
    """Return whether all runs that have a setting have a number above 0, final ones, which are drawn, too."""
    known = [value for record in records if (value := record.settings.get(name)) is not None]
    return all(is_finite(value) and value > 0 for value in known)


def lies_evenly_on_log(values: Sequence[float]) -> bool:
    """Return whether numbers are better drawn on a logarithmic axis.

    They are where they lie far apart, and their median lies nearer to the middle of that axis than of a plain one.
    """
    low, high, median = min(values), max(values), statistics.median(values)
    if low <= 0 or high < WIDE * low:
        return False
    plain = (median - low) / (high - low)
    logarithmic = math.log(median / low) / math.log(high / low)
    return abs(logarithmic - 0.5) < abs(plain - 0.5)


def curves_of(record: RunRecord, best_epoch: int | None = None) -> dict[str, list[float | None]]:
    """Return what a run logged in its epochs, by name; "seconds" is the time so far.

    Of more than MOST_POINTS epochs it is every second, fourth, ..., and in any case the best and the last. Those are
    kept whose numbers are even: what is measured every ten epochs is among them.

    Args:
        record: the run.
        best_epoch: that of its best value; None for none.
    """
    epochs = (row for row in history(record) if is_epoch(row) and is_finite(row.get("epoch")))
    seconds, stride, points = 0.0, 1, dict[int, dict[str, Any]]()
    place, row = 0, dict[str, Any]()
    for place, row in enumerate(epochs):
        seconds += finite(row.get("epoch_seconds")) or 0.0
        if stride == 1 or row["epoch"] % stride == 0 or row["epoch"] == best_epoch:  # some count fractions of epochs
            points[place] = {**row, "seconds": seconds}
        if len(points) >= MOST_POINTS:
            stride *= 2
            points = {
                k: point for k, point in points.items() if point["epoch"] % stride == 0 or point["epoch"] == best_epoch
            }
    if row:
        points[place] = {**row, "seconds": seconds}
    names = dict.fromkeys(name for row in points.values() for name in row if name.startswith(("train/", "val/")))
    return {name: [finite(row.get(name)) for row in points.values()] for name in ("epoch", "seconds", *names)}
