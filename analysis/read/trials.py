"""The trials of sweeps: what a database notes of each, or what the runs themselves show."""

import re
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from analysis.read.records import RunRecord
from analysis.read.runs import best_of, kept_value
from analysis.record import run_folder
from data.errors import UserError
from data.internals import TrialRow
from data.metrics import Best, Curve, Metric, is_finite, shown
from data.visible import counted

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
OBJECTIVES = "objectives"  # metric -> value at the best epoch, of a sweep that is after several
REPEATS = "repeats"  # best value and its epoch for each seed, or fold, that a trial has finished with, in their order
FOLDS = "folds"  # of a trial that is cross-validated: their number
STARTED, ENDED = "started", "ended"  # in seconds since 1970; Optuna's times are local ones of the agent's machine
NUMBER = int | float
NOTES = {  # of a trial in its database
    "run_id": object,
    "best": NUMBER,
    "best_epoch": NUMBER,
    "settings": object,
    OBJECTIVES: dict,
    REPEATS: list,
    FOLDS: int,
    STARTED: NUMBER,
    ENDED: NUMBER,
}
STATES = {"finished": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL", "unfinished": "RUNNING"}  # of runs, of trials


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        number: its place in the order in which the trials were started, from 0.
        run_id: name of its run folder, and its id on W&B.
        state: COMPLETE, PRUNED (stopped early), FAIL, or RUNNING, also while it is paused.
        value: the best value of the metric so far; None if it has logged none.
        best_epoch: the epoch of that value; another program than train.py may log fractions of epochs.
        settings: what the run was told, constants included.
        objectives: values of the sweep's further metrics in that epoch, where it is after several.
        started: time in UTC; None if it is not known.
        ended: time in UTC; None if the trial has not ended, or the time is not known.
        seeds: best value and its epoch of each of its runs, where it is one for each of several seeds, or folds;
            `value` is then their mean, or an estimate of it as long as some are missing.
        folds: number of folds over which it is cross-validated; 0 where its runs differ by their seeds.
    """

    number: int
    run_id: str
    state: str
    value: float | None
    best_epoch: int | None
    settings: Mapping[str, Any] = field(hash=False)
    started: datetime | None
    ended: datetime | None
    objectives: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seeds: tuple[Best, ...] = ()
    folds: int = 0

    @property
    def what_over(self) -> str:
        """What its value is the mean over: "seed" or "fold"."""
        return what_over(self.folds)

    @property
    def deviation(self) -> float | None:
        """The deviation of its value over its seeds; None for fewer than two."""
        return deviation_of(self.seeds)


def seeds_done(notes: Mapping[str, Any]) -> list[Best]:
    """Return the best value and its epoch for each seed of a trial that has finished, by the trial's notes."""
    return [Best(*each) for each in notes.get(REPEATS, ())]


def what_over(folds: int) -> str:
    """Return what a trial of so many folds is the mean over: "fold", or "seed" where it has none."""
    return "fold" if folds else "seed"


def deviation_of(seeds: Sequence[Best]) -> float | None:
    """Return the deviation of a trial's value over its seeds; None for fewer than two."""
    return statistics.stdev(best.value for best in seeds) if len(seeds) > 1 else None


def value_text(metric: Metric, value: float | None, seeds: Sequence[Best], folds: int) -> str:
    """Return a trial's value as text, over several seeds or folds with its deviation and their number.

    Args:
        metric: the sweep's.
        value: of the trial.
        seeds: best value and its epoch of each seed, or fold, that it has finished with; none of a trial of one run.
        folds: number of folds over which it is cross-validated; 0 for none.
    """
    text = shown(metric.name, value, deviation_of(seeds))
    return f"{text} ({counted(len(seeds), what_over(folds))})" if seeds else text


def runs_of(run_id: str, num_seeds: int) -> list[str]:
    """Return the names of a trial's runs: one for each seed that has finished, and the next, which need not be there.

    It may be under way, or the trial may have ended within it.
    """
    return [run_folder.run_of_seed(run_id, place) for place in range(num_seeds + 1)]


def checked_run_id(run_id: Any) -> str:
    """Return the id of a run that comes from a database or from W&B, and becomes the name of a folder here.

    Raises:
        UserError: it is no plain name, and may lead out of the sweep's folder.
    """
    if not isinstance(run_id, str) or not PLAIN_NAME.fullmatch(run_id):
        raise UserError(f"a run has the id {str(run_id)[:100]!r}, which is no plain name: do not trust that sweep")
    return run_id


def check_notes(number: int, notes: Mapping[str, Any], types: Mapping[str, Any] = NOTES) -> None:
    """Refuse notes on a trial that are not of the types that the suite writes; raise TypeError."""
    for key, kind in types.items():
        if key in notes and (not isinstance(notes[key], kind) or notes[key] != notes[key]):
            raise TypeError(f"trial {number} has the {key} {str(notes[key])[:100]!r}")


def check_seeds(number: int, notes: Mapping[str, Any]) -> None:
    """Refuse notes on a trial's seeds that are not of the form that the suite writes; raise TypeError."""
    pairs = notes.get(REPEATS, [])
    is_whole = all(isinstance(each, list) and len(each) == 2 and all(map(is_finite, each)) for each in pairs)
    if not is_whole or (REPEATS in notes and not (pairs and "best" in notes)):
        raise TypeError(f"trial {number} has the {REPEATS} {str(pairs)[:100]}")


def trial_of(row: TrialRow) -> Trial:
    """Return a trial that was started, by what its database holds of it; raise TypeError where that is damaged."""
    check_notes(row.number, row.notes)
    check_seeds(row.number, row.notes)
    return Trial(
        number=row.number,
        run_id=checked_run_id(row.notes["run_id"]),
        state=row.state,
        value=row.notes.get("best"),
        best_epoch=row.notes.get("best_epoch"),
        settings=settings if isinstance(settings := row.notes.get("settings"), dict) else {},
        objectives=row.notes.get(OBJECTIVES, {}),
        seeds=tuple(seeds_done(row.notes)),
        folds=row.notes.get(FOLDS, 0),
        started=moment(row.notes.get(STARTED), row.started),
        ended=moment(row.notes.get(ENDED), row.ended) if row.ended else None,
    )


def moment(noted: float | None, local: datetime | None) -> datetime | None:
    """Return a time in UTC: that which an agent noted or, in older studies, Optuna's, taken for one of this zone."""
    return datetime.fromtimestamp(noted, UTC) if noted is not None else local and local.astimezone(UTC)


def trials_of(
    records: Iterable[RunRecord], all_curves: Iterable[Sequence[Curve]], metrics: Sequence[Metric]
) -> list[Trial]:
    """Return the trials that runs show; a run does not show whether it was paused or stopped early.

    Args:
        records: the runs of a sweep.
        all_curves: of each run, each of the metrics over its epochs, as far as it is known.
        metrics: those that the sweep is after, that by which trials are ranked first.
    """
    metric, *others = metrics
    runs = zip(records, all_curves, strict=True)
    ordered = sorted(runs, key=lambda run: (run[0].run_id if run[0].is_local else "", run[0].created))
    trials = []
    for number, (record, (curve, *further)) in enumerate(ordered):
        best = best_of(record, curve, metric)
        values = zip(others, further, strict=True)
        trials.append(
            Trial(
                number=number,
                run_id=record.run_id if record.is_local else checked_run_id(record.run_id),
                state=STATES[record.state],
                value=best and best.value,
                best_epoch=best and best.epoch,
                settings=record.settings,
                started=record.created,
                ended=None,
                objectives={other.name: value_in_epoch(record, own, other, best) for other, own in values},
            )
        )
    return with_their_seeds(trials, metric)


def value_in_epoch(record: RunRecord, curve: Curve, metric: Metric, best: Best | None) -> float | None:
    """Return a run's value of a metric in the epoch that is the best by another; None where it is not known.

    Args:
        record: the run.
        curve: its values of the metric, as far as they are known.
        metric: the metric.
        best: the best value of the other metric, and its epoch.
    """
    if best is None:
        return None
    if curve:
        return dict(curve).get(best.epoch)
    kept = kept_value(record, metric)
    return kept.value if kept and kept.epoch == best.epoch else None


def with_their_seeds(runs: Sequence[Trial], metric: Metric) -> list[Trial]:
    """Return trials with their runs of further seeds or folds as parts of them, by the names of the runs.

    Args:
        runs: of a sweep, in the order in which they were started.
        metric: by which they are ranked.
    """
    firsts = {run.run_id: run for run in runs}
    groups: dict[str, list[Trial]] = {}
    for run in runs:
        base = run_folder.first_of_trial(run.run_id)
        groups.setdefault(base if base in firsts else run.run_id, []).append(run)
    if len(groups) == len(runs):
        return [replace(run, number=number) for number, run in enumerate(runs)]
    trials = []
    has_folds = any(len({run.settings.get("fold") for run in group}) > 1 for group in groups.values())
    for number, (run_id, group) in enumerate(groups.items()):
        by_seed = sorted(group, key=lambda run: run_folder.order_of_seeds(run.run_id))
        first = replace(firsts[run_id], number=number, state=by_seed[-1].state)
        if has_folds:
            num = str(first.settings.get("fold", "")).rpartition("/")[2]
            settings = {name: value for name, value in first.settings.items() if name != "fold"}
            first = replace(first, folds=int(num) if num.isdecimal() else 0, settings=settings)
        known = [(run.value, run.best_epoch) for run in by_seed if run.state == "COMPLETE"]
        seeds = [Best(value, epoch) for value, epoch in known if value is not None and epoch is not None]
        trials.append(replace(first, seeds=tuple(seeds)))
    return valued_by_seeds(trials, metric)


def valued_by_seeds(trials: Sequence[Trial], metric: Metric) -> list[Trial]:
    """Return trials of several seeds with the value that each counts with, and the mean of its best epochs.

    Args:
        trials: of a sweep; the value of one that no seed has finished of is taken for that of its first.
        metric: by which they are ranked.
    """
    better = values_of_best([[seed.value for seed in trial.seeds] for trial in trials], metric)
    if not better:
        return list(trials)
    found = []
    for trial in trials:
        if trial.seeds:
            epoch = round(statistics.fmean(seed.epoch for seed in trial.seeds))
            value = counted_value([seed.value for seed in trial.seeds], better, metric)
            trial = replace(trial, value=value, best_epoch=epoch)
        elif trial.value is not None:
            trial = replace(trial, value=counted_value([trial.value], better, metric))
        found.append(trial)
    return found


def values_of_best(all_values: Collection[Sequence[float]], metric: Metric) -> Sequence[float]:
    """Return the values of the trial with the best mean, of those trials that have the most seeds.

    Args:
        all_values: of each trial, of its seeds.
        metric: by which they are ranked.
    """
    most = max(map(len, all_values), default=0)
    whole = [values for values in all_values if len(values) == most > 0]
    return min(whole, key=lambda values: metric.cost(statistics.fmean(values)), default=())


def counted_value(values: Sequence[float], better: Sequence[float], metric: Metric) -> float:
    """Return what a trial counts with: the mean over its seeds.

    Of one that has fewer than a better one, it is no better than the other's mean and the difference between the two,
    seed by seed: its first seeds may be easy ones.

    Args:
        values: of the seeds that it has finished.
        better: those of the other trial, in the same order.
        metric: by which they are ranked.
    """
    value = statistics.fmean(values)
    if len(values) >= len(better):
        return value
    differences = [own - other for own, other in zip(values, better, strict=False)]
    return max(value, statistics.fmean(better) + statistics.fmean(differences), key=metric.cost)
