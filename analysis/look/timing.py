"""What the benchmarks share: a stopwatch, and the spread of what it showed."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes, from when the accelerator, if there is one, is idle to when it is again.

    What was queued before, such as a warm-up, is not counted.
    """
    wait_for_accelerator()
    started = time.perf_counter()
    work()
    wait_for_accelerator()
    return time.perf_counter() - started


def wait_for_accelerator() -> None:
    """Wait until the accelerator, if there is one, has done what it was asked to."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return each value divided by the other way's value of the same round.

    Args:
        values: one of each round of a benchmark, such as a program's images per second.
        others: the same of what it is compared with, in the same order of rounds.
    """
    return [value / other for value, other in zip(values, others, strict=True)]


def median_and_range(values: Sequence[float], form: str = ".2f", width: int = 0) -> str:
    """Return the median of some values and their range, such as 1.02 (0.98-1.10); `width` is the median's."""
    median, low, high = (format(value, form) for value in (statistics.median(values), min(values), max(values)))
    return f"{median:>{width}} ({low}-{high})"
