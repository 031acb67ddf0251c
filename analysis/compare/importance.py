"""Which settings matter: the permutation importance of a random forest that predicts a run's rank by its settings."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.compare.comparison import Comparison, Entry, Setting
from data.metrics import is_finite

FEWEST_RUNS = 10  # fewer say nothing
MOST_RUNS = 1000  # that the forest learns from; more are thinned out, evenly over the ranks
NUM_TREES = 100
NUM_FOLDS = 5
NUM_REPEATS = 10  # times that each setting is shuffled
SEED = 0


class Importance(NamedTuple):
    """How much each setting matters.

    Attributes:
        names: names of the settings, the most important first.
        means: share of the ranks' variance that is due to each setting, alone and together with others; noise may take
            it below 0.
        deviations: standard errors of the means, over the runs.
        explained: R2 of the forest's ranks for runs that it has not seen; at most 1, and below 0 where it misleads.
        num_runs: number of runs that the forest has learned from.
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

    The forest predicts ranks rather than values, since a single run that diverged would outweigh all the others.
    Source: Breiman 2001, https://doi.org/10.1023/A:1010933404324
    """
    entries = [entry for entry in comparison.ranked if not entry.record.is_final]
    settings = comparison.varied
    if len(settings) < 2:
        only = f"Only {settings[0].name} differs" if settings else "No setting differs"
        return Importance(num_runs=len(entries), remark=f"{only} between the runs: there is nothing to weigh up.")
    if len(entries) < FEWEST_RUNS:
        count = f"{len(entries)} run{'' if len(entries) == 1 else 's'} with a {comparison.metric.name}"
        return Importance(num_runs=len(entries), remark=f"Too few trials: {count}, and {FEWEST_RUNS} are the least.")
    if len({entry.value for entry in entries}) == 1:
        same = f"All {len(entries)} runs have the same {comparison.metric.name}: there is nothing to explain."
        return Importance(num_runs=len(entries), remark=same)
    stride = -(-len(entries) // MOST_RUNS)
    entries = entries[::stride]
    features = encode(entries, settings)
    ranks = rank([entry.value or 0.0 for entry in entries])
    explained, costs = shuffling_costs(features, ranks)
    means, deviations = costs.mean(0), costs.std(0, ddof=1) / math.sqrt(len(costs))
    order = np.argsort(-means, kind="stable")
    remark = ""
    if explained <= 0:
        remark = (
            "The settings do not predict the value of trials left out: these bars say nothing yet; run more trials."
        )
    elif len(entries) < 10 * len(settings):
        remark = f"Few trials for {len(settings)} settings: take this as a hint."
    return Importance(
        tuple(settings[i].name for i in order),
        tuple(round(float(means[i]), 4) for i in order),
        tuple(round(float(deviations[i]), 4) for i in order),
        round(explained, 4),
        len(entries),
        remark,
    )


def encode(entries: Sequence[Entry], settings: Sequence[Setting]) -> np.ndarray:
    """Return the runs' settings as numbers, [runs, settings]; logarithms for a setting with a logarithmic axis."""
    columns = [encode_setting([entry.record.settings.get(s.name) for entry in entries], s) for s in settings]
    return np.stack(columns, 1)


def encode_setting(values: Sequence[Any], setting: Setting) -> np.ndarray:
    """Return the values of one setting as numbers, [runs]."""
    if setting.is_number:
        present = np.array([value if is_finite(value) else np.nan for value in values], dtype=float)
        column = np.log(present) if setting.is_log else present
        return np.where(np.isnan(column), np.nanmin(column) - 1, column)
    names = {name: i for i, name in enumerate(sorted({repr(value) for value in values}))}
    return np.array([float(names[repr(value)]) for value in values])


def rank(values: Sequence[float]) -> np.ndarray:
    """Return the ranks of values, scaled to [0, 1]; equal values share the mean of their ranks."""
    from scipy.stats import rankdata  # imported late: takes half a second

    return (rankdata(values) - 1) / (len(values) - 1)


def shuffling_costs(features: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Measure how well a forest predicts runs that it has not seen, and how much it needs each setting for that.

    Half of what shuffling a setting adds to the squared error, over the variance of the targets, is the setting's total
    share in that variance: Jansen 1999, https://doi.org/10.1016/S0010-4655(98)00154-4

    Args:
        features: the settings as numbers, [runs, settings].
        targets: what is predicted of each run, [runs].

    Returns:
        R2 of the predictions, and the share of each setting by each run alone, [runs, settings].
    """
    from sklearn.ensemble import RandomForestRegressor  # imported late: takes a second
    from sklearn.model_selection import KFold

    generator = np.random.default_rng(SEED)
    shuffled = [generator.permutation(features) for _ in range(NUM_REPEATS)]
    errors = np.empty_like(targets)
    costs = np.zeros_like(features)
    for kept, held_out in KFold(NUM_FOLDS, shuffle=True, random_state=SEED).split(features):
        forest = RandomForestRegressor(NUM_TREES, min_samples_leaf=2, random_state=SEED)
        forest.fit(features[kept], targets[kept])
        errors[held_out] = (forest.predict(features[held_out]) - targets[held_out]) ** 2
        for i in range(features.shape[1]):
            changed = np.concatenate([features[held_out]] * NUM_REPEATS)
            changed[:, i] = np.concatenate([other[held_out, i] for other in shuffled])
            predicted = forest.predict(changed).reshape(NUM_REPEATS, -1)
            worse = np.mean((predicted - targets[held_out]) ** 2, axis=0)
            costs[held_out, i] = (worse - errors[held_out]) / 2
    return 1 - float(errors.mean() / targets.var()), costs / targets.var()
