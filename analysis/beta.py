"""Draw what beta does to a variational autoencoder, from a finished sweep of it.

The picture has a column for each beta, of its best run by the sweep's metric: samples, reconstructions, t-SNE, the
curves of reconstruction and KL, and the metrics of the run's end. Which runs they are, and the other settings in which
they differ, stands above them, and is printed.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of, path, run_program
from analysis.compare.beta_figure import FILE, draw_sweep
from data.visible import say


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the options that a command line gives."""
    parser = parser_of("beta", __doc__)
    parser.add_argument("sweep", metavar="SWEEP", help="name of a sweep in runs/sweeps, or path of its folder")
    parser.add_argument("--out", type=path, metavar="FILE", help=f"default: {FILE} in the sweep's folder")
    return parser.parse_args(arguments)


def draw(options: Namespace) -> None:
    """Draw the picture, and print where it is."""
    say(draw_sweep(options.sweep, options.out))


def main(arguments: Sequence[str]) -> int:
    """Draw a sweep, or say in one line why that cannot be done; return the exit code."""
    return run_program("beta", lambda: draw(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
