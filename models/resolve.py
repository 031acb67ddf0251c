"""Settings of a run out of what it was told: parsed, merged with what a saved run was told, validated.

Precedence, weakest first: the defaults in the settings classes, what `accelerate launch` and `wandb agent` say in the
environment, the saved settings of a run that is resumed, `--key=value` on the command line, the sweep's values.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data.errors import UserError, suggestion
from models.core.settings import CIRCUMSTANCES, INVOCATION, Kind, Range, Settings, kinds
from models.registry import MODELS, find_model

BOOLEANS = {"true": True, "false": False}
VARIABLES = {
    "mixed_precision": "ACCELERATE_MIXED_PRECISION",
    "run_id": "WANDB_RUN_ID",
    "runs_dir": "VISION_SWEEPS_RUNS",
}


class Text(str):
    """A value as a person types it: the type of its setting tells how it is to be read."""


class Told(NamedTuple):
    """What a run was told, by name of the setting."""

    environment: Mapping[str, Text]  # by launchers and agents
    command_line: Mapping[str, Text]
    sweep: Mapping[str, Any]  # values of any type

    def text(self, name: str, default: str = "") -> str:
        """Return what a setting was told to be, as text."""
        return str({**self.environment, **self.command_line, **self.sweep}.get(name, default))


def parse(arguments: Iterable[str], environment: Mapping[str, str]) -> Told:
    """Return what the command line, the environment and, under an agent, the sweep say.

    Raises:
        UserError: a word that is no setting, or a sweep file that is not W&B's.
    """
    variables = {key: Text(environment[name]) for key, name in VARIABLES.items() if environment.get(name)}
    return Told(variables, parse_arguments(arguments), sweep_values(environment))


def parse_arguments(arguments: Iterable[str]) -> dict[str, Text]:
    """Return the words `--key=value`, `--key value` and `--flag` (for true) as a dict; the last of a key counts."""
    given: dict[str, Text] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(f"{word!r} is not understood: settings are written --key=value (see --help)")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        given[key.replace("-", "_")] = Text(value)
    return given


def sweep_values(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the sweep that started this run, out of the file `{key: {value: v}}` that agents name."""
    path = environment.get("WANDB_SWEEP_PARAM_PATH", "")
    if not path or not Path(path).is_file():
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
        return {key: entry["value"] for key, entry in content.items() if key != "wandb_version"}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        raise UserError(f"WANDB_SWEEP_PARAM_PATH={path}: not a YAML of {{key: {{value: v}}}}") from None


def merge(told: Told, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return every value that a run was told or, where it is resumed, that its folder has saved."""
    handed_on = {key: value for key, value in saved.items() if key not in INVOCATION or key == "run_id"}
    return {**told.environment, **handed_on, **told.command_line, **told.sweep}


def validate(merged: Mapping[str, Any], saved: Mapping[str, Any]) -> Settings:
    """Return the settings of a run, of the class and the types that its model declares.

    Args:
        merged: values by name, text or typed.
        saved: settings of the run that is resumed; empty for a fresh one.

    Raises:
        UserError: an unknown name, a value of the wrong type or out of range, or one that differs from the saved run's.
    """
    model = str(merged.get("model", Settings.model))
    settings_class = find_model(model).settings_class
    if gone := {key for key in merged.keys() - kinds(settings_class).keys() if key in saved}:
        raise UserError(f"run {saved['run_id']!r} has the setting {min(gone)}, which is no more: start a new run")
    values = {key: coerce(settings_class, key, value) for key, value in merged.items() if key != "model"}
    for key, value in {**values, "model": model}.items():
        if key not in CIRCUMSTANCES and key in saved and saved[key] != value:
            raise UserError(
                f"{key}={value!r} differs from the {saved[key]!r} of run {saved['run_id']!r}: "
                f"leave it out to resume, or give another --run_id"
            )
    return settings_class(**values, model=model)


def coerce(settings_class: type[Settings], key: str, value: Any) -> Any:
    """Return `value` in the type that `settings_class` declares for the setting `key`.

    Raises:
        UserError: unknown key, wrong type, or out of range.
    """
    known = kinds(settings_class)
    if key not in known:
        raise unknown_setting(settings_class, key, value)
    kind = known[key]
    if isinstance(value, Text):
        value = read_text(kind, key, value)
    if kind.type is float and type(value) is int:
        value = float(value)
    if kind.type is int and type(value) is float and value.is_integer():  # W&B's q_uniform gives 3.0
        value = int(value)
    if type(value) is not kind.type:  # no isinstance: a bool is no number
        hint = "; YAML reads 1e-3 as text, write 1.0e-3" if kind.type is float and type(value) is str else ""
        raise UserError(f"{key}={value!r} is of type {type(value).__name__}, not {kind.type.__name__}{hint}")
    if kind.type is float and not math.isfinite(value):
        raise UserError(f"--{key}={value} is not a finite number")
    if isinstance(kind.allowed, Range) and value not in kind.allowed:
        raise UserError(f"--{key}={value} is out of range: it must be {kind.allowed}")
    if isinstance(kind.allowed, tuple) and value not in kind.allowed:
        raise UserError(f"--{key}={value} is none of {', '.join(kind.allowed)}{suggestion(value, kind.allowed)}")
    return value


def unknown_setting(settings_class: type[Settings], key: str, value: Any) -> UserError:
    """Return the error for a setting that a class lacks: it names the models that have it, or what was meant."""
    owners = [name for name, model in MODELS.items() if key in kinds(model.settings_class)]
    whose = f", it belongs to {', '.join(owners)}" if owners else suggestion(key, kinds(settings_class))
    return UserError(f"--{key}={value} is not a setting of {settings_class.__name__}{whose} (see --help)")


def read_text(kind: Kind, key: str, text: str) -> Any:
    """Return the number, boolean or text that `text` spells."""
    try:
        return BOOLEANS[text.lower()] if kind.type is bool else kind.type(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind.type]
        raise UserError(f"--{key}={text} is not {expected}") from None
