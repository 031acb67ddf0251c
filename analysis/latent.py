"""A closer look at the latents of a finished run, as at the end of every run of a vae: `python -m analysis.latent RUN`.

It prints how much of the classes the latents hold, beside raw pixels and an untrained network, and draws a map of them,
their clusters, interpolations between images, and what single latent units do.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of_a_look, path, run_program, whole_number
from analysis.look.latents import analyse_run, split_with_latents
from analysis.look.trained_run import load_network, with_images
from analysis.read.runs import find_run
from data.files import check_can_be_made
from data.metrics import shown
from data.visible import say


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of_a_look("latent", __doc__)
    parser.add_argument("--split", default="", help="whose images are looked at (default: test, else val)")
    parser.add_argument(
        "--num_images", type=whole_number, default=10_000, help="of each split, at most (default: 10000)"
    )
    parser.add_argument("--out", type=path, metavar="DIR", help="of the pictures (default: latent in the run's folder)")
    return parser.parse_args(arguments)


def look(options: Namespace) -> None:
    """Look closely at a run's latents, print the metrics and which pictures were drawn."""
    folder = find_run(options.run)
    out = options.out or folder / "latent"
    check_can_be_made(out, "name another by --out")
    run = load_network(folder, options.data_dir)
    split = split_with_latents(run, options.split)
    found = analyse_run(with_images(folder, run), split, options.num_images, out)
    say(*(f"{name:<36}{shown(name, value):>10}" for name, value in found.metrics.items()), *found.images.values())


def main(arguments: Sequence[str]) -> int:
    """Look at latents, or say in one line what keeps us from it; return the exit code."""
    return run_program("latent", lambda: look(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
