"""Speed of computing features beside a bare `model(x)` loop, by `python -m analysis.feature_benchmark`.

    bare   the frozen network over and over on one batch that lies on the device, resized and normalised already
    ours   different uint8 images from main memory: copied, resized, normalised, their features stored in a new cache

The two take turns in one process, after a warm-up; the bare loop is measured at every batch size, ours at its own.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of, run_program, whole_number
from analysis.look.feature_speed import compare_feature_speeds
from analysis.look.trained_run import best_device
from data.visible import say
from models.core.precision import has_fast_bf16
from models.parts.feature_extractor import FrozenNetwork


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of("feature_benchmark", __doc__)
    parser.add_argument("--arch", default="vit_base_patch16_224", help="network of timm, with random weights")
    parser.add_argument("--input_size", type=whole_number, default=224, help="side in pixels")
    usual = "default: bf16 where the device has hardware for it, else fp32"
    parser.add_argument("--precision", choices=("bf16", "fp32"), help=usual)
    parser.add_argument(
        "--batch_sizes", type=whole_numbers, default="16,64,256", help="of the bare loop, comma-separated"
    )
    parser.add_argument("--num_images", type=whole_number, default=512, help="of each measurement")
    parser.add_argument("--rounds", type=whole_number, default=5, help="times that each is measured")
    return parser.parse_args(arguments)


def whole_numbers(text: str) -> list[int]:
    """Return the comma-separated whole numbers that `text` spells."""
    return [whole_number(part) for part in text.split(",")]


def measure(options: Namespace) -> None:
    """Compare the two, and print their speeds."""
    network = FrozenNetwork(options.arch, None, options.input_size)
    precision = options.precision or ("bf16" if has_fast_bf16(best_device()) else "fp32")
    say(compare_feature_speeds(network, precision, options.batch_sizes, options.num_images, options.rounds))


def main(arguments: Sequence[str]) -> int:
    """Compare speeds, or say in one line what keeps us from it; return the exit code."""
    return run_program("feature_benchmark", lambda: measure(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
