"""Recipes over their seeds: mean and interval of each, and whether one of them beats another.

The seeds of a recipe are a sample of all that there could be. Intervals are Student's: with the three to ten seeds that
people train, a bootstrap of so few values is too narrow (of 5 values it holds the mean in 83 of 100 cases in place of
95). Two recipes with the same seeds are compared seed by seed, others by Welch's test. Whether the images are enough is
another question than whether the seeds are: it is answered by a bootstrap over images that both have predicted.

Student's interval knows no bounds, but a mean accuracy of 104 % is impossible. Such an interval is cut off where the
metric ends. As no mean lies beyond, the rest of it holds the mean exactly as often as the whole; intervals on another
scale, such as that of log odds, would change that, and have no bounds at all where a seed is at 100 %.

Sources: Dror et al. 2018, The Hitchhiker's Guide to Testing Statistical Significance, https://aclanthology.org/P18-1128
Mandelkern 2002, Setting Confidence Intervals for Bounded Parameters, https://doi.org/10.1214/ss/1030550859
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from analysis.read.figures import do_vary
from data.metrics import Metric, range_of, shown
from data.visible import counted, percent

CONFIDENCE = 0.95
MOST_SEEDS = 1000  # that are worth telling anybody to train
NUM_RESAMPLES = 2000
MOST_NAMED = 5  # seeds


class Interval(NamedTuple):
    """A mean, and between which bounds it lies with a confidence of 95 %; without bounds where nothing tells them."""

    mean: float
    low: float | None = None
    high: float | None = None


class Draw(NamedTuple):
    """What the luck of a run hangs on."""

    seed: int
    fold: str = ""  # of a cross-validation, such as 1/3

    def __str__(self) -> str:
        return f"{self.seed} (fold {self.fold})" if self.fold else str(self.seed)


Key = TypeVar("Key", int, Draw)


class Duel(NamedTuple):
    """How the mean of one recipe differs from that of another.

    Attributes:
        difference: the one less the other, over the seeds.
        probability: that the one is better in the mean over all seeds; None for a single seed of each, or where the
            difference is the same for all seeds.
        num_more: further seeds of each that would settle which is better, if they differ as they do; 0 if that is
            settled, None if no number of seeds is worth it, or these tell nothing.
        paired: the seeds that both have, if the difference is over these alone, since one has further ones; else ().
            With folds, here and above a seed stands for a seed and a fold.
        varies: whether the difference does from seed to seed; if not, nothing tells how much others would.
    """

    difference: Interval
    probability: float | None
    num_more: int | None
    paired: tuple[int | Draw, ...] = ()
    varies: bool = True


def mean_over_seeds(values: Sequence[float], metric: str) -> Interval:
    """Return the mean of a recipe's values, one for each seed, with Student's interval, cut off where the metric ends.

    Args:
        values: of the metric.
        metric: its name.
    """
    mean = statistics.fmean(values)
    if len(values) < 2 or not do_vary(deviation := statistics.stdev(values), values):
        return Interval(mean)
    half = student(len(values) - 1) * deviation / math.sqrt(len(values))
    least, most = range_of(metric)
    return Interval(mean, max(least, mean - half), min(most, mean + half))


def duel(one: Mapping[Key, float], other: Mapping[Key, float], metric: Metric) -> Duel:
    """Compare two recipes.

    Args:
        one: seed, or seed and fold -> value of the metric.
        other: the same of the other recipe.
        metric: says whether more or less of it is better.
    """
    shared = sorted(one.keys() & other.keys())
    if len(shared) >= 2:
        differences = [one[seed] - other[seed] for seed in shared]
        mean, deviations, nums = statistics.fmean(differences), [statistics.stdev(differences)], [len(shared)]
    else:
        shared = []
        mean = statistics.fmean(one.values()) - statistics.fmean(other.values())
        known = [statistics.stdev(each.values()) for each in (one, other) if len(each) > 1]
        if not known:
            return Duel(Interval(mean), None, None)
        deviations = [known[0], known[-1]]  # a single value varies as the other recipe's do
        nums = [len(one), len(other)]
    paired = tuple(shared) if len(shared) < max(len(one), len(other)) else ()
    if mean and not do_vary(max(deviations), [*one.values(), *other.values()]):
        return Duel(Interval(mean), None, None, paired, varies=False)
    error, freedom = error_and_freedom(deviations, nums)
    half, (least, most) = student(freedom) * error, range_of(metric.name)
    return Duel(
        Interval(mean, max(least - most, mean - half), min(most - least, mean + half)),
        probability_of_more(mean if metric.cost(1.0) < metric.cost(0.0) else -mean, error, freedom),
        seeds_to_settle(mean, deviations, nums),
        paired,
    )


def student(freedom: float) -> float:
    """Return how many standard errors of a mean an interval reaches to each side."""
    from scipy.stats import t  # imported late: takes half a second

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def error_and_freedom(deviations: Sequence[float], nums: Sequence[int]) -> tuple[float, float]:
    """Return the standard error of a mean, or of the difference of two, and its degrees of freedom (Welch 1947).

    Args:
        deviations: of the values of each mean; a single value is given that of the other mean's values.
        nums: of the values of each mean.
    """
    errors = [deviation / math.sqrt(num) for deviation, num in zip(deviations, nums, strict=True)]
    error = math.hypot(*errors)
    if 1 in nums:  # there is but one estimate of the deviation
        return error, max(nums) - 1.0
    if error == 0:
        return error, min(nums) - 1.0
    return error, 1 / sum((each / error) ** 4 / (num - 1) for each, num in zip(errors, nums, strict=True))


def probability_of_more(mean: float, error: float, freedom: float) -> float:
    """Return the probability that a true mean is above 0, if all means were equally likely before.

    Without an error, the mean is 0, and nothing speaks for either side.
    """
    from scipy.stats import t  # imported late: takes half a second

    if error == 0:
        return 0.5
    return float(t.cdf(mean / error, freedom))


def seeds_to_settle(mean: float, deviations: Sequence[float], nums: Sequence[int]) -> int | None:
    """Return how many further seeds of each would make the interval leave 0 out, if mean and spread stay.

    Args:
        mean: of the differences, or the difference of two means.
        deviations: as `error_and_freedom` takes them.
        nums: of the values there are now, likewise.
    """
    for more in range(MOST_SEEDS):
        error, freedom = error_and_freedom(deviations, [num + more for num in nums])
        if abs(mean) > student(freedom) * error:
            return more
    return None


def difference_over_images(one: Mapping[str, float], other: Mapping[str, float]) -> Interval | None:
    """Return the difference of two recipes' accuracies, and within which it would lie on other images like these.

    Args:
        one: image -> share of its runs that are right, as `right_by_image` gives it.
        other: the same of the other recipe.

    Returns:
        None where they have fewer than two images in common.
    """
    from scipy.stats import bootstrap  # imported late: takes half a second

    shared = one.keys() & other.keys()
    differences = np.array([one[image] - other[image] for image in sorted(shared)])
    if len(differences) < 2:
        return None
    mean = float(differences.mean())
    if not differences.any():
        return Interval(mean, mean, mean)
    found = bootstrap(
        (differences,), np.mean, n_resamples=NUM_RESAMPLES, batch=50, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def verdict(found: Duel, over_images: Interval | None, metric: str, images_by: str = "", what: str = "seed") -> str:
    """Return in words what is known of two recipes.

    Args:
        found: the one against the other over their seeds.
        over_images: their difference in accuracy over images; None where that is not known.
        metric: name of the metric, which says how its values are written.
        images_by: which weights have predicted the images, where the seeds' values are those of others.
        what: the difference is over: "seed" or "fold".
    """
    difference = found.difference
    parts = [f"{signed(metric, difference.mean)}{between(metric, difference)} over {seeds_of(found, what)}"]
    if found.probability is not None:
        parts.append(f"{likelihood(found.probability)} likely to be better")
    if over_images is not None:
        parts.append(
            f"{signed('accuracy', over_images.mean)}{between('accuracy', over_images)} over the images{images_by}"
        )
    text = ", ".join(parts)
    if not found.varies:
        text += f"; all {what}s say exactly the same, which tells nothing of others"
    elif found.num_more:
        text += f"; {counted(found.num_more, f'further {what}')} of each would settle it, if this is their difference"
    elif found.num_more is None:
        text += "; not to be told apart" if found.probability is not None else f"; one {what} of each tells nothing"
    elif over_images is not None and contains_zero(over_images):
        text += "; on these images, but they are too few to say it of others"
    return text


def likelihood(probability: float) -> str:
    """Return a probability in words, which is not said to be certain where it is only rounded to that."""
    if 0 < probability < 0.005:
        return "less than 1 %"
    return "more than 99 %" if 0.995 <= probability < 1 else percent(probability, 0)


def seeds_of(found: Duel, what: str) -> str:
    """Return in words of which seeds, or folds, a difference is."""
    if not found.paired:
        return f"the {what}s"
    if len(found.paired) > MOST_NAMED:
        return f"the {len(found.paired)} {what}s that both have"
    *others, last = map(str, found.paired)
    return f"seeds {', '.join(others)} and {last}, which both have"


def between(metric: str, interval: Interval) -> str:
    """Return the bounds of an interval as people read them."""
    if interval.low is None or interval.high is None:
        return ""
    return f" [{signed(metric, interval.low)}, {signed(metric, interval.high)}]"


def signed(metric: str, value: float) -> str:
    """Return a difference of two values of a metric as people read it, with its sign."""
    return ("+" if value >= 0 else "") + shown(metric, value)


def contains_zero(interval: Interval) -> bool:
    """Return whether an interval does not tell the sign of a difference."""
    return interval.low is None or interval.high is None or interval.low <= 0 <= interval.high
