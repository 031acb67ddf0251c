"""One run of a comparison: how it ended, and its best value of the metric that ranks the runs."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from analysis.read.figures import finite
from analysis.read.records import RunRecord
from analysis.read.runs import kept_value
from analysis.read.trials import Trial
from data.metrics import Best, Metric, is_finite, is_of_test_images

STATES_OF_RUNS = {"finished": "finished", "stopped": "stopped", "failed": "failed", "unfinished": "not ended"}
STATES_OF_TRIALS = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "not ended"}


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
        is_ranked=is_finite(value) and state != "failed" and (not record.is_final or is_of_test_images(metric.name)),
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
