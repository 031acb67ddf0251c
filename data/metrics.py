"""What the name of a metric says: whether more is better, whether it is a percentage, which epoch was the best."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

# Metrics of which more is better, and those that are shown as percentages, by the ends of their names.
MAXIMIZED = ("accuracy", "purity", "nmi", "ari", "active_units", "images_per_second", "inception_score")
PERCENTAGES = ("accuracy", "ece")


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
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None

    def cost(self, value: float) -> float:
        """Return `value` with the sign at which less is better."""
        return value if self.goal == "minimize" else -value

    def best(self, rows: Iterable[Mapping[str, Any]]) -> Best | None:
        """Return the best finite value in logged rows with its epoch, the earlier of equal ones; None without any."""
        known = [
            Best(row[self.name], row["epoch"])
            for row in rows
            if all(is_finite(row.get(key)) for key in (self.name, "epoch"))
        ]
        return min(known, key=lambda point: self.cost(point.value), default=None)


def metric_named(name: str) -> Metric:
    """Return the metric of that name, its goal told by the name."""
    return Metric(name, "maximize" if is_maximized(name) else "minimize")


def is_maximized(name: str) -> bool:
    """Return whether more of a metric is better."""
    return name.endswith(MAXIMIZED)


def is_percentage(name: str) -> bool:
    """Return whether a metric is a share in [0, 1] that is shown in percent."""
    return name.endswith(PERCENTAGES)


def is_epoch(row: Mapping[str, Any]) -> bool:
    """Return whether a logged row is an epoch's; the row of a run's closing evaluation has no learning rate."""
    return "lr" in row


def is_finite(value: Any) -> bool:
    """Return whether a value is a finite number; booleans, text and None are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
