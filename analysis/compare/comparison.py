"""A comparison of runs: the metric that ranks them, the best value of each, the settings that differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from analysis.compare.comparability import warning_of
from analysis.compare.edges import ends_reached
from analysis.compare.entry import Entry, entry_of
from analysis.compare.fronts import Front, front_of
from analysis.compare.ranking import disagreement
from analysis.compare.varied_settings import Setting, is_positive, varied_settings
from analysis.read.records import RunRecord
from analysis.read.runs import best_values, names_of_metrics
from analysis.read.sweep_content import entries_for
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial, runs_of, valued_by_seeds
from data.errors import UserError
from data.metrics import RANKING, Best, Metric, is_of_test_images, metric_named, metrics_of_finals


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
    by_this_metric = [sweep for sweep in sweeps if sweep.metric == metric]
    front = front_of(by_this_metric)
    further = further_metrics(records, metric)
    entries = sorted(entries_of(records, [metric, *further], sweeps), key=partial(place_of, metric, front))
    searched = [entry.record for entry in entries if not entry.record.is_final] or records
    varied = varied_settings([record.settings for record in searched])
    drawn = [record.settings for record in records]  # final ones, too, which an axis must have room for
    warnings = (warning_of(records), disagreement(metric, [sweep.metrics for sweep in sweeps]))
    return Comparison(
        title=title,
        metric=metric,
        entries=entries,
        varied=[each._replace(is_log=each.is_log and is_positive(each.name, drawn)) for each in varied],
        further=[each.name for each in further],
        skipped=skipped,
        warning=" ".join(filter(None, warnings)),
        edges=[line for sweep in by_this_metric for line in edges_of(sweep, is_one_of_many=len(by_this_metric) > 1)],
        front=front,
        tested=tested_trials(entries, sweeps) if is_of_test_images(metric.name) else [],
    )


def further_metrics(records: Sequence[RunRecord], metric: Metric) -> list[Metric]:
    """Return the usual metrics that some of the runs have, beside the one that ranks them."""
    known = set[str]().union(*names_of_metrics(records))
    usual = [*map(metric_named, RANKING), *metrics_of_finals(metric)]
    return [each for each in usual if each.name != metric.name and each.name in known]


def entries_of(records: Sequence[RunRecord], metrics: Sequence[Metric], sweeps: Sequence[SweepRecord]) -> list[Entry]:
    """Return an entry for each run, in the order in which they were first started.

    Args:
        records: the runs.
        metrics: the one that ranks them, and those that are shown beside it.
        sweeps: the runs' sweeps.
    """
    starts = {  # of runs, the last resumption
        (sweep.name, trial.run_id): trial.started for sweep in sweeps for trial in sweep.trials if trial.started
    }
    by_start = sorted(
        records, key=lambda record: (starts.get((record.sweep, record.run_id), record.created), record.run_id)
    )
    pairs = list(zip(by_start, best_values(by_start, metrics), strict=True))
    trials = trials_by_run(pairs, metrics[0], sweeps)
    # W&B knows no more of a trial than of any other run, of which the history has the best value.
    of_runs = [trials.get((record.sweep, record.run_id)) if record.is_local else None for record in by_start]
    return [
        entry_of(record, number, metrics[0], best, trial)
        for number, ((record, best), trial) in enumerate(zip(pairs, of_runs, strict=True), 1)
    ]


def trials_by_run(
    pairs: Sequence[tuple[RunRecord, Mapping[str, Best]]], metric: Metric, sweeps: Sequence[SweepRecord]
) -> dict[tuple[str, str], Trial]:
    """Return the trial of each run that is one of a sweep, with its value of a metric, by names of sweep and run.

    Args:
        pairs: the runs, each with its best values by the names of metrics.
        metric: the metric.
        sweeps: the runs' sweeps.
    """
    finished = {
        (record.sweep, record.run_id): best[metric.name]
        for record, best in pairs
        if record.state == "finished" and metric.name in best
    }
    return {
        (sweep.name, run_id): trial
        for sweep in sweeps
        for trial in (sweep.trials if sweep.metric == metric else valued_by_another(metric, sweep, finished))
        for run_id in runs_of(trial.run_id, len(trial.seeds))
    }


def place_of(metric: Metric, front: Front | None, entry: Entry) -> tuple[Any, ...]:
    """Return the key by which runs are sorted: those that are ranked come first, the best of them before the others.

    Of equal values of the metric, those of runs that no other beats by every metric come first.
    """
    is_on_front = front is not None and entry.record.run_id in front.best
    return not entry.is_ranked, metric.cost(entry.value or 0.0), not is_on_front, entry.number


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


def edges_of(sweep: SweepRecord, is_one_of_many: bool) -> list[str]:
    """Return a line for each setting whose best value lies at an end of what a sweep has searched."""
    if not sweep.leaders:
        return []
    best = sweep.leaders[0].settings
    found = ends_reached(entries_for(sweep.content, best), best, len(sweep.leaders))
    return [f"{sweep.name}, {line}" if is_one_of_many else line for line in found]
