"""Which trial of a sweep `final.py --pick` names; with several metrics there is no one that is the best."""

from collections.abc import Sequence

from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from data.errors import UserError
from data.metrics import shown

MOST_IN_WORDS = 20  # trials that are named


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
    known = trials_in_words(sweep, sweep.leaders)
    raise UserError(f"--pick={pick} is no trial with a value, nor a metric of the sweep: there are {known}")


def trials_in_words(sweep: SweepRecord, trials: Sequence[Trial]) -> str:
    """Return the first of some trials of a sweep, with their values, and how many more there are."""
    names = [metric.name for metric in sweep.metrics]
    parts = []
    for trial in trials[:MOST_IN_WORDS]:
        values = [trial.value, *(trial.objectives.get(name) for name in names[1:])]
        told = ", ".join(
            f"{name} {shown(name, value)}" for name, value in zip(names, values, strict=True) if value is not None
        )
        parts.append(f"{trial.number} ({told})")
    more = len(trials) - len(parts)
    return f"{'; '.join(parts)}{f'; and {more} more' if more > 0 else ''}"
