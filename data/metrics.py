"""What the name of a metric says: whether more is better, how its values are written, which epoch was the best."""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal, NamedTuple, get_args

Goal = Literal["minimize", "maximize"]
GOALS: tuple[Goal, ...] = get_args(Goal)

# Metrics of which more is better, and those that are shown as percentages, by the ends of their names.
MAXIMIZED = (
    *("accuracy", "mAP", "macro_f1", "auroc", "purity", "nmi", "ari"),
    *("active_units", "codes_used", "sample_variety", "images_per_second", "inception_score"),
)
# Metrics of whose names nobody can tell whether less or more is better: scores of a discriminator, which are to be
# neither, and the perplexity, of which a code book's is to be high and a language model's low.
UNTOLD = ("real_score", "fake_score", "told_apart", "perplexity")
PERCENTAGES = ("accuracy", "mAP", "ece")
# Measures of samples of which more is better, by the beginnings of their names: they end with network and number.
MAXIMIZED_OF_SAMPLES = ("precision_", "recall_", "density_", "coverage_", "inception_score_")
# The least and the greatest value that a metric can have, by the end of its name:
RANGES = dict.fromkeys((*PERCENTAGES, "macro_f1", "auroc", "purity", "nmi"), (0.0, 1.0)) | {"ari": (-0.5, 1.0)}
# and of a measure of samples, by the beginning of its name behind the split; KID has no bias, and may be below 0.
RANGES_OF_SAMPLES = dict.fromkeys(("precision_", "recall_", "coverage_"), (0.0, 1.0)) | {
    "density_": (0.0, math.inf),
    "fid_": (0.0, math.inf),
    "inception_score_": (1.0, math.inf),
}
USUAL = ("accuracy", "mAP", "loss")  # what runs are compared by where nobody says: the first that they have
RANKING = tuple(f"val/{name}" for name in USUAL)  # of runs of no sweep
TEST_METRICS = tuple(f"test/{name}" for name in USUAL)  # of final runs, beside the one of their sweep
LARGEST = sys.float_info.max
MOST_POINTS = 10_000  # of a curve that is kept or drawn

Curve = list[tuple[float, float]]  # epoch and value of each point


class Best(NamedTuple):
    """The best value that a run has logged of a metric, and the epoch it was logged in."""

    value: float
    epoch: int


@dataclass(frozen=True)
class Metric:
    """A metric by which runs are ranked.

    Attributes:
        name: as it is logged, such as val/loss.
        goal: whether less or more is better.
        target: value that is good enough for a sweep to end; None for no such value.
    """

    name: str
    goal: Goal = "minimize"
    target: float | None = None

    def cost(self, value: float) -> float:
        """Return `value` with the sign at which less is better."""
        return value if self.goal == "minimize" else -value

    def is_better(self, value: Any, than: float | None) -> bool:
        """Return whether a value is finite, and better than another one, or than None for none."""
        return is_finite(value) and (than is None or self.cost(value) < self.cost(than))

    def text(self) -> str:
        """Return the text by which `metric_named` finds the metric: its name, behind a goal that the name hides."""
        is_told = tells_goal(self.name) and metric_named(self.name).goal == self.goal
        return self.name if is_told else f"{self.goal} {self.name}"

    def best(self, rows: Iterable[Mapping[str, Any]]) -> Best | None:
        """Return the best finite value in logged rows with its epoch, the earlier of equal ones; None without any."""
        known = [
            Best(row[self.name], row["epoch"])
            for row in rows
            if all(is_finite(row.get(key)) for key in (self.name, "epoch"))
        ]
        return min(known, key=lambda point: self.cost(point.value), default=None)


def metric_named(text: str) -> Metric:
    """Return the metric of that name. Its goal is told by the name or stands before it: "maximize val/perplexity"."""
    told, _, name = text.partition(" ")
    for goal in GOALS:
        if told == goal and name:
            return Metric(name, goal)
    return Metric(text, "maximize" if is_maximized(text) else "minimize")


def is_of_test_images(name: str) -> bool:
    """Return whether a metric is one of the test images, which are read once, and by which nothing is chosen."""
    return name.startswith("test/")


def metrics_of_finals(metric: Metric) -> list[Metric]:
    """Return the metrics that final runs are told by, the first that they have: of test images or, last, `metric`.

    Args:
        metric: by which their trials are ranked. Its figure of test images stands before the usual ones, unless it is
            one of them: by the loss of a GAN or of a VAE of some beta, runs cannot be compared.
    """
    own = Metric(f"test/{metric.name.partition('/')[2] or metric.name}", metric.goal)
    is_first = own.name not in TEST_METRICS or own.name == metric.name
    usual = [metric_named(name) for name in TEST_METRICS]
    told = [own, *usual, metric] if is_first else [*usual, metric]
    return list({each.name: each for each in told}.values())


def is_maximized(name: str) -> bool:
    """Return whether more of a metric is better."""
    return name.endswith(MAXIMIZED) or name.rpartition("/")[2].startswith(MAXIMIZED_OF_SAMPLES)


def tells_goal(text: str) -> bool:
    """Return whether the text of a metric tells whether less or more is better, by its name or before that."""
    return not text.endswith(UNTOLD) or metric_named(text).name != text


def best_elsewhere(rows: Iterable[Mapping[str, Any]], kept: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the best value and its epoch of each metric of RANKING that the kept weights are not the best in.

    Args:
        rows: all that a run has logged.
        kept: the metrics of the epoch whose weights are kept.
    """
    rows = list(rows)
    found = {name: metric_named(name).best(rows) for name in RANKING if is_finite(kept.get(name))}
    return {name: best._asdict() for name, best in found.items() if best and best.value != kept[name]}


def is_percentage(name: str) -> bool:
    """Return whether a metric is a share in [0, 1] that is shown in percent."""
    return name.endswith(PERCENTAGES)


def range_of(metric: str) -> tuple[float, float]:
    """Return the least and the greatest value that a metric can have, infinite where its name tells none."""
    part = metric.rpartition("/")[2]
    ranges = [
        *(found for end, found in RANGES.items() if part.endswith(end)),
        *(found for start, found in RANGES_OF_SAMPLES.items() if part.startswith(start)),
    ]
    return ranges[0] if ranges else (-math.inf, math.inf)


def shown(name: str, value: Any, std: Any = None) -> str:
    """Return a metric's value as people read it, as in 54.80 % or 1.2345; "" for what is no number.

    Args:
        name: of the metric.
        value: its value, or the mean of several.
        std: their deviation; None for none.
    """
    if not is_finite(value):
        return str(value) if isinstance(value, float) else ""
    scale, unit = (100, " %") if is_percentage(name) else (1, "")
    size = abs(value)
    form = ".2f" if unit or 10 <= size < 1e5 else ".4f" if size == 0 or 1e-3 <= size < 10 else ".3e"
    return " ± ".join(f"{scale * part:{form}}" for part in (value, std) if is_finite(part)) + unit


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Return a curve or, of one with more than `most` points, a quarter: the extremes of equal stretches of it.

    So the least and the greatest value of all are kept, the earlier of equal ones, and so is the last point.
    """
    if len(curve) <= most:
        return curve
    size, value_of, kept = math.ceil(8 * len(curve) / most), itemgetter(1), []
    for start in range(0, len(curve), size):
        stretch = curve[start : start + size]
        low, high = min(stretch, key=value_of), max(stretch, key=value_of)
        kept += [low] if low is high else sorted([low, high])
    return kept if kept[-1] is curve[-1] else [*kept, curve[-1]]


def is_epoch(row: Mapping[str, Any]) -> bool:
    """Return whether a logged row is an epoch's; the row of a run's closing evaluation has no learning rate."""
    return "lr" in row


def is_closing(row: Mapping[str, Any]) -> bool:
    """Return whether a logged row is that of a closing evaluation; that of a step says which step it is."""
    return not is_epoch(row) and "step" not in row


def is_finite(value: Any) -> bool:
    """Return whether a value is a finite number; booleans, text, None and whole numbers beyond all floats are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
