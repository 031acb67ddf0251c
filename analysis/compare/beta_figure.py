"""One picture of what beta does to a variational autoencoder, with a column for each beta of a finished sweep.

A column shows samples, reconstructions, t-SNE, the curves of reconstruction and KL, and the metrics of the run's end.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from analysis.compare.comparison import curves_of
from analysis.read.pictures import newest_pictures, read_picture
from analysis.read.records import RunRecord
from analysis.read.runs import best_values, find_sweep_folder, read_runs
from data.errors import UserError
from data.files import write_figure
from data.metrics import is_finite, metric_named, shown

FILE = "beta.png"
PICTURES = ("samples", "samples_by_class", "reconstructions", "tsne")  # where the runs have drawn them
CURVES = ("reconstruction", "kl")
COLUMN_INCHES = 4.5
CURVE_INCHES = 3.0
LINE_INCHES = 0.16
DPI = 120


def draw_sweep(name: str, out: Path | None) -> Path:
    """Draw the runs of a sweep side by side, and return the picture's file.

    Args:
        name: name of the sweep in runs/sweeps, or path of its folder.
        out: the file; None for one in the sweep's folder.

    Raises:
        UserError: there is no such sweep, it has no finished run with a beta, or the file cannot be written.
    """
    folder = find_sweep_folder(name)
    path = out or folder / FILE
    write_figure(path, draw(runs_by_beta(folder)), DPI)
    return path


def runs_by_beta(folder: Path) -> dict[float, RunRecord]:
    """Return the finished run of each beta, the lowest beta first; of several runs the one of least validation loss.

    Raises:
        UserError: no finished run in the folder has a beta.
    """
    finished = [run for run in read_runs(folder).records if run.state == "finished"]
    records = [run for run in finished if is_finite(run.settings.get("beta"))]
    if not records:
        raise UserError(f"{folder} has no finished run with a beta: give the sweep of a vae, a cvae or a cvae_head")
    loss = metric_named("val/loss")
    known = zip(records, best_values(records, [loss]), strict=True)
    losses = [(best[loss.name].value if best else math.inf, run) for run, best in known]
    best_first = sorted(losses, key=lambda pair: pair[0])
    by_beta = {run.settings["beta"]: run for _, run in reversed(best_first)}
    return dict(sorted(by_beta.items()))


def result_text(summary: Mapping[str, Any]) -> str:
    """Return the metrics of a run's summary, one a line."""
    figures = {key: value for key, value in summary.items() if key.startswith(("val/", "test/")) and is_finite(value)}
    return "\n".join(f"{key} {shown(key, value)}" for key, value in figures.items())


def draw(runs: Mapping[float, RunRecord]) -> Any:
    """Return a figure of runs side by side.

    Args:
        runs: the run of each beta, in the order of the columns.
    """
    from matplotlib.figure import Figure  # imported late: takes a second

    newest = [newest_pictures(run) for run in runs.values()]
    pictures = {name: [read_picture(own[name].path) if name in own else None for own in newest] for name in PICTURES}
    pictures = {name: images for name, images in pictures.items() if any(images)}
    texts = [result_text(run.summary) for run in runs.values()]
    num_lines = max(text.count("\n") + 1 for text in texts)
    heights = [row_height(images) for images in pictures.values()]
    heights += [CURVE_INCHES] * len(CURVES) + [LINE_INCHES * num_lines + 0.2]
    figure = Figure(figsize=(COLUMN_INCHES * len(runs), sum(heights) + 0.4 * len(heights)), layout="constrained")
    grid = figure.subplots(len(heights), len(runs), squeeze=False, height_ratios=heights)
    for axes, (name, images) in zip(grid, pictures.items(), strict=False):
        draw_pictures(axes, name, images)
    logged = [curves_of(run) for run in runs.values()]
    for axes, term in zip(grid[len(pictures) :], CURVES, strict=False):
        draw_curves(axes, term, logged)
    for axis, text in zip(grid[-1], texts, strict=True):
        axis.axis("off")
        axis.text(0, 1, text, va="top", family="monospace", fontsize=8, transform=axis.transAxes)
    for axis, beta in zip(grid[0], runs, strict=True):
        axis.set_title(f"beta {beta:g}\n{axis.get_title()}", fontsize=12)
    return figure


def row_height(images: Sequence[Image.Image | None]) -> float:
    """Return the height, in inches, at which the first of a row's pictures fills its column."""
    first = next(image for image in images if image)
    return COLUMN_INCHES * first.height / first.width


def draw_pictures(axes: Sequence[Any], name: str, images: Sequence[Image.Image | None]) -> None:
    """Draw a picture of each run; the place of one that is None stays empty."""
    for axis, image in zip(axes, images, strict=True):
        axis.axis("off")
        axis.set_title(name.replace("_", " "), fontsize=9)
        if image:
            axis.imshow(image)


def draw_curves(axes: Sequence[Any], term: str, logged: Sequence[Mapping[str, Sequence[float | None]]]) -> None:
    """Draw a term of the loss over the epochs, in training and validation, on the same scale for all runs.

    Args:
        axes: one for each run.
        term: name of the term.
        logged: what each run has logged, as `curves_of` returns it.
    """
    for axis, curves in zip(axes, logged, strict=True):
        axis.sharey(axes[0])
        for key in (f"train/autoencode/{term}", f"val/{term}"):
            if key in curves:
                values = [math.nan if value is None else value for value in curves[key]]
                axis.plot(curves["epoch"], values, marker=".", label=key)
        axis.set(xlabel="epoch", title=f"{term.replace('kl', 'KL')}, nats")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
