"""The figure and the words of a coordinate check."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.look.coordinates import Coordinates, check_coordinates
from data.files import write_figure
from models.core.settings import Settings

NAMES = {"standard": "standard parametrisation", "mup": "muP"}
ROWS = {"activations": "size of the activations", "changes": "change of them by the steps"}
MOST_NAMED = 14  # layers in a legend


def check_model(
    settings: Settings, widths: Sequence[int], num_seeds: int, num_steps: int, tolerance: float, path: Path
) -> tuple[list[str], bool]:
    """Check the coordinates of a model and draw them; return what was found, line by line, and whether muP passes.

    Args:
        settings: of a run of the model.
        widths: to compare; empty for the default ones.
        num_seeds: networks of each width.
        num_steps: of training.
        tolerance: slope up to which a size counts as staying.
        path: of the picture.

    Raises:
        UserError: as `check_coordinates`, or the picture cannot be written.
    """
    checks = check_coordinates(settings, widths, num_seeds, num_steps)
    what = f"{settings.model} on {settings.dataset} after {num_steps} steps of {settings.optimizer} at {settings.lr:g}"
    write_figure(path, draw(checks, tolerance, what))
    return [*table(checks, tolerance), str(path)], not checks["mup"].outside(tolerance)


def verdict(name: str, found: Coordinates, tolerance: float) -> str:
    """Return in one line whether a parametrisation passes the check, and by how steep a slope at most."""
    slopes, outside = found.slopes(), found.outside(tolerance)
    steepest = max(slopes, key=lambda layer: max(slopes[layer]))
    power = max(slopes[steepest])
    how = f"FAILS in {len(outside)} of {len(slopes)} layers" if outside else f"passes in all {len(slopes)} layers"
    return f"{NAMES[name]} {how}: {steepest} grows as width^{power:.2f}"


def table(checks: Mapping[str, Coordinates], tolerance: float) -> list[str]:
    """Return the slopes of all layers, one a line, and the verdicts."""
    width = max(len(layer) for found in checks.values() for layer in found.activations)
    heading = "".join(f"{NAMES[name]:>32}" for name in checks)
    lines = [
        "powers of the width that sizes go with; ! beyond the tolerance",
        f"{'':{width}}{heading}",
        f"{'layer':{width}}" + f"{'activation':>22}{'change':>10}" * len(checks),
    ]
    slopes = {name: found.slopes() for name, found in checks.items()}
    outside = {name: found.outside(tolerance) for name, found in checks.items()}
    for layer in next(iter(slopes.values())):
        cells = "".join(
            f"{own[layer].activation:+22.2f}{own[layer].change:+9.2f}{'!' if layer in outside[name] else ' '}"
            for name, own in slopes.items()
        )
        lines.append(f"{layer:{width}}{cells}")
    return [*lines, *(verdict(name, found, tolerance) for name, found in checks.items())]


def draw(checks: Mapping[str, Coordinates], tolerance: float, what: str) -> Any:
    """Return a figure of sizes against widths: a column for each parametrisation, a line for each layer.

    Args:
        checks: by parametrisation.
        tolerance: slope up to which a size counts as staying.
        what: was checked, for the headline.
    """
    from matplotlib.figure import Figure  # imported late: takes a second

    figure = Figure(figsize=(6 * len(checks) + 2.5, 9), layout="constrained")
    grid = figure.subplots(len(ROWS), len(checks), squeeze=False, sharex=True, sharey="row")
    for column, (name, found) in zip(grid.T, checks.items(), strict=True):
        for axes, (kind, label) in zip(column, ROWS.items(), strict=True):
            draw_lines(axes, found.widths, getattr(found, kind))
            axes.set_ylabel(label)
        column[0].set_title(verdict(name, found, tolerance).replace(": ", ":\n"), fontsize=11)
        column[-1].set_xlabel("width")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    step = -(-len(labels) // MOST_NAMED)
    figure.legend(handles[::step], labels[::step], loc="outside right center", title="layer, from the pixels up")
    figure.suptitle(
        f"Coordinate check of {what}\nFlat lines are wanted: then one learning rate serves all widths. "
        f"Slopes up to {tolerance:g} pass."
    )
    return figure


def draw_lines(axes: Any, widths: Any, sizes: Mapping[str, np.ndarray]) -> None:
    """Draw the sizes of each layer after the last step: the geometric mean of the seeds, and their range."""
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0, 0.92, len(sizes)))
    for colour, (layer, values) in zip(colours, sizes.items(), strict=True):
        last = np.where(values[..., -1] > 0, values[..., -1], np.nan)  # [W, seeds]; zeros have no place on the axis
        axes.plot(widths, np.exp(np.log(last).mean(axis=1)), marker="o", color=colour, label=layer)
        axes.fill_between(widths, last.min(axis=1), last.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(widths, map(str, widths), minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
