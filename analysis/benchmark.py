"""Training speed of train.py beside a notebook's loop and a bare loop, by `python -m analysis.benchmark`.

Every figure comes from a process of its own. The three loops take turns, round by round, so that a ratio compares
runs that were minutes apart on the same machine; each ratio is given as its median over the rounds and its range.

    notebook  torchvision-style dataset and DataLoader, one image at a time through its transforms, fp32
    bare      uint8 images on the device, normalised in batches; the same precision and memory layout as train.py;
              for a GAN a loop of two optimizers, with fresh noise for each of them as in train.py
    train.py  the program itself, its epoch rate after a first epoch to warm up

With --roofline, every model trains for a moment on random images instead, and its images/s stand beside those that the
device's matrix rate allows, which is measured first with two large matrices. GFLOP/image counts, forward and backward,
matrix products, convolutions, attention (whose weights the backward pass computes once more) and LSTM layers; not
norms, activations, softmax, pooling, random numbers, augmentation, nor what an optimizer does beside matrix products.
Frozen networks train their head alone, in fp32, on random features. Further words are settings as for train.py, such
as --dropout=0. In fp32 on a GPU, cuDNN's convolutions may use TF32, which is faster than the matrices are.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of, run_program, whole_number
from analysis.look.roofline import compare_with_matrix_rate
from analysis.look.speed import compare_speeds
from analysis.look.speed_loops import measure_loop
from data.errors import UserError
from data.visible import say
from models.registry import MODELS

COMPARED = "mlp,cnn,resnet18"


def parse(arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return what the command line says, and the words of it that are settings for --roofline.

    Raises:
        UserError: there are such words without --roofline.
    """
    parser = parser_of("benchmark", __doc__, allow_abbrev=False)
    parser.add_argument("--models", help=f"comma-separated keys of MODELS (default: {COMPARED}; with --roofline all)")
    parser.add_argument("--roofline", action="store_true", help="show the share of the device's matrix rate")
    parser.add_argument(
        "--mixed_precision", choices=("no", "bf16", "fp16"), default="bf16", help="of train.py and bare"
    )
    parser.add_argument("--rounds", type=whole_number, default=5, help="times that each loop is measured")
    parser.add_argument("--data_dir", default="", help="as for train.py")
    parser.add_argument("--loop", choices=("notebook", "bare"), help="measure one loop and print its images/s")
    options, words = parser.parse_known_args(arguments)
    if words and not options.roofline:
        raise UserError(f"{words[0]!r} is no option (see --help): settings are taken with --roofline alone")
    return options, words


def measure(options: Namespace, words: Sequence[str]) -> None:
    """Compare the loops, or measure one of them, or the share of the matrix rate; print what came of it."""
    models = (options.models or (",".join(MODELS) if options.roofline else COMPARED)).split(",")
    if options.roofline:
        for line in compare_with_matrix_rate(models, options.mixed_precision, words):
            say(line)
        return
    if options.loop:
        print(json.dumps(measure_loop(options.loop, models[0], options.mixed_precision, options.data_dir)))
        return
    for line in compare_speeds(models, options.mixed_precision, options.rounds, options.data_dir):
        say(line)


def main(arguments: Sequence[str]) -> int:
    """Compare speeds, or say in one line what keeps us from it; return the exit code."""
    return run_program("benchmark", lambda: measure(*parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
