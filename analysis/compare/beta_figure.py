"""What beta does to a variational autoencoder, by `python -m analysis.beta SWEEP`.

One picture with a column for each beta of a finished sweep: samples, reconstructions, curves of reconstruction and KL,
t-SNE, and the figures of the run's end.
"""

import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from analysis.command_line import Parser, run_program
from analysis.record import run_folder
from data.errors import UserError
from data.paths import default_runs_dir

PICTURES = ("samples", "samples_by_class", "reconstructions", "tsne")  # of a run, those that its model draws
CURVES = ("reconstruction", "kl")
COLUMN_INCHES = 4.5
TEXT_INCHES = 3.0
DPI = 120


def find_sweep(name: str) -> Path:
    """Folder of a sweep, from its path or its name in runs/sweeps.

    Raises:
        UserError: there is none.
    """
    own = default_runs_dir() / "sweeps" / name
    for folder in (Path(name), own):
        if any(folder.glob(f"*/{run_folder.SETTINGS}")):
            return folder
    raise UserError(f"{name} is no sweep with runs: neither it nor {own} holds any")


def runs_by_beta(folder: Path) -> dict[float, Path]:
    """The finished run of every beta, lowest first; of several the one with the least validation loss.

    Raises:
        UserError: no finished run of the sweep has a beta.
    """
    found: dict[float, list[Path]] = {}
    for path in folder.glob(f"*/{run_folder.SETTINGS}"):
        settings = run_folder.read_json(path)
        if "beta" in settings and run_folder.state(path.parent) == "finished":
            found.setdefault(settings["beta"], []).append(path.parent)
    if not found:
        raise UserError(f"{folder} has no finished run with a beta: give the sweep of a vae, a cvae or a cvae_head")
    return {beta: min(runs, key=validation_loss) for beta, runs in sorted(found.items())}


def validation_loss(folder: Path) -> float:
    """Best validation loss of a run; the last where it has none."""
    return run_folder.read_json(folder / run_folder.SUMMARY).get("val/loss", float("inf"))


def latest_picture(folder: Path, name: str) -> Path | None:
    """A run's last panel of that name, or its picture from the end of the run."""
    panels = folder / run_folder.PANELS
    return max([*panels.glob(f"{name}-[0-9]*.png"), *panels.glob(f"{name}.png")], default=None)


def figures_of(summary: dict[str, Any]) -> str:
    """Figures of a run's end, one a line."""
    shown = {
        key: value
        for key, value in summary.items()
        if key.startswith(("val/", "test/")) and isinstance(value, (int, float))
    }
    lines = [f"{key} {value:.2%}" if key.endswith("accuracy") else f"{key} {value:.4g}" for key, value in shown.items()]
    return "\n".join(lines)


def draw(runs: dict[float, Path], out: Path) -> None:
    """Draw the runs side by side."""
    from matplotlib.figure import Figure  # imported late: takes a second

    pictures = {name: paths for name in PICTURES if any(paths := [latest_picture(run, name) for run in runs.values()])}
    texts = [figures_of(run_folder.read_json(run / run_folder.SUMMARY)) for run in runs.values()]
    heights = []
    for paths in pictures.values():
        with Image.open(next(path for path in paths if path)) as image:
            heights.append(COLUMN_INCHES * image.height / image.width)
    num_lines = max(text.count("\n") + 1 for text in texts)
    heights += [TEXT_INCHES] * len(CURVES) + [0.16 * num_lines + 0.2]
    figure = Figure(figsize=(COLUMN_INCHES * len(runs), sum(heights) + 0.4 * len(heights)), layout="constrained")
    grid = figure.subplots(len(heights), len(runs), squeeze=False, height_ratios=heights)
    for axes, (name, paths) in zip(grid, pictures.items(), strict=False):
        for axis, path in zip(axes, paths, strict=True):
            axis.axis("off")
            axis.set_title(name.replace("_", " "), fontsize=9)
            if path:
                with Image.open(path) as image:
                    axis.imshow(image.convert("RGB"))
    for term, axes in zip(CURVES, grid[len(pictures) :], strict=False):
        draw_curves(axes, term, list(runs.values()))
    for axis, text in zip(grid[-1], texts, strict=True):
        axis.axis("off")
        axis.text(0, 1, text, va="top", family="monospace", fontsize=8, transform=axis.transAxes)
    for axis, beta in zip(grid[0], runs, strict=True):
        axis.set_title(f"beta {beta:g}\n{axis.get_title()}", fontsize=12)
    figure.savefig(out, dpi=DPI)


def draw_curves(axes: Sequence[Any], term: str, runs: Sequence[Path]) -> None:
    """Training and validation curves of a term, all columns on one scale."""
    for axis, run in zip(axes, runs, strict=True):
        axis.sharey(axes[0])
        for key in (f"train/autoencode/{term}", f"val/{term}"):
            points = [(row["epoch"], row[key]) for row in run_folder.read_metrics(run) if key in row and "lr" in row]
            if points:
                axis.plot(*zip(*points, strict=True), marker=".", label=key)
        axis.set(xlabel="epoch", title=f"{term.replace('kl', 'KL')}, nats")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)


def draw_sweep(options: Namespace) -> None:
    """Write the picture of a sweep and print where it is."""
    folder = find_sweep(options.sweep)
    out = options.out or folder / "beta.png"
    draw(runs_by_beta(folder), out)
    print(out)


def main(arguments: Sequence[str]) -> int:
    """Draw a sweep, or say in one line what keeps it from being drawn; returns the exit code."""
    parser = Parser(prog="python -m analysis.beta", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("sweep", metavar="SWEEP", help="folder of a sweep, or its name in runs/sweeps")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: beta.png in the sweep's folder")
    return run_program("beta", lambda: draw_sweep(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
