"""What a vision transformer's class token looks at, by `python -m analysis.attention RUN --images 3 7 cat.jpg`.

It draws a picture with a row for each image and columns for the layers, each the mean of its heads, and for attention
rollout; with --heads also a picture for each image with a row for each head. The colours of a map run from its least
weight, dark, to its greatest, bright. The peak below it is its greatest weight over its mean: 1.0x where the class
token looks everywhere alike.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of_a_look, path, run_program
from analysis.look.attention import NUM_PANEL_IMAGES
from analysis.look.attention_pictures import draw_attention, network_with_attention
from analysis.look.trained_run import load_network, with_images
from analysis.read.runs import find_run
from analysis.record import run_folder
from data.errors import UserError
from data.files import check_can_be_made
from data.visible import say


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of_a_look("attention", __doc__)
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="indices into the validation split (without one the test split, else the training split), or image files, "
        f"whose central square is shown; default: the first {NUM_PANEL_IMAGES} of the split",
    )
    parser.add_argument(
        "--heads", action="store_true", help="also write a picture for each image, FILE_heads_1.png, ..."
    )
    parser.add_argument("--out", type=path, metavar="FILE", help="default: panels/attention.png in the run's folder")
    return parser.parse_args(arguments)


def draw(options: Namespace) -> None:
    """Draw the attention of a run, and print which files were written."""
    folder = find_run(options.run)
    out = options.out or folder / run_folder.PANELS / "attention.png"
    if out.suffix != ".png":
        raise UserError(f"--out={out}: give a file name that ends in .png")
    check_can_be_made(out.parent, "name another by --out")
    run = load_network(folder, options.data_dir)
    network_with_attention(run)
    say(*draw_attention(with_images(folder, run), options.images, out, options.heads))


def main(arguments: Sequence[str]) -> int:
    """Draw attention, or say in one line what keeps it from being drawn; return the exit code."""
    return run_program("attention", lambda: draw(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
