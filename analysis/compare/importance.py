"""Which settings matter: the share of each in the variance of the runs' ranks, by a surface through the ranks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from analysis.compare.comparison import Comparison
from analysis.compare.entry import Entry
from analysis.compare.surface import Surface, fit, squares
from analysis.compare.varied_settings import Setting, varied_settings
from analysis.read.recipe import DRAWS
from data.metrics import is_finite
from data.visible import counted

OF_MEASURING = {"test", "best_by"}  # settings that change what is measured and kept, and no figure of validation
FEWEST_RUNS = 10  # fewer say nothing
MOST_BRANCHES = 6
MOST_RUNS = 200  # that the surface goes through; more are thinned out, evenly over the ranks
NUM_GROUPS = 10  # of runs that are left out in turn
STUDENT = 1.15  # Student's t of these groups over the normal distribution's, so that two errors hold 95 %
NUM_SHIFTS = 10  # other values that each setting of each run is given; by 5, shares come out 2 % too large, not 0.5 %
SEED = 0


class Importance(NamedTuple):
    """How much each setting matters.

    Attributes:
        names: names of the settings, the most important first.
        means: share of the ranks' variance that is due to each setting, alone and together with others.
        deviations: standard errors of the means, as all would come out with other runs.
        explained: R2 of the surface's ranks for runs that it has not seen; at most 1, and below 0 where it misleads.
        num_runs: number of runs that the surface goes through.
        remark: why the figures say little, or why there are none; empty where they can be trusted.
    """

    names: tuple[str, ...] = ()
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    explained: float = 0.0
    num_runs: int = 0
    remark: str = ""


def importance(comparison: Comparison) -> Importance:
    """Return how much each setting that differs between the runs tells of a run's place in the ranking.

    These are shares of the variance of ranks rather than of values, since a single run that diverged would outweigh
    all the others.
    """
    entries = [entry for entry in comparison.ranked if not entry.record.is_final]
    varied = {setting.name for setting in varied_settings(settings_of(entries))}
    told = [setting for setting in comparison.varied if setting.name not in OF_MEASURING]
    own = [setting for setting in told if not is_lacked(setting, comparison)]
    settings = [setting for setting in own if setting.name in varied]  # not in failed runs alone
    if len(settings) < 2:
        only = f"Only {settings[0].name} differs" if settings else "No setting differs"
        return Importance(num_runs=len(entries), remark=f"{only} between the runs: there is nothing to weigh up.")
    recipes = seedless_recipes(entries, told)
    if (num_recipes := len(set(recipes))) < FEWEST_RUNS:
        what = "run" if num_recipes == len(entries) else "recipe"
        count = f"{counted(num_recipes, what)} with a {comparison.metric.name}"
        return Importance(num_runs=len(entries), remark=f"Too few trials: {count}, and {FEWEST_RUNS} are the least.")
    if len({entry.value for entry in entries}) == 1:
        same = f"All {len(entries)} runs have the same {comparison.metric.name}: there is nothing to explain."
        return Importance(num_runs=len(entries), remark=same)
    stride = -(-len(entries) // MOST_RUNS)
    entries, recipes = entries[::stride], recipes[::stride]
    features, groups = encode(entries, settings)
    with threadpool_limits(1):  # the matrices are small: several threads would take many times as long
        ranks = rank([entry.value for entry in entries])
        means, deviations, explained = total_shares(features, groups, ranks, recipes)
    order = np.argsort(-means, kind="stable")
    remark = ""
    if explained <= 0:
        remark = (
            "The settings do not predict the value of trials left out: these bars say nothing yet; run more trials."
        )
    elif len(set(recipes)) < 10 * len(settings):
        remark = f"Few trials for {len(settings)} settings: take this as a hint."
    return Importance(
        tuple(settings[i].name for i in order),
        tuple(round(float(means[i]), 4) for i in order),
        tuple(round(float(deviations[i]), 4) for i in order),
        round(explained, 4),
        len(entries),
        remark,
    )


def seedless_recipes(entries: Sequence[Entry], varied: Sequence[Setting]) -> list[str]:
    """Return the recipe of each run, as runs that differ in seed or fold alone have it in common."""
    names = [setting.name for setting in varied if setting.name not in DRAWS]
    return [repr([entry.record.settings.get(name) for name in names]) for entry in entries]


def branches(comparison: Comparison) -> dict[str, Comparison]:
    """Return the runs of each model by themselves where some settings are not those of all models; else nothing.

    Of many models it is those with the most runs.
    """
    if not any(is_lacked(setting, comparison) for setting in comparison.varied):
        return {}
    parts: dict[str, list[Entry]] = {}
    for entry in comparison.entries:
        parts.setdefault(entry.record.model, []).append(entry)
    largest = sorted(parts, key=lambda model: -len(parts[model]))[:MOST_BRANCHES]
    return {
        model: replace(comparison, entries=parts[model], varied=varied_settings(settings_of(parts[model])))
        for model in parts
        if model in largest
    }


def is_lacked(setting: Setting, comparison: Comparison) -> bool:
    """Return whether a setting is none of a model's that others of the runs have."""
    having = {entry.record.model for entry in comparison.entries if setting.name in entry.record.settings}
    return having != {entry.record.model for entry in comparison.entries}


def settings_of(entries: Sequence[Entry]) -> list[Mapping[str, Any]]:
    """Return the settings of the runs that a search has made, final ones left out."""
    return [entry.record.settings for entry in entries if not entry.record.is_final]


def encode(entries: Sequence[Entry], settings: Sequence[Setting]) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs' settings as numbers, [runs, columns], and which setting each column belongs to, [columns]."""
    blocks = [encode_setting([entry.record.settings.get(s.name) for entry in entries], s) for s in settings]
    widths = [block.shape[1] for block in blocks]
    return np.concatenate(blocks, 1), np.repeat(np.arange(len(blocks)), widths)


def encode_setting(values: Sequence[Any], setting: Setting) -> np.ndarray:
    """Return the values of one setting as numbers, [runs, columns].

    That is a column with the ranks of numbers, so that neither axis nor range matters, and where other values stand
    among them, one that says so; for text, a column for each value, so that any two are as far apart.
    """
    if setting.is_number:
        is_known = np.array([is_finite(value) for value in values])
        column = np.full(len(values), 0.5)
        if is_known.any():
            column[is_known] = rank([value for value in values if is_finite(value)])
        return np.stack([column, is_known], 1) if not is_known.all() else column[:, None]
    names = sorted({repr(value) for value in values})
    return np.array([[repr(value) == name for name in names] for value in values]) / math.sqrt(2)


def rank(values: Sequence[Any]) -> np.ndarray:
    """Return the ranks of values, scaled to [0, 1]; equal values share the mean of their ranks."""
    from scipy.stats import rankdata  # imported late: takes half a second

    return (rankdata(np.asarray(values, dtype=float)) - 1) / max(len(values) - 1, 1)


def total_shares(
    features: np.ndarray, groups: np.ndarray, targets: np.ndarray, recipes: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray, float]:
    """Measure how much of the variance of targets is due to each setting, and how well the settings predict them.

    The standard errors are those of the jackknife: all is done again without each of NUM_GROUPS groups of runs, so
    that they hold what other runs, and another surface through them, would change. Runs of one recipe are left out
    together: else one would be predicted by its own repetition.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11

    Args:
        features: the settings as numbers, [runs, columns].
        groups: which setting each column belongs to, [columns].
        targets: what is to be explained of each run, [runs]; not all of them equal.
        recipes: of each run, [runs]; empty where each has its own.

    Returns:
        The share of each setting, [settings], cut off at 1, its standard error, [settings], and R2 of the predictions
        for the runs that were left out.
    """
    surface = fit(features, groups, targets)
    told: Sequence[Any] = recipes or range(len(targets))
    numbers = {recipe: number for number, recipe in enumerate(dict.fromkeys(told))}
    units = np.array([numbers[recipe] for recipe in told])
    order = np.random.default_rng(SEED).permutation(len(numbers))
    shares, errors = [], np.empty_like(targets)
    for some in np.array_split(order, NUM_GROUPS):
        is_left_out = np.isin(units, some)
        left_out, kept = np.flatnonzero(is_left_out), np.flatnonzero(~is_left_out)
        if targets[kept].std() == 0:
            errors[left_out] = (targets[kept].mean() - targets[left_out]) ** 2
            continue
        other = fit(features[kept], groups, targets[kept], surface.parameters)
        errors[left_out] = (other.predict(features[left_out]) - targets[left_out]) ** 2
        shares.append(shares_of(other, targets[kept]))
    deviations = STUDENT * np.sqrt(np.var(shares, 0) * (len(shares) - 1))
    return np.minimum(shares_of(surface, targets), 1.0), deviations, 1 - float(errors.mean() / targets.var())


def shares_of(surface: Surface, targets: np.ndarray) -> np.ndarray:
    """Return the total share of each setting in the variance of the targets, [settings].

    It is half the mean square of what changes where the setting takes the value of another run:
    Jansen 1999, https://doi.org/10.1016/S0010-4655(98)00154-4

    Args:
        surface: goes through the targets.
        targets: the values of the runs, [runs].
    """
    features, num_runs, others = surface.features, len(targets), np.empty((NUM_SHIFTS, len(targets)), int)
    covariance, (variance, _, *lengths) = surface.covariance(features), np.exp(surface.parameters)
    found = []
    for i, length in enumerate(lengths):
        own = features[:, surface.groups == i] / length
        place = np.lexsort(own.T)
        for k in range(NUM_SHIFTS):  # the runs lie in the setting's order, so that each gets values from all its range
            others[k, place] = np.roll(place, (2 * k + 1) * num_runs // (2 * NUM_SHIFTS))
        factors = np.exp(-squares(own, own) / 2)  # of the covariance, by this setting alone, [runs, runs]
        rises = (covariance * (factors[others] / factors - 1)).reshape(-1, num_runs)  # [pairs, runs]
        between = variance * factors[others, np.arange(num_runs)]
        found.append(surface.mean_squared_rise(rises, between) / 2)
    return np.array(found) / targets.var()
