"""Does the best learning rate of a narrow network serve a wide one? Two checks, see models/README.md for muP.

    python -m analysis.transfer coords --model mlp     a few steps at several widths: do activations keep their size?
    python -m analysis.transfer lr lr_transfer_mlp     a finished sweep of rates and widths: where is the best rate?

`coords` takes settings of train.py beside its own, as --dataset=digits; the exit code is 1 where muP does not pass.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of, path, positive_number, run_program, whole_number
from analysis.compare.lr_transfer import FILE, METRIC, draw_transfer
from data.errors import UserError
from data.paths import default_runs_dir
from data.visible import say

TOLERANCE = 0.25  # of a slope: over 8 times the width a size may change by 8^0.25 = 1.7


def parse(arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return what the command line says, and the words of it that are settings of train.py."""
    parser = parser_of("transfer", __doc__, allow_abbrev=False)
    checks = parser.add_subparsers(dest="check", metavar="CHECK", required=True)
    coords = checks.add_parser("coords", help="activations and what steps change of them, at several widths")
    coords.add_argument("--widths", nargs="+", type=whole_number, default=[], help="default: 1/8 of the model's to all")
    coords.add_argument("--seeds", type=whole_number, default=3, help="networks of each width; default: 3")
    coords.add_argument("--steps", type=whole_number, default=4, help="of training; default: 4")
    coords.add_argument(
        "--tolerance", type=positive_number, default=TOLERANCE, help=f"of a slope; default: {TOLERANCE}"
    )
    coords.add_argument(
        "--out", type=path, metavar="FILE", help="picture; default: coords-MODEL.png in the folder of the runs"
    )
    lr = checks.add_parser("lr", help="the best learning rate at each width, by a sweep")
    lr.add_argument("sweep", metavar="SWEEP", help="name of a sweep in runs/sweeps, or path of its folder")
    lr.add_argument("--metric", default=METRIC, help=f"of which less is better; default: {METRIC}")
    lr.add_argument("--out", type=path, metavar="FILE", help=f"picture; default: {FILE} in the sweep's folder")
    return parser.parse_known_args(arguments)


def check(options: Namespace, words: Sequence[str]) -> int:
    """Make the check that is asked for, print what it finds and where the picture is; return the exit code."""
    if options.check == "lr":
        if words:
            raise UserError(f"{words[0]} is not understood (see --help)")
        say(*draw_transfer(options.sweep, options.metric, options.out))
        return 0
    from analysis.look.coordinate_figure import check_model  # imported late: torch, which `lr` does without
    from analysis.record.resume import resolve

    settings = resolve(words, {})
    numbers = options.seeds, options.steps, options.tolerance
    picture = options.out or default_runs_dir() / f"coords-{settings.model}.png"
    if not options.out:
        picture.parent.mkdir(parents=True, exist_ok=True)
    lines, passes = check_model(settings, options.widths, *numbers, picture)
    say(*lines)
    return not passes


def main(arguments: Sequence[str]) -> int:
    """Make a check, or say in one line what keeps it from being made; return the exit code."""
    return run_program("transfer", lambda: check(*parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
