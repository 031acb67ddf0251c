"""The recipe of a run: its settings but for those that only say where and how it was carried out; and as a command."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from data.errors import UserError
from data.metrics import is_finite
from models.core.settings import CIRCUMSTANCES, Settings
from models.registry import MODELS

# Of a final run on all training images, if there are images to test with:
FINAL_SETTINGS = {"val_fraction": 0.0, "test": True}
# Of any final run, which sees all images to its last epoch; each is the setting's default:
FINAL_OVERRIDES = {"train_fraction": 1.0, "patience": 0}
NO_LIMITS = {"limit_batches": 0, "overfit_batches": 0}
DRAWS = ("seed", "fold")  # settings in which runs of one trial, draws of the same, may differ


def recipe_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that say what is trained, on what and how: all but the circumstances of the run."""
    return {key: value for key, value in settings.items() if key not in CIRCUMSTANCES}


def differing_settings(all_settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings that have more than one value among runs, the circumstances left out.

    A run that lacks a setting, since it is of another model or older than the setting, differs in nothing by that.

    Args:
        all_settings: the settings of each run.
    """
    values: dict[str, set[str]] = {}
    for settings in all_settings:
        for name, value in settings.items():
            values.setdefault(name, set()).add(repr(float(value) if is_finite(value) else value))  # 1 is 1.0
    return [name for name in recipe_of(values) if len(values[name]) > 1]


def model_and_dataset(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the model and the dataset of a run that was told these settings, which need not name them."""
    return settings.get("model", Settings.model), settings.get("dataset", Settings.dataset)


def default_settings(model: str) -> dict[str, Any]:
    """Return the default of every setting of a model, by name. This loads the model's file, and torch with it.

    Raises:
        UserError: there is no such model any more.
    """
    if model not in MODELS:
        raise UserError(f"model={model!r} is no more: take the commit that the run was made with")
    return {field.name: field.default for field in fields(MODELS[model].settings_class)}


def told_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a run's recipe that has to be told: model, seed, and what differs from the model's defaults.

    Raises:
        UserError: there is no such model any more.
    """
    defaults = default_settings(settings["model"])
    return {
        key: value
        for key, value in recipe_of(settings).items()
        if key in ("model", "seed") or value != defaults.get(key)
    }


def command_of(settings: Mapping[str, Any], start: Sequence[str] = ("python",)) -> str:
    """Return the command that repeats a run.

    Args:
        settings: all settings of the run.
        start: the words before train.py.

    Raises:
        UserError: there is no such model any more.
    """
    told = told_settings(settings)
    if place := settings.get("data_dir"):  # no part of the recipe, but without it there are other images, or none
        told["data_dir"] = place
    return shlex.join([*start, "train.py", *flags(told)])


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as the words of a command line."""
    return [f"--{key}={value}" for key, value in settings.items()]
