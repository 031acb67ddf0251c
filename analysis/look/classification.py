"""What a classifier gets right and wrong: confusion matrix, per-class table, worst mistakes, calibration."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from analysis.look.calibration import Calibration, calibrate
from analysis.look.panels import as_written, render
from analysis.look.split_predictions import Predictions
from analysis.record.findings import Analysis, Table
from data.loader import Loader
from data.metrics import shown
from data.visible import counted, visible
from models.core.panel import Panel

NUM_MISTAKES = 32


def analyse_classifier(
    predictions: Predictions, loader: Loader, classes: tuple[str, ...], split: str, folder: Path
) -> Analysis:
    """Look closely at a classifier on one split, and return what there is to log.

    Args:
        predictions: of the split.
        loader: of the split.
        classes: their names.
        split: its name, for the pictures.
        folder: that the pictures and the table are written to.
    """
    calibration = calibrate(predictions.probabilities.numpy(), predictions.labels.numpy())
    matrix = count_confusions(predictions.labels, predictions.predicted, len(classes))
    table, what = tabulate_classes(matrix, classes), counted(len(predictions.labels), f"{split} image")
    table.save(folder / "per_class.csv")
    draws: dict[Path, Panel | Callable[[Path], object]] = {
        folder / "confusion_matrix.png": lambda path: draw_confusion_matrix(matrix, classes, what, path),
        folder / "reliability.png": lambda path: draw_reliability(calibration, what, path),
    }
    if not predictions.is_right.all():
        draws[folder / "mistakes.png"] = mistakes_panel(loader, classes, predictions)
    return Analysis({"ece": calibration.error}, render(draws), {"per_class": table})


def count_confusions(labels: torch.Tensor, predicted: torch.Tensor, num_classes: int) -> np.ndarray:
    """Return the number of images of each true class (rows) and predicted class (columns), for classes [N].

    scikit-learn counts the same, but importing it takes longer than a short run has for its end.
    """
    return (labels * num_classes + predicted).bincount(minlength=num_classes**2).view(num_classes, -1).numpy()


def tabulate_classes(matrix: np.ndarray, classes: tuple[str, ...]) -> Table:
    """Return precision, recall, F1 (0 where there is nothing to divide by) and the number of images of each class.

    Args:
        matrix: confusions, as `count_confusions` gives them.
        classes: their names.
    """
    right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    shares = (right / predicted.clip(1), right / true.clip(1), 2 * right / (true + predicted).clip(1), true)
    rows = [(name, *(round(float(value), 4) for value in row)) for name, *row in zip(classes, *shares, strict=True)]
    return Table(("class", "precision", "recall", "f1-score", "support"), rows)


def worst_mistakes(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the indices of the wrong predictions made with the most confidence, the surest first."""
    confidence, predicted = probabilities.max(1)
    confidence = confidence.masked_fill(predicted == labels, -1)
    return confidence.argsort(descending=True)[: min(NUM_MISTAKES, int((predicted != labels).sum()))]


def mistakes_panel(loader: Loader, classes: tuple[str, ...], predictions: Predictions) -> Panel:
    """Return a panel of a split's worst mistakes: what they are, what they were taken for, and in which file."""
    labels, predicted = predictions.labels, predictions.predicted
    worst = worst_mistakes(predictions.probabilities, labels)
    return panel_of_wrong(loader, worst, [f"{classes[labels[i]]} as {classes[predicted[i]]}" for i in worst])


def panel_of_wrong(loader: Loader, index: torch.Tensor, captions: Sequence[str]) -> Panel:
    """Return a panel of wrongly predicted images of a split, by their indices; their files stand below the captions."""
    if loader.names:
        captions = [f"{caption}\n{visible(loader.names[i])}" for caption, i in zip(captions, index, strict=True)]
    return Panel(loader.pictures(index), tuple(captions), (False,) * len(index))


def draw_confusion_matrix(matrix: np.ndarray, classes: tuple[str, ...], what: str, path: Path) -> None:
    """Draw the shares of each true class (rows) by predicted class (columns), with counts where they are legible.

    Args:
        matrix: confusions, as `count_confusions` gives them.
        classes: their names.
        what: was predicted, for the title.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    shares = matrix / matrix.sum(1, keepdims=True).clip(1)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="Blues"), label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true", title=f"confusion matrix, {what}")
    names = [as_written(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), names)
    if len(classes) <= 20:
        for row, column in np.ndindex(matrix.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=100)


def draw_reliability(calibration: Calibration, what: str, path: Path) -> None:
    """Draw accuracy against confidence, a reliability diagram, with the share of all choices in each bin.

    Args:
        calibration: to draw.
        what: was predicted, for the title.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    num_bins = len(calibration.share)
    left = np.arange(num_bins) / num_bins
    figure = Figure(figsize=(6, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.bar(left, np.nan_to_num(calibration.accuracy), 1 / num_bins, align="edge", edgecolor="white", label="accuracy")
    top.plot([0, 1], [0, 1], "--", color="grey", label="perfect calibration")
    title = f"reliability, {what}, ECE {shown('ece', calibration.error)}"
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=title)
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2)  # above the bars, which may be anywhere
    bottom.bar(left, calibration.share, 1 / num_bins, align="edge", color="grey", edgecolor="white")
    bottom.set(xlabel="confidence", ylabel="share")
    figure.savefig(path, dpi=100)
