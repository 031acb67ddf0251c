"""Images of a finished run, as PNG files, by `python -m analysis.samples RUN --num 64 --out DIR`.

A conditional model's are sorted into a folder a class, which take turns, so that DIR can be given to train.py as
--dataset=folder. The first of them are also drawn in a grid, DIR-grid.png, with a column a class.
"""

import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from analysis.command_line import Parser, run_program, whole_number
from analysis.look.panels import COLUMNS, MOST_CLASSES, ROWS_BY_CLASS, Panel, draw_grid
from analysis.look.samples import draw, load_drawing_run
from analysis.look.trained_run import find_run
from data.errors import UserError, suggestion


def choose_classes(chosen: Sequence[str], known: Sequence[str], num_labels: int, model: str) -> list[int]:
    """Numbers of the classes of these names, or of all; none for a model that is not conditional.

    Raises:
        UserError: an unknown class, or a model without classes.
    """
    if not num_labels:
        if chosen:
            raise UserError(f"--classes={chosen[0]}: {model} draws without regard to classes; leave it out")
        return []
    for name in chosen:
        if name not in known:
            raise UserError(f"--classes={name} is not known{suggestion(name, known)}; there are: {', '.join(known)}")
    return [known.index(name) for name in chosen] or list(range(num_labels))


def write_images(images: Tensor, first: int, folders: Sequence[Path]) -> None:
    """Write images [B, 3, H, W] uint8, the first of them number `first`, into folders that take turns."""
    for number, pixels in enumerate(images.permute(0, 2, 3, 1).cpu().numpy(), first):
        Image.fromarray(pixels).save(folders[number % len(folders)] / f"{number:06d}.png")


def draw_samples(options: Namespace) -> None:
    """Write the images of a run and their grid, and print where they are.

    Raises:
        UserError: no such run or class, no weights, a model that draws nothing, or a folder that is not empty.
    """
    out: Path = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} is not an empty folder: name a new one")
    run = load_drawing_run(find_run(options.run), options.data_dir)
    model, names = run.objective, run.info.classes
    classes = choose_classes(options.classes, names, model.num_labels, run.settings.model)
    folders = [out / names[label] for label in classes] or [out]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    columns = min(len(classes), MOST_CLASSES) or COLUMNS
    shown: list[Tensor] = []
    num_written = 0
    for images in draw(model.sample, options.num, options.seed, classes):
        write_images(images, num_written, folders)
        if num_written < ROWS_BY_CLASS * len(folders) * columns:
            shown.append(images.cpu())
        num_written += len(images)
    pictures = torch.cat(shown) / 255
    in_grid = [i for i in range(len(pictures)) if not classes or i % len(classes) < columns][: ROWS_BY_CLASS * columns]
    captions = tuple(names[classes[i % len(classes)]] for i in in_grid if classes)
    grid = out.with_name(f"{out.name}-grid.png")
    draw_grid(Panel(pictures[in_grid], captions, columns=columns)).save(grid)
    print(out, grid, sep="\n")


def main(arguments: Sequence[str]) -> int:
    """Draw a run's images, or say in one line what keeps them from being drawn; returns the exit code."""
    parser = Parser(prog="python -m analysis.samples", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="folder of a run, or its id in runs/ ($VISION_SWEEPS_RUNS)")
    parser.add_argument("--num", type=whole_number, default=64, help="images in all (default: 64)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write them to")
    parser.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="of a conditional model (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the images (default: 0)")
    parser.add_argument("--data_dir", default="", help="as for train.py; default: as the run was told")
    return run_program("samples", lambda: draw_samples(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
