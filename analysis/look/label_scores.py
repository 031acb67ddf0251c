"""What a classifier of several labels gets right and wrong: figures of each label, worst mistakes, calibration."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from analysis.look.calibration import calibration_on
from analysis.look.classification import NUM_MISTAKES, draw_reliability, panel_of_wrong
from analysis.look.panels import as_written, render
from analysis.look.split_predictions import Predictions
from analysis.record.findings import Analysis, Table
from data.loader import Loader
from data.metrics import shown
from data.visible import counted
from models.core.panel import Panel
from models.parts.labelling import ranking_scores

COLUMNS = ("label", "average precision", "auroc", "precision", "recall", "f1-score", "support")
MOST_BARS = 60  # labels that are drawn


def analyse_labels(
    predictions: Predictions, loader: Loader, classes: tuple[str, ...], split: str, folder: Path
) -> Analysis:
    """Look closely at a classifier of several labels on one split, and return what there is to log.

    Args:
        predictions: of the split.
        loader: of the split.
        classes: names of the labels.
        split: its name, for the pictures.
        folder: that the pictures and the table are written to.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    calibration = calibration_on(probabilities, labels, predictions.labelling)
    table = tabulate_labels(predictions.logits, predictions.predicted, labels, classes)
    table.save(folder / "per_class.csv")
    draws: dict[Path, Panel | Callable[[Path], object]] = {
        folder / "average_precision.png": lambda path: draw_precisions(table, len(labels), split, path),
        folder / "reliability.png": lambda path: draw_reliability(
            calibration, counted(len(labels), f"{split} image"), path
        ),
    }
    if not predictions.is_right.all():
        draws[folder / "mistakes.png"] = mistakes_panel(loader, predictions)
    return Analysis({"ece": calibration.error}, render(draws), {"per_class": table})


def tabulate_labels(scores: Tensor, predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> Table:
    """Return how well each label is told: by scores, the greater, the surer, and by what is predicted; all [N, C]."""
    from sklearn.metrics import precision_recall_fscore_support  # imported late: takes a second

    ranking = ranking_scores(scores.numpy(), labels.numpy())
    *columns, supports = precision_recall_fscore_support(labels, predicted, average=None, zero_division=0.0)
    figures = zip(*ranking, *columns, strict=True)
    rows = [(name, *map(rounded, row), int(num)) for name, row, num in zip(classes, figures, supports, strict=True)]
    return Table(COLUMNS, rows)


def rounded(value: float) -> float | None:
    """Return a figure in four places; None for NaN."""
    return None if np.isnan(value) else round(float(value), 4)


def worst_labels(losses: Tensor, is_right: Tensor) -> Tensor:
    """Return the indices of the images of which something is wrong, the greatest loss first; both are [N]."""
    wrong = (~is_right).nonzero().flatten()
    return wrong[losses[wrong].argsort(descending=True)]


def mistakes_panel(loader: Loader, predictions: Predictions) -> Panel:
    """Return a panel of the images of a split with the greatest losses of which something is wrong."""
    worst = worst_labels(predictions.losses, predictions.is_right)[:NUM_MISTAKES]
    told = zip(predictions.probabilities[worst], predictions.labels[worst], strict=True)
    return panel_of_wrong(loader, worst, [predictions.labelling.caption(*each, loader.info) for each in told])


def draw_precisions(table: Table, num_images: int, split: str, path: Path) -> None:
    """Draw the average precision of each label, the greatest first, beside what guessing gets: its share of images.

    Args:
        table: as `tabulate_labels` gives it.
        num_images: of the split.
        split: its name, for the title.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    known = sorted((row for row in table.rows if row[1] is not None), key=lambda row: -float(row[1]))
    drawn = known if len(known) <= MOST_BARS else [*known[: MOST_BARS // 2], *known[-MOST_BARS // 2 :]]
    left_out = f", the first and the last {MOST_BARS // 2} of {len(known)}" if len(known) > len(drawn) else ""
    places, numbers = range(len(drawn)), [row[-1] for row in drawn]
    figure = Figure(figsize=(8, 1.5 + 0.25 * max(len(drawn), 4)), layout="constrained")
    axes = figure.subplots()
    axes.barh(places, [float(row[1]) for row in drawn], label="average precision")
    axes.plot([number / num_images for number in numbers], places, "k|", markersize=12, label="guessing")
    names = [f"{as_written(row[0])} ({number:,})" for row, number in zip(drawn, numbers, strict=True)]
    axes.set_yticks(places, names)
    mean = np.mean([float(row[1]) for row in known])
    told = f"of labels ({split} images that have them){left_out}"
    axes.set(xlim=(0, 1), title=f"mean average precision {shown('mAP', mean)}, {told}")
    axes.invert_yaxis()
    figure.legend(loc="outside lower right", ncols=2)
    figure.savefig(path, dpi=100)
