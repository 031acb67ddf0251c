"""What a search knows beside the trials of its own ranges: earlier runs, and trials of ranges that have since changed.

A trial is stored with points of the distributions that it was drawn from. A search compares points of its present ones,
so the points of others are found from the values that their settings had.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from models.core.settings import CIRCUMSTANCES
from models.setting_groups import CHOOSER
from sweeps.local.distributions import LARGEST, QUANTILES, Parameter, Point
from sweeps.local.sweep import Sweep, value_at

PRIOR = "prior"  # attribute of a study: what was taken from earlier runs, by the place they were read from
# Attributes of a study: the values of settings in trials from before they were searched, {model: {setting: value}};
# in studies of 0.1.0, which had one model, {setting: value}.
ASSUMED_OF, ASSUMED = "assumed_of", "assumed"
# Settings by which two runs are draws of the same, as far as the value of a metric goes:
NOT_COMPARED = CIRCUMSTANCES | {"seed", "test", "best_by", "accumulation_steps"}
NUM_HALVINGS = 60  # of a range of quantiles, after which it is as short as a float can tell


def observations(sweep: Sweep, notes: Mapping[str, Any], trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return all that a model can learn from, as trials with points of a sweep's space.

    Args:
        sweep: what is searched.
        notes: attributes of its study.
        trials: of the study.
    """
    return earlier_trials(sweep, notes) + in_present_terms(sweep, notes, trials)


def with_assumed(sweep: Sweep, notes: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a run together with those that it had without being told, as far as its study knows them."""
    model = str(settings.get(CHOOSER) or sweep.told_model)
    of_model = notes.get(ASSUMED_OF, {}).get(model, {})
    return {**of_model, **notes.get(ASSUMED, {}), **settings}


def earlier_trials(sweep: Sweep, notes: Mapping[str, Any]) -> list[FrozenTrial]:
    """Return earlier runs as trials that have ended, with numbers below 0 since they are none of the sweep's.

    Args:
        sweep: what is searched.
        notes: attributes of its study: settings and best value of each run, None if it failed, by the place it was
            read from, and settings that a run had unless it says otherwise.
    """
    entries = [entry for place in notes.get(PRIOR, {}).values() for entry in place]
    trials = []
    for number, entry in enumerate(entries, -len(entries)):
        points = points_of(sweep, with_assumed(sweep, notes, entry["settings"]))
        if points is None:
            continue
        value = entry["value"]
        trial = create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=value,
            params=points,
            distributions=widened(sweep.space, points),
            intermediate_values={} if value is None else {1: value},
        )
        trial.number = number
        trials.append(trial)
    return trials


def in_present_terms(sweep: Sweep, notes: Mapping[str, Any], trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return trials, those of earlier ranges as points of the present space, which may lie outside; else left out."""
    known = []
    for trial in trials:
        settings = trial.user_attrs.get("settings")
        if not isinstance(settings, Mapping) or is_of(sweep, trial, settings):
            known.append(trial)
        elif (points := points_of(sweep, with_assumed(sweep, notes, settings))) is not None:
            moved = copy.copy(trial)
            moved.params, moved.distributions = points, widened(sweep.space, points)
            known.append(moved)
    return known


def is_of(sweep: Sweep, trial: FrozenTrial | Trial, settings: Mapping[str, Any]) -> bool:
    """Return whether a trial was drawn from a sweep's present space: its points mean there what they meant then."""
    space = {name: sweep.space[name] for name in sweep.applicable(trial.params) if name in sweep.space}
    if trial.distributions != space:
        return False
    now, then = sweep.varied(sweep.told(trial.params)), sweep.varied(settings)
    agents_own = {"accumulation_steps"} & set(trial.user_attrs)  # doubled by an agent since the trial was begun
    return all(now[name] == then[name] for name in now if name not in agents_own)


def branch_for(sweep: Sweep, settings: Mapping[str, Any]) -> Sweep | None:
    """Return the part of a sweep, all of it as a rule, that settings belong to; None if there is none."""
    if not sweep.chooser:
        return sweep
    choice = settings.get(sweep.parameters[sweep.chooser].place[-1])
    return sweep.branch(choice) if choice in sweep.choices else None


def points_of(sweep: Sweep, settings: Mapping[str, Any]) -> dict[str, Point] | None:
    """Return the points of a sweep's space at which its settings have some values.

    None if there are none, or a constant of the sweep has another value than these settings.
    """
    if sweep.chooser:
        own = branch_for(sweep, settings)
        points = points_of(own, settings) if own else None
        return None if points is None else sweep.points_with(settings[CHOOSER], points)
    for name, value in sweep.constants.items():
        if name not in NOT_COMPARED and value_at(sweep.path_to(name), settings) not in (None, value):
            return None
    points = {name: point_of(sweep.parameters[name], value_at(sweep.path_to(name), settings)) for name in sweep.space}
    return None if None in points.values() else points


def point_of(parameter: Parameter, value: Any) -> Point | None:
    """Return the point at which a parameter has a value, or comes nearest to it; None if there is none.

    Numbers have points outside the range, too.
    """
    space = parameter.space
    if isinstance(space, CategoricalDistribution):
        return value if value in space.choices else None
    if type(value) not in (int, float) or not abs(value) <= LARGEST:
        return None
    if space == QUANTILES:
        return quantile_of(parameter, value)
    if isinstance(space, IntDistribution):
        return int(value) if value == int(value) else None
    is_logarithmic = isinstance(space, FloatDistribution) and space.log
    return None if is_logarithmic and value <= 0 else float(value)


def quantile_of(parameter: Parameter, value: float) -> float | None:
    """Return the quantile at which a distribution has a value; None if it is beyond its ends."""
    low, high = QUANTILES.low, QUANTILES.high
    if not parameter.value(low) <= value <= parameter.value(high):  # type: ignore[operator]
        return None
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if parameter.value(middle) < value else (low, middle)  # type: ignore[operator]
    return high


def is_inside(space: Mapping[str, BaseDistribution], points: Mapping[str, Point]) -> bool:
    """Return whether these are points of a space, and lie within its ranges."""
    return points.keys() == space.keys() and all(
        entry.low <= points[name] <= entry.high
        for name, entry in space.items()
        if isinstance(entry, FloatDistribution | IntDistribution)
    )


def widened(space: Mapping[str, BaseDistribution], points: Mapping[str, Point]) -> dict[str, BaseDistribution]:
    """Return the part of a space that has some points, with ranges that reach as far as these do."""
    wide = {name: space[name] for name in points}
    for name, entry in wide.items():
        if isinstance(entry, FloatDistribution | IntDistribution) and not entry.low <= points[name] <= entry.high:
            ends = min(entry.low, points[name]), max(entry.high, points[name])
            wide[name] = type(entry)(*ends, log=entry.log)
    return wide


def settled_points(trial: FrozenTrial) -> dict[str, Point]:
    """Return the points that a trial has before its search proposes any.

    Those were chosen by people, or stored by an agent that was killed before it had stored all.
    """
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
