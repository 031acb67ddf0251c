"""Settings in groups: W&B's nested `parameters:`, whose leaves are settings, which have no groups themselves.

What a group is called matters in one case: one that is named for a model holds settings of that model alone.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from data.errors import UserError
from models.registry import MODELS

CHOOSER = "model"  # the setting by whose value it is decided which others there are
NESTED = "parameters"  # the key of an entry of a sweep file that makes it a group
SettingPath = tuple[str, ...]  # names of the groups round a setting, the outermost first, and its own


def leaves(values: Mapping[str, Any], groups: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Return path and value of everything within groups, in their order; a group is a mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*groups, str(name)))
        else:
            yield (*groups, str(name)), value


def entries(parameters: Mapping[str, Any], groups: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Return path and distribution of every leaf of a sweep file's `parameters`, in their order.

    Raises:
        UserError: a group is empty, or has keys beside its own `parameters`.
    """
    for name, entry in parameters.items():
        path = (*groups, name)
        if not isinstance(entry, Mapping) or NESTED not in entry:
            yield path, entry
            continue
        where = ".".join(map(str, path))
        if others := entry.keys() - {NESTED}:
            raise UserError(f"parameter {where}: a group has {NESTED}: alone, and no {min(others, key=str)}")
        if not isinstance(entry[NESTED], Mapping) or not entry[NESTED]:
            raise UserError(f"parameter {where}: the group holds none, write their names below {NESTED}:")
        yield from entries(entry[NESTED], path)


def may_be_told(path: SettingPath, model: str) -> bool:
    """Return whether a setting at that path may be told to a model: it stands in no group that is another one's."""
    return all(group == model or group not in MODELS for group in path[:-1])


def settings_for(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a sweep's values, in their groups, are for a model.

    Args:
        model: name of the model, unless the values say it.
        values: {name: value or group}.

    Raises:
        UserError: one of them is given twice.
    """
    found: dict[str, SettingPath] = {}
    settings = {}
    model = next((str(value) for path, value in leaves(values) if path[-1] == CHOOSER), model)
    for path, value in leaves(values):
        if may_be_told(path, model):
            refuse_double(path, found)
            settings[path[-1]] = value
    return settings


def refuse_double(path: SettingPath, found: dict[str, SettingPath]) -> None:
    """Note where a setting stands, and refuse a second place.

    Raises:
        UserError: it stands elsewhere, too.
    """
    if path[-1] in found:
        both = " and ".join(".".join(each) for each in (found[path[-1]], path))
        raise UserError(f"{path[-1]} is given twice, as {both}: a group's leaves are settings, leave one out")
    found[path[-1]] = path
