"""The loss of a trained run round its weights, and between two runs: how steep, how rough, how far apart?

    python -m analysis.landscape RUN                  lines and a plane in random directions; the greatest curvatures
    python -m analysis.landscape RUN RUN2 --match     two runs beside each other, and the straight way between them

Directions are as long as the weights, filter by filter (https://arxiv.org/abs/1712.09913). Batch norm takes its
statistics of the images at hand, at every point anew. --match permutes the hidden units of RUN2 so that they resemble
those of RUN (https://arxiv.org/abs/2209.04836); for mlp and cnn.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import count, parser_of_a_look, path, positive_number, run_program, seed, whole_number
from analysis.look.landscape_runs import Plan, look_at_runs
from analysis.read.runs import find_run
from data.files import check_can_be_made
from data.visible import say


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of_a_look("landscape", __doc__)
    parser.add_argument("other", metavar="RUN2", nargs="?", help="a second run, to compare with the first")
    parser.add_argument("--split", default="train", help="whose images the loss is of; default: train")
    parser.add_argument("--images", type=whole_number, default=1000, help="of the split, at most; default: 1000")
    parser.add_argument("--points", type=whole_number, default=21, help="on a side of the plane; default: 21")
    parser.add_argument(
        "--reach", type=positive_number, default=1.0, help="of the plane, in lengths of the weights; default: 1"
    )
    parser.add_argument("--eigenvalues", type=count, default=3, help="of the Hessian; 0 for none; default: 3")
    parser.add_argument("--match", action="store_true", help="the way to RUN2 with its hidden units matched, too")
    parser.add_argument("--seed", type=seed, default=0, help="of the directions; default: 0")
    parser.add_argument("--out", type=path, metavar="DIR", help="of the pictures; default: landscape in RUN's folder")
    return parser.parse_args(arguments)


def look(options: Namespace) -> None:
    """Look at the landscapes, print their figures and where the pictures are."""
    folders = [find_run(name) for name in (options.run, options.other) if name is not None]
    plan = Plan(
        split=options.split,
        num_images=options.images,
        num_points=options.points,
        reach=options.reach,
        seed=options.seed,
        num_eigenvalues=options.eigenvalues,
        match=options.match,
        folder=options.out or folders[0] / "-".join(["landscape", *(other.name for other in folders[1:])]),
    )
    check_can_be_made(plan.folder, "name another by --out")
    say(*look_at_runs(folders, options.data_dir, plan))


def main(arguments: Sequence[str]) -> int:
    """Look at a landscape, or say in one line what keeps us from it; return the exit code."""
    return run_program("landscape", lambda: look(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
