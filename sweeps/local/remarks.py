"""What there is to say of a sweep before it begins, though it can be run: what it searches or tells in vain."""

import math
from typing import Any

from data.errors import suggestion
from models.idle_settings import idle
from models.registry import MODELS
from sweeps.local.contract import models_of, parameters_of, values_of
from sweeps.local.refusals import MOST_SECONDS
from sweeps.local.sweep import Sweep


def remarks(sweep: Sweep) -> list[str]:
    """Return what there is to say of a sweep before it begins, line by line."""
    return lines_of_foreign(sweep) + lines_of_idle(sweep) + lines_of_grid(sweep) + lines_of_folds(sweep)


def lines_of_foreign(sweep: Sweep) -> list[str]:
    """Return a line for each model that lacks settings which its sweep has for others.

    And one for each group that is called nearly as a model is, but is only a heading.
    """
    foreign = {model: sweep.foreign({sweep.chooser: model}) for model in sweep.choices}
    groups = dict.fromkeys(name for entry in sweep.parameters.values() for name in entry.place[:-1])
    lines = [
        f"{model} has no {', '.join(names)}: its trials are told none" for model, names in foreign.items() if names
    ]
    models = models_of(sweep) if sweep.is_flat else []
    headings = {name: suggestion(name, models) for name in groups if name not in MODELS}
    return lines + [f"the group {name} is named for no model{known}" for name, known in headings.items() if known]


def lines_of_folds(sweep: Sweep) -> list[str]:
    """Return the line that warns of a sweep whose trials differ in their folds, of which the easiest would win."""
    remedy = "for a cross-validation leave it out, and give --folds"
    return [f"fold is searched, so the easiest one wins: {remedy}"] if sweep.is_flat and "fold" in sweep.space else []


def lines_of_idle(sweep: Sweep) -> list[str]:
    """Return a line for each setting that is searched in vain, as it has no effect in any trial of a model."""
    lines = []
    for model, base in sweep.bases.items():
        options = {name: [value] for name, value in base.items()}
        options |= {name: values_of(parameter) for name, parameter in parameters_of(sweep, model).items()}
        whose = f", model={model}" if sweep.chooser else ""
        lines += [
            f"{name} is searched in vain: it has no effect with {other}={' or '.join(map(str, options[other]))}{whose}"
            for name, other in idle(options).items()
            if len(options[name]) > 1
        ]
    return list(dict.fromkeys(lines))


def lines_of_grid(sweep: Sweep) -> list[str]:
    """Return a line for each reason why combinations of a grid are left out, with their number."""
    if sweep.method != "grid":
        return []
    taken, refused = sweep.parts_of_grid
    total, choices = 0, list[Any](sweep.choices) or [None]
    for choice in choices:
        grids = [sweep.parameters[name].grid or () for name in sweep.applicable({sweep.chooser: choice})]
        total += math.prod(len(set(grid)) for grid in grids) // len(choices)  # which are one of these
    lines = []
    if refused:
        first = next(iter(refused.values()))
        left_out = f"{len(refused)} of {total} combinations of the grid are left out"
        lines.append(f"{left_out}, since train.py refuses them, the first: {first}")
    if twins := total - len(taken) - len(refused):
        left_out = f"{twins} of {total} combinations of the grid are left out"
        lines.append(f"{left_out}, as they differ from others only in settings without effect there")
    if sweep.refusals and sweep.refusals.is_spent:
        lines.append(f"after {MOST_SECONDS:.0f} s of building models, combinations were taken without a look at them")
    return lines
