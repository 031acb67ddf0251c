"""Each setting by itself: the best value in each part of its range, the others chosen as well as possible."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from analysis.compare.comparison import Comparison
from analysis.compare.entry import Entry
from analysis.compare.importance import FEWEST_RUNS, MOST_RUNS, encode, rank, seedless_recipes
from analysis.compare.recipes import value_of_recipe
from analysis.compare.surface import Surface, fit
from analysis.compare.varied_settings import Setting
from analysis.read.recipe import DRAWS
from data.metrics import Metric, is_finite

MODEL = "model"  # the setting that says which others there are
MOST_BINS = 8
RUNS_PER_BIN = 4  # of a number, on average, so that the best of them says something
MOST_NAMES = 12  # of a setting that is no number: the others are left out
MOST_PLACES = 8  # of a bin at which the surface is asked for


class Bin(NamedTuple):
    """A part of a setting's range, or one of its values.

    Attributes:
        low: the least value in it of a number; of other values the value itself.
        high: the greatest.
        num_runs: runs in it.
        best: the best value of the metric that any of them has, or the best mean of several seeds or folds.
        run: name of that run, or of the best of these.
        expected: what a smooth surface through all runs expects of the best choice of the other settings, one standard
            deviation to the better side, the mean, and one to the worse; None where there are too few runs.
    """

    low: Any
    high: Any
    num_runs: int
    best: float
    run: str
    expected: tuple[float, float, float] | None = None


def isolation(comparison: Comparison) -> dict[str, list[Bin]]:
    """Return the bins of each setting that differs between the runs, in its order.

    The best value in a bin says how good a run with such a value of the setting can be, however the others are chosen.
    Of few runs in a bin, the best depends on luck. So there is what a surface through the ranks of all runs expects of
    the best choice of the others among those that were tried. Of runs that differ in seed or fold alone, each counts
    with what all of them reach: the luckiest of them says nothing of a setting.
    """
    searched = [entry for entry in comparison.ranked if not entry.record.is_final]
    entries = with_values_of_recipes(searched, comparison.varied, comparison.metric)
    chosen = [setting for setting in comparison.varied if setting.name not in DRAWS]
    settings = [setting for setting in chosen if len(valued(entries, setting)) > 1]
    expectation = Expectation(entries, settings, comparison.metric) if is_enough(entries, settings) else None
    found = {}
    for place, setting in enumerate(settings):
        bins = [bin_of(entries, setting, each) for each in split(valued(entries, setting), entries, setting)]
        if expectation:
            with threadpool_limits(1):  # the matrices are small: several threads would take many times as long
                bins = [one._replace(expected=expectation.of(place, one)) for one in bins]
        if len(bins) > 1:
            found[setting.name] = bins
    return found


def with_values_of_recipes(entries: Sequence[Entry], varied: Sequence[Setting], metric: Metric) -> list[Entry]:
    """Return ranked runs, each with what those reach that differ from it in seed or fold alone, the best first."""
    recipes = seedless_recipes(entries, varied)
    groups: dict[str, list[Entry]] = {}
    for recipe, entry in zip(recipes, entries, strict=True):
        groups.setdefault(recipe, []).append(entry)
    values = {recipe: value_of_recipe(group) for recipe, group in groups.items()}
    changed = [replace(entry, value=values[recipe]) for recipe, entry in zip(recipes, entries, strict=True)]
    return sorted(changed, key=lambda entry: metric.cost(entry.value or 0.0))


def is_enough(entries: Sequence[Entry], settings: Sequence[Setting]) -> bool:
    """Return whether a surface can be laid through some runs."""
    return len(entries) >= FEWEST_RUNS and len({entry.value for entry in entries}) > 1 and bool(settings)


def valued(entries: Sequence[Entry], setting: Setting) -> list[int]:
    """Return the places of the runs that have a setting."""
    return [i for i, entry in enumerate(entries) if entry.record.settings.get(setting.name) is not None]


def split(places: Sequence[int], entries: Sequence[Entry], setting: Setting) -> list[list[int]]:
    """Return the places of the runs in each bin of a setting, the bins in order; those without runs are left out.

    Of many names, those with the most runs are kept, and that of the best run.
    """
    values = [entries[i].record.settings[setting.name] for i in places]
    if not setting.is_number or len(set(values)) <= MOST_BINS:
        keys: Sequence[Any] = [value if setting.is_number else str(value) for value in values]
    else:
        numbers = [math.log(value) if setting.is_log else value for value in values]
        num = min(MOST_BINS, max(2, len(places) // RUNS_PER_BIN))
        low, width = min(numbers), (max(numbers) - min(numbers)) / num
        keys = [min(int((number - low) / width), num - 1) for number in numbers]
    bins: dict[Any, list[int]] = {}
    for key, i in zip(keys, places, strict=True):
        bins.setdefault(key, []).append(i)
    best = next(iter(bins))  # of all runs, as these are the best first
    kept = sorted(bins, key=lambda key: (key != best, -len(bins[key]), key))[:MOST_NAMES]
    return [bins[key] for key in sorted(kept)]


def bin_of(entries: Sequence[Entry], setting: Setting, places: Sequence[int]) -> Bin:
    """Return the bin of a setting that holds the runs at some places: the first of these is the best."""
    values = [entries[i].record.settings[setting.name] for i in places]
    low, high = (min(values), max(values)) if setting.is_number else (values[0], values[0])
    best = entries[places[0]]
    assert best.value is not None
    return Bin(low, high, len(places), best.value, best.record.run_id)


class Expectation:
    """What a smooth surface through the ranks of runs expects of settings that were tried and of others.

    Args:
        entries: the runs, the best first.
        settings: that differ between them.
        metric: that ranks them.
    """

    def __init__(self, entries: Sequence[Entry], settings: Sequence[Setting], metric: Metric) -> None:
        self.entries = entries[:: -(-len(entries) // MOST_RUNS)]
        self.settings = settings
        self.features, self.groups = encode(self.entries, settings)
        costs = [metric.cost(entry.value or 0.0) for entry in self.entries]
        ranks = rank(costs)
        self.sorted_ranks = np.sort(ranks)
        self.sorted_values = np.array([entry.value for entry in self.entries])  # the best first, as the ranks are
        self.surface: Surface = fit(self.features, self.groups, ranks)

    def of(self, place: int, one: Bin) -> tuple[float, float, float] | None:
        """Return what is expected in a bin of the setting at a place: a deviation better, the mean, and one worse.

        The others are chosen as they were in runs that have the setting; of a bin of a model, in runs of that model,
        as those of another one lack some of its settings.
        """
        setting, columns = self.settings[place], self.groups == place
        inside = [i for i, entry in enumerate(self.entries) if is_inside(entry, setting, one)]
        chosen = inside[:: -(-len(inside) // MOST_PLACES)] if inside else []
        if not chosen:
            return None
        others = self.features[inside if setting.name == MODEL else valued(self.entries, setting)]
        candidates = np.concatenate([others] * len(chosen))
        candidates[:, columns] = np.repeat(self.features[np.ix_(chosen, columns)], len(others), 0)
        means = self.surface.predict(candidates)
        best = int(means.argmin())
        deviation = float(self.surface.deviations(candidates[best : best + 1])[0])
        better, mean, worse = (self.value_at(means[best] + side * deviation) for side in (-1, 0, 1))
        return better, mean, worse

    def value_at(self, place: float) -> float:
        """Return the value of the metric at a rank."""
        return float(np.interp(place, self.sorted_ranks, self.sorted_values))


def is_inside(entry: Entry, setting: Setting, one: Bin) -> bool:
    """Return whether a run lies in a bin of a setting."""
    value = entry.record.settings.get(setting.name)
    if value is None:
        return False
    return bool(one.low <= value <= one.high) if setting.is_number else str(value) == str(one.low)


def isolation_data(comparison: Comparison) -> Mapping[str, list[dict[str, Any]]]:
    """Return the bins of each setting as the page draws them, fit for JSON."""
    return {
        name: [{**one._asdict(), "low": plain(one.low), "high": plain(one.high)} for one in bins]
        for name, bins in isolation(comparison).items()
    }


def plain(value: Any) -> Any:
    """Return an end of a bin as JSON can hold it."""
    return value if is_finite(value) or isinstance(value, bool) else str(value)
