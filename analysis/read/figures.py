"""The figures that a run ends in, and their mean and deviation over the seeds."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data.metrics import is_finite, is_of_test_images, shown

DIGITS = 6  # significant ones that a number keeps
ROUNDING = 1e-12  # of the largest figure: a deviation that is no more is none


def figures_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's metrics on the test images, or on the validation images where it was not tested."""
    split = "test/" if any(map(is_of_test_images, summary)) else "val/"
    figures = {key: value for key, value in summary.items() if key.startswith(split)}
    return {key: value for key, value in figures.items() if is_finite(value) or isinstance(value, Mapping)}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean and the sample standard deviation of values, None for a single one, and the values themselves."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": std, "values": list(values)}


def plus_minus(figure: Mapping[str, Any], key: str) -> str:
    """Return the mean and the deviation of the metric `key` as text; the mean alone where there is no deviation."""
    return shown(key, figure["mean"], figure["std"])


def do_vary(deviation: float, values: Iterable[float]) -> bool:
    """Return whether figures vary; if they do not, as coarse accuracies may, nothing tells how much others would.

    Args:
        deviation: of the figures, or of their differences.
        values: from which the deviation comes; their size says how much of it may be rounding.
    """
    return deviation > ROUNDING * max(map(abs, values))


def finite(value: Any) -> float | None:
    """Return a finite number, to a few digits; None for anything else: W&B gives NaN and infinity as text."""
    if not is_finite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
