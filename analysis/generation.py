"""How good the samples of a finished run are, by `python -m analysis.generation RUN`.

It prints FID, KID, precision, recall, density, coverage and, where the network knows classes, the Inception Score, and
keeps them in the run's folder, with a fingerprint of its weights: figures of other weights are dropped.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of_a_look, run_program, seed, whole_number
from analysis.look.extractors import INCEPTION, build_extractor
from analysis.look.fidelity import keep, measure_run
from analysis.look.samples import load_sampling_run
from analysis.look.trained_run import best_device
from analysis.read.runs import find_run
from analysis.record.run_folder import weights_fingerprint
from data.metrics import shown
from data.visible import say


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of_a_look("generation", __doc__)
    parser.add_argument("--num", type=whole_number, default=10_000, help="images to sample (default: 10000)")
    parser.add_argument(
        "--extractor",
        nargs="+",
        default=[INCEPTION],
        metavar="NETWORK",
        help="networks whose features are compared: inception, that of FID, or names of timm's (default: inception)",
    )
    parser.add_argument("--split", default="", help="the real images to compare them with (default: test, else val)")
    parser.add_argument("--seed", type=seed, default=0, help="of the images (default: 0; a run took its own)")
    return parser.parse_args(arguments)


def measure(options: Namespace) -> None:
    """Measure the samples of a run, print the metrics and keep them in its folder."""
    folder = find_run(options.run)
    extractors = [build_extractor(name, best_device()) for name in options.extractor]
    weights = weights_fingerprint(folder)
    run = load_sampling_run(folder, options.data_dir)
    for extractor in extractors:
        metrics = measure_run(run, extractor, run.split_name(options.split), options.num, options.seed)
        say(*(f"{name:<44}{shown(name, value):>12}" for name, value in metrics.items()))
        if not any("/inception_score" in name for name in metrics):
            say(f"no Inception Score by {extractor.name}: its weights come without classes")
        path = keep(folder, metrics, weights)
    say(path)


def main(arguments: Sequence[str]) -> int:
    """Measure samples, or say in one line what keeps them from being measured; return the exit code."""
    return run_program("generation", lambda: measure(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
