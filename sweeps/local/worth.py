"""What the trials of a sweep are worth to its search, by all of its metrics."""

from optuna.trial import FrozenTrial, TrialState

from analysis.read.trials import OBJECTIVES, REPEATS
from data.metrics import is_finite
from sweeps.local.objectives import Objectives
from sweeps.local.promotion import is_observed
from sweeps.local.repeats import value_of


def costs_of(objectives: Objectives, trial: FrozenTrial) -> tuple[float, ...] | None:
    """Return what a trial costs by each metric, the less the better; None if that is not known, or as bad as can be."""
    way = way_to_count(objectives, trial)
    values = [value for _, value in sorted(trial.intermediate_values.items())]
    if way not in ("best", "latest") or not values:
        return None
    first, *others = objectives.metrics
    is_mean = REPEATS in trial.user_attrs  # of seeds, while the values are those of the first
    value = values[-1] if way == "latest" and not is_mean else value_of(first, trial)
    further = trial.user_attrs.get(OBJECTIVES, {})
    if not all(is_finite(further.get(metric.name)) for metric in others):
        return None
    return first.cost(value), *(metric.cost(further[metric.name]) for metric in others)


def way_to_count(objectives: Objectives, trial: FrozenTrial) -> str:
    """Return which of a trial's values counts: "best", "latest", "worst" for that of the worst trial, or "false"."""
    if trial.state == TrialState.COMPLETE:
        return "best"
    if is_observed(trial):  # stopped early, or at a rung
        return "latest" if objectives.impute == "latest" else "best"
    return objectives.impute if trial.state == TrialState.FAIL else objectives.impute_while_running


def is_pending(objectives: Objectives, trial: FrozenTrial) -> bool:
    """Return whether a trial is under way and counts for nothing but a place that is taken."""
    under_way = trial.state == TrialState.RUNNING and objectives.impute_while_running != "worst"
    return under_way and costs_of(objectives, trial) is None
