"""Samples of a finished run as PNG files, by `python -m analysis.samples RUN --num 64 --out DIR`.

The classes of a conditional model take turns and have a folder each, so that DIR can be given to train.py as data_dir
of --dataset=folder. The first samples are also drawn in a grid, DIR-grid.png, with a column for each class.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from analysis.command_line import parser_of_a_look, path, run_program, seed, whole_number
from analysis.look.samples import choose_classes, load_sampling_run, write_samples
from analysis.look.trained_run import load_network
from analysis.read.runs import find_run
from data.errors import UserError
from data.visible import say


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of_a_look("samples", __doc__)
    parser.add_argument("--num", type=whole_number, default=64, help="images in all (default: 64)")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="folder to write them to")
    parser.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="of a conditional model (default: all)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the images (default: 0)")
    return parser.parse_args(arguments)


def write(options: Namespace) -> None:
    """Write samples of a run, and print where they are."""
    out: Path = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} is not an empty folder: name a new one")
    run = load_sampling_run(find_run(options.run), options.data_dir, load_network)
    grid = write_samples(run, options.num, options.seed, choose_classes(options.classes, run), out)
    say(out, grid)


def main(arguments: Sequence[str]) -> int:
    """Write samples, or say in one line what keeps them from being written; return the exit code."""
    return run_program("samples", lambda: write(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
