"""The recipe of a run: the settings that it was told beyond its model's defaults, and the command that tells them."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from data.errors import UserError
from models.core.settings import CIRCUMSTANCES
from models.registry import MODELS


def default_settings(model: str) -> dict[str, Any]:
    """Return the default of every setting of a model, by name. This loads the model's file, and torch with it.

    Raises:
        UserError: there is no such model any more.
    """
    if model not in MODELS:
        raise UserError(f"model={model!r} is no more: take the commit that the run was made with")
    return {field.name: field.default for field in fields(MODELS[model].settings_class)}


def told_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a run's settings that makes it what it is: model, seed, and what differs from the defaults.

    Settings that only say where and how the run was carried out are left out.

    Raises:
        UserError: there is no such model any more.
    """
    defaults = default_settings(settings["model"])
    return {
        key: value
        for key, value in settings.items()
        if key in ("model", "seed") or (key not in CIRCUMSTANCES and value != defaults.get(key))
    }


def command_of(settings: Mapping[str, Any], start: Sequence[str] = ("python",)) -> str:
    """Return the command that repeats a run.

    Args:
        settings: all settings of the run.
        start: the words before train.py.

    Raises:
        UserError: there is no such model any more.
    """
    return shlex.join([*start, "train.py", *flags(told_settings(settings))])


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as the words of a command line."""
    return [f"--{key}={value}" for key, value in settings.items()]
