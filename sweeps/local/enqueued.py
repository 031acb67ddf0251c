"""Settings that people choose themselves, to be tried before those that a search would choose."""

import json
import math
import shlex
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from optuna.trial import FrozenTrial

from analysis.read.sweep_command import is_ours
from data.errors import UserError, suggestion
from data.metrics import is_finite
from models.registry import find_model
from models.resolve import Text, coerce, config_values, validate
from sweeps.local.agreement import expected_settings
from sweeps.local.distributions import Parameter, Point
from sweeps.local.observations import NOT_COMPARED, branch_for, is_inside, point_of
from sweeps.local.sweep import Sweep
from sweeps.local.trials import Trials

FIRST_OF_CHOICES = 2**30  # claims of choices have the ids below -2**30, which no trial has
FILES = (".yaml", ".yml", ".json")


class Choice(NamedTuple):
    """What somebody wants to be tried.

    Attributes:
        points: of what the sweep searches, by name; the search chooses those that are not there.
        lines: what there is to say about it.
    """

    points: dict[str, Point]
    lines: list[str]


def choice_of(text: str, sweep: Sweep) -> Choice:
    """Return the choice that `--enqueue` names: a file of settings, or settings such as 'lr=1e-3 width=64'.

    Raises:
        UserError: there is no such file, or the settings are none of the sweep's trials.
    """
    told = f"--enqueue={text}"
    if sweep.method == "grid":
        raise UserError(f"{told}: a grid tries each of its combinations once, leave it out")
    is_file = text.endswith(FILES) or Path(text).is_file()
    try:
        settings = typed(config_values(text) if is_file else spelled(text), sweep)
        own = branch_for(sweep, settings)
        if own is None:
            raise UserError(
                f"which model? Write one of {', '.join(f'model={choice}' for choice in sweep.choices)}, too"
            )
        lines = settle_others(settings, own, is_file)
        chosen = [name for name in own.space if name in settings]
        points = {name: checked_point(own.parameters[name], settings[name]) for name in chosen}
    except UserError as error:
        raise UserError(f"{told}: {error}") from None
    if points.keys() == own.space.keys() and (reason := own.refusal(points)):
        raise UserError(f"{told}: train.py refuses it: {reason}")
    if not points and not sweep.chooser:
        raise UserError(f"{told} names none of the settings that are searched: {', '.join(sweep.space)}")
    for name in points:
        if not is_inside({name: own.space[name]}, {name: points[name]}):
            lines.append(f"{told}: {name}={settings[name]} is outside its range, it is tried all the same")
    return Choice(sweep.points_with(settings[sweep.chooser], points) if sweep.chooser else points, lines)


def spelled(text: str) -> dict[str, Any]:
    """Return the settings that a text such as 'lr=1e-3 width=64' spells."""
    try:
        pairs = [word.removeprefix("--").partition("=") for word in shlex.split(text)]
    except ValueError:
        pairs = []
    if not pairs or not all(name and equals for name, equals, _ in pairs):
        raise UserError("neither a file nor settings: write 'lr=1e-3 width=64', for example")
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=names.count)} is given twice")
    return {name: Text(value) for name, _, value in pairs}


def typed(settings: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    """Return settings of the types that train.py takes; those of another program as YAML reads them."""
    if not is_ours(sweep.program):
        return {name: number_or_text(value) for name, value in settings.items()}
    model = str(settings.get("model", sweep.constants.get("model", sweep.told_model)))
    settings_class = find_model(model).settings_class
    return {name: coerce(settings_class, name, value) for name, value in settings.items()}


def number_or_text(value: Any) -> Any:
    """Return what YAML reads in a text, and the number in 1e-3, in which it reads none."""
    if isinstance(value, Text):
        with suppress(yaml.YAMLError):
            value = yaml.safe_load(value)
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def settle_others(settings: Mapping[str, Any], sweep: Sweep, is_file: bool) -> list[str]:
    """Return a line about settings that the sweep does not search and has other values of, which are left out.

    Raises:
        UserError: they were not in a file, where they stand for other reasons; or no run takes the others.
    """
    expected = expected_settings(sweep, settings)
    if is_ours(sweep.program):
        validate(expected, {})
    others = [name for name in settings if name not in sweep.space and settings[name] != expected.get(name)]
    if is_file:
        if "model" in others:
            raise UserError(
                f"it is of {settings['model']}, and this sweep trains {expected.get('model')}: name another"
            )
        others = [name for name in others if name not in NOT_COMPARED]
        return [f"left out, since the sweep has its own: {', '.join(others)}"] if others else []
    if others:
        known = suggestion(others[0], sweep.space)
        own = f"always {expected[others[0]]} in this sweep" if others[0] in expected else "not searched"
        raise UserError(f"{others[0]} is {own}{known}: it searches {', '.join(sweep.space)}")
    return []


def checked_point(parameter: Parameter, value: Any) -> Point:
    """Return the point at which a parameter has exactly this value, be it outside the range or not.

    Raises:
        UserError: there is none.
    """
    point = point_of(parameter, value)
    if point is None:
        raise UserError(f"{parameter.name}={value} cannot come out of its distribution: add it to the sweep file")
    reached = parameter.value(point)
    if reached != value and not (is_finite(value) and math.isclose(float(reached), value, rel_tol=1e-9)):
        raise UserError(f"{parameter.name}={value} is rounded in this sweep: the nearest value is {reached}")
    return point


def enqueue(points: Mapping[str, Any], trials: Trials) -> FrozenTrial | None:
    """Let the next trial be one at given points, once in a sweep; return it, None while another agent does the same."""

    def queued() -> FrozenTrial | None:
        return next((trial for trial in trials.all() if trial.system_attrs.get("fixed_params") == points), None)

    name = json.dumps([trials.name, points], sort_keys=True)
    own_id = -FIRST_OF_CHOICES - zlib.crc32(name.encode()) % FIRST_OF_CHOICES
    claims, seen = trials.claims, trials.claims.of(own_id)
    if queued() is None and (seen is None or claims.is_dead(seen)) and claims.take(own_id, seen):
        trials.study.enqueue_trial(dict(points))
    return queued()
