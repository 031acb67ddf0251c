"""The branches of a sweep: a branch is what is left to search with one value of the chooser, such as one model."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from data.pareto import layers
from sweeps.local.objectives import Objectives
from sweeps.local.observations import settled_points, with_assumed
from sweeps.local.sweep import Sweep
from sweeps.local.worth import costs_of

LEAST_OF_A_BRANCH = 3  # trials, all of which may fail
PATIENCE, SHARE = 5, 0.5  # trials for each setting before a branch gets fewer than its share, and the least of that
CURIOSITY = 0.5  # how much a branch that was tried little may be worth beyond what it has shown


def choose_branch(
    known: Mapping[Any, Sequence[FrozenTrial]], objectives: Objectives, num_settings: Mapping[Any, int]
) -> Any:
    """Return the value of the chooser to go on with: the branch that has too few trials to tell, or is the best.

    A branch that is bad at first may have the best trial in the end: one that has a value at all is first tried
    PATIENCE times for each of its settings, and SHARE of what would be an equal part goes on to it. Beyond that it
    is the branch whose best trial ranks highest, the less it was tried the more so. On three functions that is
    better than a grouped TPE, and than one Gaussian process of everything: `python -m tests.branch_methods`.

    Args:
        known: the trials of each branch.
        objectives: the metrics of the sweep.
        num_settings: how many settings each branch searches.
    """
    numbers = {choice: len(trials) for choice, trials in known.items()}
    total = sum(numbers.values())
    costs = {
        (choice, trial.number): costs
        for choice, trials in known.items()
        for trial in trials
        if (costs := costs_of(objectives, trial)) is not None
    }
    best = dict.fromkeys(known, total)  # rank of the best trial
    for (choice, _), rank in layers(costs).items():
        best[choice] = min(best[choice], rank)
    patience = {choice: PATIENCE * num_settings[choice] for choice in known if best[choice] < total}
    wanting = [
        choice
        for choice, number in numbers.items()
        if number < max(LEAST_OF_A_BRANCH, patience.get(choice, 0), SHARE * total / len(known))
    ]
    if wanting:
        return min(wanting, key=numbers.__getitem__)
    spread = {choice: math.sqrt(math.log(total) / number) for choice, number in numbers.items()}
    return min(known, key=lambda choice: best[choice] / total - CURIOSITY * spread[choice])


def in_branch(sweep: Sweep, choice: Any, notes: Mapping[str, Any], trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that have a value of the sweep's chooser, with their points under the names of settings.

    Args:
        sweep: what is searched.
        choice: value of its chooser.
        notes: attributes of its study, which say what a trial had that was begun before the chooser was searched.
        trials: of the study.
    """
    names = {setting: name for setting, name in sweep.names_for(choice).items() if name != sweep.chooser}
    found = []
    for trial in trials:
        settings = trial.user_attrs.get("settings")
        had = with_assumed(sweep, notes, settings) if isinstance(settings, Mapping) else {}
        if {**had, **settled_points(trial)}.get(sweep.chooser) == choice:
            own = copy.copy(trial)
            own.params = {setting: trial.params[name] for setting, name in names.items() if name in trial.params}
            own.distributions = {setting: trial.distributions[names[setting]] for setting in own.params}
            found.append(own)
    return found
