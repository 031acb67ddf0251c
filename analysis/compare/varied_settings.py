"""The settings that differ between runs, and how the values of each are drawn."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from analysis.read.recipe import DRAWS, differing_settings
from data.metrics import is_finite

KINDS = ("model", "dataset")  # settings that tell what is trained: they come first
WIDE = 20  # a setting whose values lie further apart than by this factor may have a logarithmic axis


class Setting(NamedTuple):
    """A setting that differs between the runs."""

    name: str
    is_number: bool  # whether all its values are numbers
    is_log: bool  # whether its axis is logarithmic
    num_deviating: int  # runs that do not have its most common value


def varied_settings(all_settings: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Return the settings that have more than one value: model and dataset, then the others, the most varied first.

    Seeds and folds, of which a trial may have several, come last.
    """
    names = differing_settings(all_settings)
    varied = [setting_of(name, [settings.get(name) for settings in all_settings]) for name in names]
    return sorted(varied, key=lambda each: (each.name not in KINDS, each.name in DRAWS, -each.num_deviating))


def setting_of(name: str, values: Sequence[Any]) -> Setting:
    """Return what the values of a setting are like; None stands for a run that has no such setting, and is no value."""
    present = [value for value in values if value is not None]
    is_number = all(is_finite(value) for value in present)
    num_commonest = max(Counter(map(repr, present)).values(), default=0)
    is_log = is_number and bool(present) and (name == "lr" or lies_evenly_on_log(present))
    return Setting(name, is_number, is_log and min(present) > 0, len(present) - num_commonest)


def is_positive(name: str, all_settings: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a setting is a number above 0 in all runs that have it."""
    known = [value for settings in all_settings if (value := settings.get(name)) is not None]
    return all(is_finite(value) and value > 0 for value in known)


def lies_evenly_on_log(values: Sequence[float]) -> bool:
    """Return whether numbers are better drawn on a logarithmic axis.

    They are where they lie far apart, and their median lies nearer to the middle of that axis than of a plain one.
    """
    low, high, median = min(values), max(values), statistics.median(values)
    if low <= 0 or high < WIDE * low:
        return False
    plain = (median - low) / (high - low)
    logarithmic = math.log(median / low) / math.log(high / low)
    return abs(logarithmic - 0.5) < abs(plain - 0.5)
