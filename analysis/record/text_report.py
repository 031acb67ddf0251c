"""The report of one run: settings, network, cost and result as text, and its curves as a picture."""

import shlex
import textwrap
from collections.abc import Collection, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from analysis.record import run_folder
from data.files import read_json, refusing_damage
from data.metrics import Curve, is_epoch, shown, thinned
from data.visible import counted, visible
from models.core.settings import Settings

CURVES = "curves.png"
WIDTH = 100  # columns
PLOTS_IN_A_ROW = 4


def report(folder: Path) -> str:
    """Return what a person wants to know of a run, read from its folder alone, and draw `curves.png` there.

    Raises:
        UserError: its files are damaged.
    """
    with refusing_damage(folder, "restore its files, or give another --run_id"):
        return report_of_whole(folder)


def report_of_whole(folder: Path) -> str:
    """Return the report of a run whose files are whole."""
    settings, summary, environment = (
        read_json(folder / name) for name in (run_folder.SETTINGS, run_folder.SUMMARY, run_folder.ENVIRONMENT)
    )
    title = f"{settings['model']} on {settings['dataset']}: run {settings['run_id']}, {run_folder.state(folder)}"
    told = {key: value for key, value in settings.items() if value not in ("", False) and key != "run_id"}
    rows = [
        ("settings", " ".join(f"{key}={value}" for key, value in told.items())),
        ("images", environment.get("images", "")),
        ("device", f"{environment['device']}, {counted(environment['num_processes'], 'process', 'processes')}"),
    ]
    if summary:  # else it still runs, or was killed
        rows += [
            ("network", summary["network"]),
            ("parameters", f"{summary['num_parameters']:,} trainable of {summary['total_parameters']:,}"),
            ("duration", duration(summary)),
        ]
    rows += [
        ("validation", result(summary, "val", kept_epoch(summary))),
        ("best logged", best_logged(summary)),
        ("test", result(summary, "test", "read once")),
        ("warning", summary.get("warning", "")),
        ("W&B", environment.get("wandb", "")),
        ("pictures", f"{folder / CURVES}, {folder / run_folder.PANELS}/"),
    ]
    title = visible(title)
    lines = ["", title, "-" * len(title)]
    for name, text in rows:
        if text:
            lines += textwrap.wrap(visible(text), WIDTH, initial_indent=f"{name:<12}", subsequent_indent=" " * 12)
    draw_curves(run_folder.read_metrics(folder), folder / CURVES)
    return "\n".join(lines)


def how_to_go_on(settings: Settings) -> str:
    """Return the line that tells how a run that was stopped is resumed."""
    again = shlex.join(["python", "train.py", f"--runs_dir={settings.runs_dir}", f"--run_id={settings.run_id}"])
    return f"\nstopped; to go on: {again}"


def already_finished(folder: Path) -> str:
    """Return the report of a run that has nothing left to do."""
    return f"{folder} is finished; give another --run_id to train anew\n{report(folder)}"


def duration(summary: Mapping[str, Any]) -> str:
    """Return training time and speed as text."""
    minutes, seconds = divmod(round(summary["train_seconds"]), 60)
    speed = summary.get("images_per_second")
    return f"{minutes}m{seconds:02d}s of training" + (f", {speed:,.0f} images/s" if speed else "")


def kept_epoch(summary: Mapping[str, Any]) -> str:
    """Return which epoch's weights are kept, and by which metric that epoch is the best."""
    by = f", by {summary['best_by']}" if summary.get("best_by") else ""
    return f"epoch {summary.get('best_epoch')}, whose weights are kept{by}"


def best_logged(summary: Mapping[str, Any]) -> str:
    """Return the best values that were logged of metrics that the kept weights are not the best in; "" for none."""
    found = summary.get("best") or {}
    texts = [f"{name} {shown(name, best['value'])} in epoch {best['epoch']}" for name, best in found.items()]
    return f"{', '.join(texts)} (its weights are not kept: --best_by chooses them)" if texts else ""


def result(summary: Mapping[str, Any], split: str, remark: str) -> str:
    """Return the metrics of a split on one line; an empty one where it was not evaluated."""
    metrics = {key.partition("/")[2]: value for key, value in summary.items() if key.startswith(f"{split}/")}
    texts = [f"{name} {shown(name, value)}" for name, value in metrics.items()]
    return f"{', '.join(texts)} ({remark})" if texts else ""


def network_lines(objective: Any) -> str:
    """Return the parts of a network with their parameter counts, on one line."""
    parts = []
    nets = [(name, net) for name, net in objective.named_children() if next(net.parameters(), None) is not None]
    for name, net in nets:
        children = list(net.named_children()) or [(name, net)]
        for child, module in children:
            size = sum(parameter.numel() for parameter in module.parameters())
            if size:
                place = f"{name}.{child}" if child.isdecimal() and len(nets) > 1 else child  # a GAN has two layers 0
                parts.append(f"{place}:{type(module).__name__} {size:,}")
    return "; ".join(parts)


def epoch_line(epoch: int, num_epochs: int, metrics: Mapping[str, float]) -> str:
    """Return one epoch's metrics on one line."""
    texts = [f"{key} {shown(key, value)}" for key, value in metrics.items() if key.startswith(("train/", "val/"))]
    return f"epoch {epoch}/{num_epochs}  {'  '.join(texts)}  {metrics['images_per_second']:,.0f} images/s"


def plot_of(key: str, keys: Collection[str]) -> str:
    """Return the metric in whose plot a curve of one of these keys is drawn.

    That of train/generator/loss is loss; that of train/prior/loss is prior, if there is a val/prior beside it.
    """
    phase, _, name = key.partition("/")[2].rpartition("/")
    return phase if f"val/{phase}" in keys else name


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a plot for each metric over the epochs, training and validation in one."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    by_key: dict[str, Curve] = {}
    for row in filter(is_epoch, rows):
        for key, value in row.items():
            if key.startswith(("train/", "val/")):
                by_key.setdefault(key, []).append((row["epoch"], value))
    curves: dict[str, dict[str, Curve]] = {}  # metric -> curve -> points
    for key, points in by_key.items():
        curves.setdefault(plot_of(key, by_key), {})[key] = points
    if not curves:
        return
    columns = min(len(curves), PLOTS_IN_A_ROW)
    num_rows = ceil(len(curves) / columns)
    figure = Figure(figsize=(5 * columns, 4 * num_rows), layout="constrained")
    for unused in figure.subplots(num_rows, columns, squeeze=False).flat[len(curves) :]:
        unused.remove()
    for axes, (metric, by_curve) in zip(figure.axes, curves.items(), strict=True):
        for name, points in by_curve.items():
            few = thinned(points)
            note = f", {len(few):,} of {len(points):,} epochs" if few is not points else ""
            axes.plot(*zip(*few, strict=True), marker=".", label=name + note)
        axes.set(xlabel="epoch", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.ticklabel_format(axis="y", useOffset=False)  # 15.99 and 16 active units, not 0 and 0.01 beside "+1.599e1"
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=100)
