"""Whether two sweeps, or a sweep and an earlier run, train the same but for what is searched."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml
from optuna.study import Study

from analysis.read.recipe import default_settings
from analysis.read.sweep_command import is_ours, settings_of_command
from analysis.read.sweep_content import metrics_of
from data.errors import UserError
from models.core.settings import Settings
from models.registry import find_model
from models.resolve import coerce, parse, validate
from models.setting_groups import entries, leaves, may_be_told
from sweeps.local.contract import models_of
from sweeps.local.observations import ASSUMED_OF, NOT_COMPARED
from sweeps.local.sweep import Sweep

LONGEST_ENTRY = 100  # letters of a changed part of a sweep file that are shown
AMOUNTS = "amounts"  # attribute of a study: how many trials, seeds and folds it was last run with
SEARCHED, UNKNOWN = object(), object()  # in place of the one value that a setting has in all trials


class Change(NamedTuple):
    """What has changed from one version of a sweep file to the next.

    Attributes:
        lines: for people, one for each part.
        meanings: names of the parts by which values of new trials cannot be compared with those of old ones.
        assumed: what settings had been, in all trials of a model, that are searched from now on; those that are known.
    """

    lines: list[str]
    meanings: list[str]
    assumed: dict[str, dict[str, Any]]


def base_settings(sweep: Sweep, model: str) -> dict[str, Any]:
    """Return the settings that a sweep's runs of a model have as long as the sweep does not choose them.

    They are the model's defaults and what the environment and the sweep's command say; of a program that is not
    train.py nothing is known.

    Raises:
        UserError: there is no such model, or the command has words that are no settings.
    """
    if not is_ours(sweep.program):
        return {}
    defaults, settings_class = default_settings(model), find_model(model).settings_class
    around = {name: coerce(settings_class, name, value) for name, value in parse([], environment()).environment.items()}
    return defaults | around | settings_of_command(sweep.content, model) | {"model": model}


def environment() -> dict[str, str]:
    """Return the environment that runs will have, without that of a sweep which this process may itself belong to."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SWEEP_PARAM_PATH"}


def expected_settings(sweep: Sweep, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a trial of a sweep has if it is told those of some settings that the sweep searches."""
    told = sweep.constants | {name: settings[name] for name in sweep.space if name in settings}
    return {**base_settings(sweep, str(told.get("model") or sweep.told_model)), **told}


def differing(sweep: Sweep, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings, but for those searched, in which a run differs from a sweep's trials.

    Args:
        sweep: what is searched.
        settings: of the run; one that it lacks had its default.

    Raises:
        UserError: the run has settings that no trial of the sweep can have.
    """
    expected = expected_settings(sweep, settings)
    if is_ours(sweep.program):
        validate(expected, {})
        settings = {**default_settings(expected["model"]), "model": Settings.model, **settings}
        names = set(expected)
    else:
        settings = {".".join(path): value for path, value in leaves(settings)}
        names = expected.keys() | settings.keys()
    names -= NOT_COMPARED | sweep.space.keys()
    return sorted(name for name in names if settings.get(name) != expected.get(name))


def change(before: Mapping[str, Any], sweep: Sweep) -> Change:
    """Return how the file of a sweep that has begun differs from what it was.

    Args:
        before: content of the earlier file.
        sweep: by the present file.
    """
    after, found = sweep.content, Change([], [], {})
    for key in sorted((before.keys() | after.keys()) - {"parameters"}):
        if before.get(key) != after.get(key):
            found.lines.append(f"{key}: {written(before.get(key))} is now {written(after.get(key))}")
            if key in ("program", "command") or (key.startswith("metric") and metrics_of(before) != metrics_of(after)):
                found.meanings.append(key)
    old, new = (leaves_of(content.get("parameters", {})) for content in (before, after))
    bases = {model: base_settings(sweep, model) for model in models_of(sweep)} if is_ours(sweep.program) else {"": {}}
    alike = NOT_COMPARED - ({"seed"} if sweep.repeats > 1 else set())  # trials of several seeds are compared by pairs
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) == new.get(name):
            continue
        found.lines.append(f"{name}: {written(old.get(name))} is now {written(new.get(name))}")
        *groups, setting = name.split(".")
        for model, base in bases.items():
            if base and not (setting in base and may_be_told((*groups, setting), model)):
                continue  # trials of this model are not told it
            was, is_now = held(old, name, base), held(new, name, base)
            is_narrowed = was is SEARCHED and name in new
            if is_now is SEARCHED and name not in old and was is not UNKNOWN:
                found.assumed.setdefault(model, {})[setting] = was
            elif not (is_now is SEARCHED or is_narrowed or was == is_now != UNKNOWN or setting in alike):
                found.meanings.append(name)
    return found._replace(meanings=list(dict.fromkeys(found.meanings)))


def go_on(study: Study, sweep: Sweep, known: Mapping[str, Any]) -> list[str]:
    """Go on with a study by the present file of its sweep; return a line for each part of the file that has changed.

    Args:
        study: its trials.
        sweep: by the present file.
        known: content of the file that it was last run with.

    Raises:
        UserError: values of new trials could not be compared with those that there are.
    """
    found = change(known, sweep)
    if found.meanings:
        what = ", ".join(found.meanings)
        raise UserError(
            f"sweep {study.study_name} was begun with another {what}, new trials could not be compared with its own: "
            f"give another --name"
        )
    if found.assumed:
        known_of = study.user_attrs.get(ASSUMED_OF, {})
        assumed = {model: {**settings, **known_of.get(model, {})} for model, settings in found.assumed.items()}
        study.set_user_attr(ASSUMED_OF, {**known_of, **assumed})
    study.set_user_attr("sweep", sweep.content)
    study.set_user_attr("place", sweep.place)  # apart: two sweeps in different projects may be the same
    before, now = study.user_attrs.get(AMOUNTS, {}), amounts(sweep)
    study.set_user_attr(AMOUNTS, now)
    differing = [name for name in now if name in before and before[name] != now[name]]
    return [*found.lines, *(f"{name}: {written(before[name])} is now {written(now[name])}" for name in differing)]


def amounts(sweep: Sweep) -> dict[str, int | None]:
    """Return how many trials a sweep's file asks for, and how many seeds or folds each has; None for what it lacks."""
    return {
        "run_cap": sweep.run_cap,
        "repeats": None if sweep.folds else sweep.repeats,
        "folds": sweep.folds or None,
    }


def held(parameters: Mapping[str, Any], name: str, base: Mapping[str, Any]) -> Any:
    """Return the one value that a setting has in all trials, SEARCHED if it has several, UNKNOWN if nothing says it."""
    if name not in parameters:
        return base.get(name.rpartition(".")[2], UNKNOWN)
    entry = parameters[name]
    return entry["value"] if isinstance(entry, Mapping) and "value" in entry else SEARCHED


def leaves_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of the section `parameters` of a sweep file, those in groups by names such as optimizer.lr."""
    return {".".join(path): entry for path, entry in entries(parameters)}


def written(part: Any) -> str:
    """Return a part of a sweep file in one short line."""
    if part is None:
        return "nothing"
    text = " ".join(yaml.safe_dump(part, default_flow_style=True, width=10**6, sort_keys=False).split())
    text = text.removesuffix(" ...")
    return text if len(text) <= LONGEST_ENTRY else f"{text[:LONGEST_ENTRY]}..."
