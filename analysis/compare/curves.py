"""What a run logged in its epochs, as it is drawn and put into a page."""

from typing import Any

from analysis.read.figures import finite
from analysis.read.records import RunRecord
from analysis.read.runs import history
from data.metrics import is_epoch, is_finite

MOST_POINTS = 500  # of a curve


def curves_of(record: RunRecord, best_epoch: int | None = None) -> dict[str, list[float | None]]:
    """Return what a run logged in its epochs, by name; "seconds" is the time so far.

    Of more than MOST_POINTS epochs it is every second, fourth, ..., and in any case the best and the last. Those are
    kept whose numbers are even: what is measured every ten epochs is among them.

    Args:
        record: the run.
        best_epoch: that of its best value; None for none.
    """
    epochs = (row for row in history(record) if is_epoch(row) and is_finite(row.get("epoch")))
    seconds, stride, points = 0.0, 1, dict[int, dict[str, Any]]()
    place, row = 0, dict[str, Any]()
    for place, row in enumerate(epochs):
        seconds += finite(row.get("epoch_seconds")) or 0.0
        if stride == 1 or row["epoch"] % stride == 0 or row["epoch"] == best_epoch:  # some count fractions of epochs
            points[place] = {**row, "seconds": seconds}
        if len(points) >= MOST_POINTS:
            stride *= 2
            points = {
                k: point for k, point in points.items() if point["epoch"] % stride == 0 or point["epoch"] == best_epoch
            }
    if row:
        points[place] = {**row, "seconds": seconds}
    names = dict.fromkeys(name for row in points.values() for name in row if name.startswith(("train/", "val/")))
    return {name: [finite(row.get(name)) for row in points.values()] for name in ("epoch", "seconds", *names)}
