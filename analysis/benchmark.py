"""Training speed of train.py beside a notebook's loop, a bare one and timm's, by `python -m analysis.benchmark`.

Every figure comes from a process of its own. The loops take turns, round by round, so that a ratio compares runs that
were minutes apart on the same machine; each ratio is given as its median over the rounds and its range.

    notebook  torchvision-style dataset and DataLoader, one image at a time through its transforms, fp32
    bare      uint8 images on the device, normalised in batches; the same precision and memory layout as train.py;
              for a GAN a loop of two optimizers, with fresh noise for each of them as in train.py
    timm      with --timm_train, timm's own train.py on networks of timm: the same network, precision, memory layout,
              batch size, optimizer and learning rate as train.py, no augmentation, a worker a core. It reads the same
              images from PNG files without compression. Its rate is what it says of the second of two epochs
    train.py  the program itself, its epoch rate after a first epoch to warm up

With --roofline, every model trains for a moment on random images instead, and its images/s stand beside those that the
device's matrix rate allows, which is measured first with two large matrices. GFLOP/image counts, forward and backward,
matrix products, convolutions, attention (whose weights the backward pass computes once more) and LSTM layers; not
norms, activations, softmax, pooling, random numbers, augmentation, nor what an optimizer does beside matrix products.
Frozen networks train their head alone, in fp32, on random features. Further words are settings as for train.py, such
as --dropout=0. In fp32 on a GPU the two matrices may be rounded to TF32, as cuDNN rounds in training's convolutions;
its linear layers are exact.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of, path, run_program, whole_number
from analysis.look.roofline import compare_with_matrix_rate
from analysis.look.speed import compare_speeds
from analysis.look.speed_loops import Workload, measure_loop
from analysis.look.trained_run import best_device
from data.errors import UserError
from data.visible import say
from models.core.precision import has_fast_bf16
from models.registry import MODELS

COMPARED = "mlp,cnn,resnet18"
NUM_ROUNDS = 5
# Options of the comparison that other measurements have no use for, by the option that asks for these.
UNUSED = {"roofline": ("rounds", "steps", "data_dir"), "loop": ("rounds",)}


def parse(arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return what the command line says, and the words of it that are settings for --roofline.

    Raises:
        UserError: there are such words without --roofline, or options that what is to be measured has no use for.
    """
    parser = parser_of("benchmark", __doc__, allow_abbrev=False)
    default = f"{COMPARED}; with --timm_train timm too, with --roofline all"
    parser.add_argument("--models", help=f"comma-separated keys of MODELS (default: {default})")
    parser.add_argument("--arch", default="", help="network of those that are models of timm (default: their own)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--roofline", action="store_true", help="show the share of the device's matrix rate")
    what.add_argument("--timm_train", type=path, metavar="FILE", help="train.py in a checkout of timm's repository")
    usual = "default: bf16 where the device has hardware for it, else no"
    parser.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), help=f"of all but notebook; {usual}")
    rounds = f"times that each loop is measured (default: {NUM_ROUNDS})"
    parser.add_argument("--rounds", type=whole_number, help=rounds)
    parser.add_argument("--steps", type=whole_number, help="that are timed (default: some seconds' worth on two cores)")
    parser.add_argument("--data_dir", default="", help="as for train.py")
    what.add_argument("--loop", choices=("notebook", "bare"), help="measure one loop and print its images/s")
    options, words = parser.parse_known_args(arguments)
    if words and not options.roofline:
        raise UserError(f"{words[0]!r} is no option (see --help): settings are taken with --roofline alone")
    for kind, names in UNUSED.items():
        if getattr(options, kind) and (unused := [name for name in names if getattr(options, name)]):
            raise UserError(f"--{unused[0]} is of no use to --{kind}: leave it out")
    return options, words


def measure(options: Namespace, words: Sequence[str]) -> None:
    """Compare the loops, or measure one of them, or the share of the matrix rate; print what came of it."""
    default = ",".join(MODELS) if options.roofline else COMPARED + (",timm" if options.timm_train else "")
    models = (options.models or default).split(",")
    precision = options.mixed_precision or ("bf16" if has_fast_bf16(best_device()) else "no")
    if options.roofline:
        arch = [f"--arch={options.arch}"] if options.arch else []
        for line in compare_with_matrix_rate(models, precision, [*words, *arch]):
            say(line)
        return
    shared = (precision, options.data_dir, options.arch, options.steps)
    workloads = [Workload(model, *shared) for model in models]
    if options.loop and len(models) > 1:
        raise UserError(f"--loop={options.loop} measures one model: name it with --models")
    if options.loop:
        print(json.dumps(measure_loop(options.loop, workloads[0])))
        return
    for line in compare_speeds(workloads, options.rounds or NUM_ROUNDS, options.timm_train):
        say(line)


def main(arguments: Sequence[str]) -> int:
    """Compare speeds, or say in one line what keeps us from it; return the exit code."""
    return run_program("benchmark", lambda: measure(*parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
