"""Training speed of train.py beside a notebook's loop and a bare loop, by `python -m analysis.benchmark`.

Every figure comes from a process of its own. The three loops take turns, round by round, so that a ratio compares
runs that were minutes apart on the same machine; each ratio is given as its median over the rounds and its range.

    notebook  torchvision-style dataset and DataLoader, one image at a time through its transforms, fp32
    bare      uint8 images on the device, normalised in batches; the same precision and memory layout as train.py;
              for a GAN a loop of two optimizers, with fresh noise for each of them as in train.py
    train.py  the program itself, its epoch rate after a first epoch to warm up
"""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of, run_program, whole_number
from analysis.look.speed import compare_speeds
from analysis.look.speed_loops import measure_loop
from data.visible import say


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of("benchmark", __doc__)
    parser.add_argument("--models", default="mlp,cnn,resnet18", help="comma-separated keys of MODELS")
    parser.add_argument(
        "--mixed_precision", choices=("no", "bf16", "fp16"), default="bf16", help="of train.py and bare"
    )
    parser.add_argument("--rounds", type=whole_number, default=5, help="times that each loop is measured")
    parser.add_argument("--data_dir", default="", help="as for train.py")
    parser.add_argument("--loop", choices=("notebook", "bare"), help="measure one loop and print its images/s")
    return parser.parse_args(arguments)


def measure(options: Namespace) -> None:
    """Compare the loops, or measure one of them, and print what came of it."""
    models = options.models.split(",")
    if options.loop:
        print(json.dumps(measure_loop(options.loop, models[0], options.mixed_precision, options.data_dir)))
        return
    for line in compare_speeds(models, options.mixed_precision, options.rounds, options.data_dir):
        say(line)


def main(arguments: Sequence[str]) -> int:
    """Compare speeds, or say in one line what keeps us from it; return the exit code."""
    return run_program("benchmark", lambda: measure(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
