"""One picture of what beta does to a variational autoencoder, with a column for each beta of a finished sweep.

A column is headed by its run and the settings that differ between the columns. It shows samples, reconstructions,
t-SNE, the curves of reconstruction and KL, and the metrics of the run's end.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from PIL import Image

from analysis.compare.curves import curves_of
from analysis.compare.ranking import metric_they_share
from analysis.compare.run_tables import setting_column
from analysis.compare.text_table import clipped, print_table
from analysis.read.pictures import newest_pictures, read_picture
from analysis.read.recipe import differing_settings
from analysis.read.records import RunRecord
from analysis.read.runs import best_values, find_sweep_folder, read_runs
from analysis.read.sweep_metrics import metrics_of_sweeps
from analysis.terminal import NONE, number_or_dash
from data.errors import UserError
from data.files import write_figure
from data.metrics import Best, Metric, is_finite, metric_named, shown
from data.visible import visible

FILE = "beta.png"
PICTURES = ("samples", "samples_by_class", "reconstructions", "tsne")  # where the runs have drawn them
CURVES = ("reconstruction", "kl")
COLUMN_INCHES = 4.5
CURVE_INCHES = 3.0
LINE_INCHES = 0.16
HEADING_LETTERS = 52  # of a line
HEADING_LINES = 4  # of settings
UNBROKEN = "\N{NO-BREAK SPACE}"  # between a setting and its value
DPI = 120


class Column(NamedTuple):
    """A run that stands for its beta.

    Attributes:
        record: the best of that beta.
        metric: the metric that tells which is the best, the same for all columns.
        best: the run's best value of it; None where it has none.
    """

    record: RunRecord
    metric: Metric
    best: Best | None


def draw_sweep(name: str, out: Path | None) -> Path:
    """Draw the runs of a sweep side by side, print which they are, and return the picture's file.

    Args:
        name: name of the sweep in runs/sweeps, or path of its folder.
        out: the file; None for one in the sweep's folder.

    Raises:
        UserError: there is no such sweep, it has no finished run with a beta, or the file cannot be written.
    """
    folder = find_sweep_folder(name)
    path, columns = out or folder / FILE, runs_by_beta(folder)
    write_figure(path, draw(columns), DPI)
    print_columns(columns)
    return path


def runs_by_beta(folder: Path) -> dict[float, Column]:
    """Return the finished run of each beta, the lowest beta first; of several runs the best one.

    Final runs, which train on more images, are left out where there are others.

    Raises:
        UserError: no finished run in the folder has a beta.
    """
    finished = [run for run in read_runs(folder).records if run.state == "finished"]
    known = [run for run in finished if is_finite(run.settings.get("beta"))]
    records = [run for run in known if not run.is_final] or known
    if not records:
        raise UserError(f"{folder} has no finished run with a beta: give the sweep of a vae, a cvae or a cvae_head")
    metric, values = judge_of(records)
    columns = [Column(run, metric, best) for run, best in zip(records, values, strict=True)]
    best_first = sorted(columns, key=lambda column: metric.cost(column.best.value) if column.best else math.inf)
    by_beta = {column.record.settings["beta"]: column for column in reversed(best_first)}
    return dict(sorted(by_beta.items()))


def judge_of(records: Sequence[RunRecord]) -> tuple[Metric, list[Best | None]]:
    """Return the metric by which runs are compared, and the best value of each run.

    It is that of their sweep, or val/loss if they are of no one sweep or none of them has a value of its metric.
    """
    shared, loss = metric_they_share(records, metrics_of_sweeps(records).items()), metric_named("val/loss")
    metrics = [shared, loss] if shared else [loss]
    best = best_values(records, metrics)
    metric = next((each for each in metrics if any(each.name in values for values in best)), loss)
    return metric, [values.get(metric.name) for values in best]


def print_columns(columns: Mapping[float, Column]) -> None:
    """Print the run of each beta, the value that it was chosen by, and the other settings that differ."""
    own = list(columns.values())
    metric, others = own[0].metric, settings_beside_beta(columns)
    headings = [
        ("run", lambda column: column.record.run_id),
        setting_column("beta"),
        (metric.name, lambda column: shown(metric.name, column.best and column.best.value)),
        *map(setting_column, others),
    ]
    remark = "" if others else "; no other setting differs"
    print_table(headings, own, f"the run of each beta, the best by {metric.name}, and the settings that differ{remark}")


def settings_beside_beta(columns: Mapping[float, Column]) -> list[str]:
    """Return the names of the settings other than beta that differ between the columns."""
    names = differing_settings(column.record.settings for column in columns.values())
    return [name for name in names if name != "beta"]


def column_heading(beta: float, record: RunRecord, others: Sequence[str]) -> str:
    """Return what stands above a column, line by line: its beta, its run, and its values of other settings.

    Args:
        beta: of the column.
        record: its run.
        others: names of the settings that differ between the columns.
    """
    pairs = [visible(f"{name} {number_or_dash(record.settings.get(name)) or NONE}") for name in others]
    text = ", ".join(pair.replace(" ", UNBROKEN) for pair in pairs)
    lines = wrap(text, HEADING_LETTERS, max_lines=HEADING_LINES, placeholder=" …", break_on_hyphens=False)
    return "\n".join([f"beta {beta:g}", clipped("", record.run_id), *lines])


def result_text(summary: Mapping[str, Any]) -> str:
    """Return the metrics of a run's summary, one a line."""
    figures = {key: value for key, value in summary.items() if key.startswith(("val/", "test/")) and is_finite(value)}
    return "\n".join(f"{key} {shown(key, value)}" for key, value in figures.items())


def draw(columns: Mapping[float, Column]) -> Any:
    """Return a figure of runs side by side.

    Args:
        columns: the run of each beta, in the order of the columns.
    """
    from matplotlib.figure import Figure  # imported late: takes a second

    runs = [column.record for column in columns.values()]
    newest = [newest_pictures(run) for run in runs]
    pictures = {name: [read_picture(own[name].path) if name in own else None for own in newest] for name in PICTURES}
    pictures = {name: images for name, images in pictures.items() if any(images)}
    texts = [result_text(run.summary) for run in runs]
    num_lines = max(text.count("\n") + 1 for text in texts)
    heights = [row_height(images) for images in pictures.values()]
    heights += [CURVE_INCHES] * len(CURVES) + [LINE_INCHES * num_lines + 0.2]
    others = settings_beside_beta(columns)
    headings = [column_heading(beta, column.record, others) for beta, column in columns.items()]
    above = LINE_INCHES * max(text.count("\n") for text in headings)
    size = COLUMN_INCHES * len(runs), sum(heights) + 0.4 * len(heights) + above
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(heights), len(runs), squeeze=False, height_ratios=heights)
    for axes, (name, images) in zip(grid, pictures.items(), strict=False):
        draw_pictures(axes, name, images)
    logged = [curves_of(run) for run in runs]
    for axes, term in zip(grid[len(pictures) :], CURVES, strict=False):
        draw_curves(axes, term, logged)
        for axis, run in zip(axes, runs, strict=True):
            axis.set_title(term_in_words(term, run.settings.get("likelihood")))
    for axis, text in zip(grid[-1], texts, strict=True):
        axis.axis("off")
        axis.text(0, 1, text, va="top", family="monospace", fontsize=8, transform=axis.transAxes)
    for axis, text in zip(grid[0], headings, strict=True):
        axis.set_title(f"{text}\n{axis.get_title()}", fontsize=10, parse_math=False)  # names may hold dollars
    return figure


def term_in_words(term: str, likelihood: Any) -> str:
    """Return the title of a term's curves, with its unit: a squared error is in no nats, whatever beta is.

    Args:
        term: name of the term.
        likelihood: setting of the run; None in one that does not know it, for the default.
    """
    is_error = term == "reconstruction" and likelihood in (None, "squared_error")
    return f"{term.replace('kl', 'KL')}, {'squared error' if is_error else 'nats'}"


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
        axis.set(xlabel="epoch")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
