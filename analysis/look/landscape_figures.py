"""Pictures of a loss landscape: lines, planes as surfaces and contours, and the way from one model to another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.look.landscape import Losses
from analysis.look.panels import as_written

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")
LEAST = 1e-3  # a loss, on a logarithmic axis
FLAT = 1.01  # greatest loss over least, at least: contours need a range
NUM_LEVELS = 14  # of contours
STEP = "distance from the trained weights, in lengths of the weights"


def new_figure(width: float, height: float, headline: str) -> Any:
    """Return an empty figure of a size in inches, with a headline."""
    from matplotlib.figure import Figure  # imported late: takes a second

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(headline)
    return figure


def show_plainly(axes: Any) -> None:
    """Make the loss axis of a figure logarithmic, with its numbers written out."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = [1.0, 2.0, 5.0] if high / low > 8 else list(np.arange(1, 10, 0.1 if high / low < 2 else 0.5))
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.minorticks_off()


def draw_lines(lines: Mapping[str, tuple[np.ndarray, Sequence[Losses]]], chance: float, path: Path) -> None:
    """Draw loss and accuracy along random directions: a colour for each run, a thin line for each direction.

    The thick line is the mean of the directions.

    Args:
        lines: by name of the run, the steps [P], and what it reaches there along each direction.
        chance: loss of guessing; 0 where there is no such thing.
        path: of the PNG.
    """
    has_accuracy = all(along[0].accuracy is not None for _, along in lines.values())
    figure = new_figure(
        6.5 * (1 + has_accuracy), 5, "What becomes of trained weights that are moved in random directions"
    )
    axes = figure.subplots(1, 1 + has_accuracy, squeeze=False)[0]
    for colour, (name, (steps, along)) in zip(COLOURS, lines.items(), strict=False):
        for axis, kind, scale in zip(axes, ("loss", "accuracy"), (1, 100), strict=False):
            values = scale * np.array([getattr(losses, kind) for losses in along])  # [directions, P]
            axis.plot(steps, values.T, color=colour, alpha=0.3, linewidth=1)
            axis.plot(steps, values.mean(axis=0), color=colour, linewidth=2.5, label=as_written(name))
    if chance:
        axes[0].axhline(chance, color="grey", linestyle=":", label="guessing")
    axes[0].set_ylabel("loss")
    show_plainly(axes[0])
    if has_accuracy:
        axes[1].set(ylabel="accuracy, %")
        axes[1].ticklabel_format(axis="y", useOffset=False)
    for axis in axes:
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_xlabel(STEP)
        axis.grid(alpha=0.3)
    legend = "thick: mean; thin: single directions"
    figure.legend(*axes[0].get_legend_handles_labels(), title=legend, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=100)


def draw_planes(
    planes: Mapping[str, Losses], centres: Mapping[str, float], reach: float, chance: float, path: Path
) -> None:
    """Draw the loss over a plane of two random directions: a row for each run, as a surface and from above.

    Args:
        planes: by name of the run, the losses at the points of a square grid, row by row; colours mean the same in all.
        centres: by name of the run, the loss at the trained weights, where a grid of an even number has no point.
        reach: of the grid in both directions, in lengths of the weights.
        chance: loss of guessing; 0 where there is no such thing.
        path: of the PNG.
    """
    from matplotlib.colors import LogNorm

    known = {name: np.where(np.isfinite(losses.loss), losses.loss, np.nan) for name, losses in planes.items()}
    everything = np.concatenate([*known.values()])
    low = max(LEAST, np.nanmin(everything))
    norm = LogNorm(low, max(FLAT * low, np.nanmax(everything)))
    figure = new_figure(
        13, 5.5 * len(planes), "The loss over a plane of two random directions round the trained weights"
    )
    parts = figure.subfigures(len(planes), 1, squeeze=False)[:, 0]
    for part, (name, points) in zip(parts, known.items(), strict=True):
        num = round(len(points) ** 0.5)
        axis, loss = np.linspace(-reach, reach, num), points.reshape(num, num).clip(LEAST)
        losses = f"loss {centres[name]:.2f} at the trained weights, {planes[name].loss.max():.3g} at most"
        part.suptitle(f"{as_written(name)}: {losses}")
        draw_surface(part.add_subplot(1, 2, 1, projection="3d"), axis, loss, norm)
        draw_contours(part.add_subplot(1, 2, 2), axis, loss, norm, chance)
    figure.savefig(path, dpi=100)


def draw_surface(axes: Any, axis: np.ndarray, loss: np.ndarray, norm: Any) -> None:
    """Draw a loss as a surface whose height and colour are its logarithm."""
    from matplotlib import colormaps

    x, y = np.meshgrid(axis, axis, indexing="ij")
    height = np.log10(loss)
    of_facets = (height[1:, 1:] + height[1:, :-1] + height[:-1, 1:] + height[:-1, :-1]) / 4  # means of their corners
    colours = colormaps["viridis"](norm(10**of_facets))
    axes.plot_surface(x, y, height, facecolors=colours, rcount=len(axis), ccount=len(axis), shade=False)
    axes.set(xlabel="first direction", ylabel="second direction", zlim=(np.log10(norm.vmin), np.log10(norm.vmax)))
    axes.zaxis.set_major_formatter(lambda power, _: f"{10**power:.3g}")
    axes.set_zlabel("loss", labelpad=5)
    axes.locator_params(nbins=5)
    axes.view_init(elev=28, azim=-60)


def draw_contours(axes: Any, axis: np.ndarray, loss: np.ndarray, norm: Any, chance: float) -> None:
    """Draw a loss from above, with lines of equal loss; a star stands at the trained weights."""
    levels = np.geomspace(norm.vmin, norm.vmax, NUM_LEVELS)
    filled = axes.contourf(axis, axis, loss.T, levels, norm=norm, cmap="viridis", extend="both")
    axes.contour(axis, axis, loss.T, levels, colors="white", linewidths=0.5)
    bar = axes.figure.colorbar(filled, ax=axes, label="loss", format="%.3g")
    if chance and np.nanmin(loss) < chance < np.nanmax(loss):
        axes.contour(axis, axis, loss.T, [chance], colors="red", linewidths=2)
        bar.ax.axhline(chance, color="red", linewidth=2)
        axes.set_title(f"outside the red line it is worse than guessing ({chance:.2f})", fontsize=10)
    axes.plot(0, 0, "*", color="white", markersize=14, markeredgecolor="black")
    axes.set(xlabel=f"first direction: {STEP}", ylabel="second direction", aspect="equal")


def draw_ways(ways: Mapping[str, tuple[np.ndarray, Losses]], ends: tuple[str, str], path: Path) -> None:
    """Draw loss and accuracy on the straight ways from one model to another.

    Args:
        ways: by how it is gone, the steps [P], from 0 at the first model to 1 at the second, and what is reached there.
        ends: names of the two models.
        path: of the PNG.
    """
    has_accuracy = all(losses.accuracy is not None for _, losses in ways.values())
    figure = new_figure(6.5 * (1 + has_accuracy), 5, "On the straight way from one trained network to the other")
    axes = figure.subplots(1, 1 + has_accuracy, squeeze=False)[0]
    for name, (steps, losses) in ways.items():
        axes[0].plot(steps, losses.loss, marker=".", label=f"{name}: barrier {barrier(losses.loss):.2f}")
        if has_accuracy and losses.accuracy is not None:
            axes[1].plot(steps, 100 * losses.accuracy, marker=".", label=name)
    axes[0].set(ylabel="loss")
    if has_accuracy:
        axes[1].set(ylabel="accuracy, %")
    for axis in axes:
        axis.set_xticks([0, 0.5, 1], [as_written(ends[0]), "halfway", as_written(ends[1])])
        axis.ticklabel_format(axis="y", useOffset=False)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=9)
    figure.savefig(path, dpi=100)


def barrier(loss: np.ndarray) -> float:
    """Return by how much the loss on a way exceeds, at most, the straight line between its two ends."""
    return float((loss - np.linspace(loss[0], loss[-1], len(loss))).max())
