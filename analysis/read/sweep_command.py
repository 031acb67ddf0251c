"""How a sweep file says that its runs are started: by a command, which may tell settings, in a project of W&B."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.paths import CHECKOUT
from models.core.settings import Settings, kinds
from models.registry import find_model
from models.resolve import coerce, merge, parse
from models.setting_groups import CHOOSER

PROGRAM = "train.py"
PROGRAM_MACRO = "${program}"
PLACE = {"project": "WANDB_PROJECT", "entity": "WANDB_ENTITY"}  # keys of a sweep file, and what tells them to its runs
ENVIRONMENT_MACRO = re.compile(r"\$\{envvar:([A-Za-z0-9_]+)\}")


def place_of(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of a sweep file that say to which project on W&B its runs go."""
    return {key: str(content[key]) for key in PLACE if content.get(key)}


def place_on_wandb(place: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that sends runs to a project on W&B, told as `place_of` tells it."""
    return {PLACE[key]: value for key, value in place.items()}


def is_ours(program: str) -> bool:
    """Return whether a program is train.py, whose settings are known; if its file is not here, the name decides."""
    return Path(program).resolve() == CHECKOUT / PROGRAM if os.path.exists(program) else program == PROGRAM


def with_environment(word: str) -> str:
    """Return a word of a command with its macros ${envvar:NAME} filled in.

    Raises:
        UserError: the environment has no such variable.
    """
    return ENVIRONMENT_MACRO.sub(environment_value, word)


def environment_value(macro: re.Match[str]) -> str:
    """Return the value of the environment variable that a macro ${envvar:NAME} names."""
    if macro[1] not in os.environ:
        raise UserError(f"command: {macro[0]} is asked for, but the environment has no {macro[1]}: export it")
    return os.environ[macro[1]]


def told_by_command(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a sweep's command gives to all its runs, as texts; none to those of another program.

    Args:
        content: of the sweep file.

    Raises:
        UserError: the command has words that are no settings.
    """
    command, program = content.get("command"), str(content.get("program") or "")
    if not isinstance(command, list | tuple) or not is_ours(program):
        return {}
    words = [program if word == PROGRAM_MACRO else str(word) for word in command]
    start = next((place for place, word in enumerate(words, 1) if is_ours(word)), len(words))
    filled = map(with_environment, words[start:])
    try:
        return merge(parse([word for word in filled if not word.startswith("${")], {}), {})
    except UserError as error:
        raise UserError(f"command: {error}") from None


def model_of_command(content: Mapping[str, Any]) -> str:
    """Return the model of a sweep's runs as long as its parameters name none: that of its command, or the default."""
    return str(told_by_command(content).get(CHOOSER, Settings.model))


def settings_of_command(content: Mapping[str, Any], model: str = "") -> dict[str, Any]:
    """Return the settings that a sweep's command gives to its runs of a model, in their types.

    Args:
        content: of the sweep file.
        model: that the sweep's parameters name; "" where they name none.

    Raises:
        UserError: the command has words that are no settings of that model.
    """
    told = told_by_command(content)
    if not told:
        return {}
    is_shared = told.keys() <= kinds(Settings).keys()  # then there is no need to load the model's file, and torch
    settings_class = Settings if is_shared else find_model(model or model_of_command(content)).settings_class
    return {key: coerce(settings_class, key, value) for key, value in told.items()}


def readable_command(content: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return `settings_of_command`, or nothing if the command names a variable, file or setting that is not here."""
    try:
        return settings_of_command(content, model)
    except UserError:
        return {}


def told_in_all(content: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a sweep's run, together with those of its command, which the sweep's own override.

    Args:
        content: of the sweep file.
        settings: that the sweep tells the run.

    Raises:
        UserError: the command has words that are no settings.
    """
    return {**settings_of_command(content, str(settings.get(CHOOSER, ""))), **settings}
