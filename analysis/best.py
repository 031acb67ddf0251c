"""Write the settings of a sweep's best trial to a file.

python -m analysis.best cnn_lr                          best.yaml in the sweep's folder
python -m analysis.best ENTITY/PROJECT/ID --out me.yaml of a sweep on W&B
python train.py --config=runs/sweeps/cnn_lr/best.yaml   trains with it
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from analysis.command_line import parser_of, path, run_program
from analysis.read.best_recipe import FILE, choice_in_words, command_with, write_best
from analysis.read.sweeps import read_sweep, sweep_folder
from data.errors import UserError
from data.visible import say


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the options that a command line gives."""
    parser = parser_of("best", __doc__)
    parser.add_argument("sweep", help="name of a sweep in runs/sweeps, or entity/project/sweep_id of W&B")
    parser.add_argument("--out", type=path, help=f"file to write; default: {FILE} in the sweep's folder")
    parser.add_argument("--storage", default="", help="database of the sweep, if it is not in the sweep's folder")
    return parser.parse_args(arguments)


def write(options: Namespace) -> None:
    """Write the recipe, and say where."""
    sweep = read_sweep(options.sweep, options.storage)
    file: Path = options.out or sweep_folder(sweep.name) / FILE
    if options.out and not file.parent.is_dir():
        raise UserError(f"--out {file}: there is no folder {file.parent}; make it, or name another")
    write_best(sweep, file)
    say(choice_in_words(sweep), f"{file}: {shlex.join(command_with(file, sweep.leaders[0]))}")


def main(arguments: Sequence[str]) -> int:
    """Write a sweep's best recipe, or say in one line why that cannot be done; return the exit code."""
    return run_program("best", lambda: write(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
