"""The Pareto front of a sweep that is after several metrics: the runs that no other beats by every one of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.read.sweeps import SweepRecord
from data.metrics import Metric, is_finite


class Front(NamedTuple):
    """What the trials of a sweep reach by each of its metrics.

    Attributes:
        metrics: of the sweep; by the first, the best epoch of a run is chosen.
        values: of each run that has all of them in that epoch, by its id.
        best: ids of the runs on the front, the best by the first metric first.
    """

    metrics: Sequence[Metric]
    values: Mapping[str, Sequence[float]]
    best: Sequence[str]


def front_of(sweeps: Sequence[SweepRecord]) -> Front | None:
    """Return the front of the one sweep among these that is after several metrics; None where there is not one."""
    several = [sweep for sweep in sweeps if len(sweep.metrics) > 1]
    if len(several) != 1 or not several[0].front:
        return None
    sweep, names = several[0], [metric.name for metric in several[0].metrics[1:]]
    values = {
        trial.run_id: [trial.value, *(trial.objectives[name] for name in names)]
        for trial in sweep.leaders
        if trial.value is not None and all(is_finite(trial.objectives.get(name)) for name in names)
    }
    return Front(sweep.metrics, values, [trial.run_id for trial in sweep.front])


def front_data(front: Front | None, places: Mapping[str, int]) -> dict[str, Any] | None:
    """Return what the page shows of a front, fit for JSON; None for none.

    Args:
        front: of the runs' sweep.
        places: of the runs, by which the page knows them.
    """
    if front is None:
        return None
    return {
        "metrics": [{"name": metric.name, "goal": metric.goal} for metric in front.metrics],
        "values": {places[run]: values for run, values in front.values.items() if run in places},
        "best": [places[run] for run in front.best if run in places],
    }
