"""Which trial of a sweep `final.py --pick` names; with several metrics there is no one that is the best."""

from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from data.errors import UserError
from data.metrics import shown

MOST_OF_A_FRONT = 20  # trials that are named


def picked(sweep: SweepRecord, pick: str) -> Trial:
    """Return the trial that `--pick` names.

    Raises:
        UserError: no trial with a value has that number, and it is no metric of the sweep.
    """
    if found := [trial for trial in sweep.leaders if str(trial.number) == pick]:
        return found[0]
    first, *others = sweep.metrics
    if pick == first.name:
        return (sweep.front or sweep.leaders)[0]
    for metric in others:
        if pick == metric.name and sweep.front:
            return min(sweep.front, key=lambda trial: metric.cost(trial.objectives[metric.name]))
    raise UserError(f"--pick={pick} is no trial with a value, nor a metric of the sweep: {front_in_words(sweep)}")


def front_in_words(sweep: SweepRecord) -> str:
    """Return the trials of a sweep's Pareto front, with their values."""
    names = [metric.name for metric in sweep.metrics]
    parts = []
    for trial in sweep.front[:MOST_OF_A_FRONT]:
        values = [trial.value, *(trial.objectives[name] for name in names[1:])]
        told = ", ".join(f"{name} {shown(name, value)}" for name, value in zip(names, values, strict=True))
        parts.append(f"{trial.number} ({told})")
    more = len(sweep.front) - len(parts)
    return f"there are {'; '.join(parts)}{f'; and {more} more' if more > 0 else ''}"
