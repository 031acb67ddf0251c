"""Classification accuracy score: how well a classifier that has learnt from samples alone does on real images.

`python -m analysis.classification_score RUN --num 50000 --epochs=16` takes that many samples of a conditional model, as
many of each class, trains a classifier on them, and tests it on a split of the run's own images. Further words are
settings of the classifier as for train.py: --model (cnn), --lr, --mixed_precision and so on; those that differ from the
model's own are part of the score's name. Compare the score with the accuracy of the same classifier trained on the real
images.

Source: Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of_a_look, run_program, seed, whole_number
from analysis.look.classification_score import score_run
from analysis.look.fidelity import keep
from analysis.look.samples import load_sampling_run
from analysis.read.runs import find_run
from analysis.record.resume import resolve
from analysis.record.run_folder import weights_fingerprint
from data.metrics import shown
from data.visible import say


def parse(arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return what the command line says, and the words of it that are settings of the classifier."""
    parser = parser_of_a_look("classification_score", __doc__, allow_abbrev=False)
    parser.add_argument("--num", type=whole_number, default=50_000, help="images to sample (default: 50000)")
    parser.add_argument("--split", default="", help="the real images to test on (default: test, else val)")
    parser.add_argument("--seed", type=seed, default=0, help="of the images and of the classifier (default: 0)")
    return parser.parse_known_args(arguments)


def score(options: Namespace, words: Sequence[str]) -> None:
    """Score the samples of a run, print the score and keep it in the run's folder."""
    folder = find_run(options.run)
    classifier = resolve([*words, f"--seed={options.seed}"], {})
    weights = weights_fingerprint(folder)
    run = load_sampling_run(folder, options.data_dir)
    scores = score_run(run, run.split_name(options.split), options.num, options.seed, classifier)
    say(*(f"{name:<44}{shown(name, value):>12}" for name, value in scores.items()), keep(folder, scores, weights))


def main(arguments: Sequence[str]) -> int:
    """Score samples, or say in one line what keeps them from being scored; return the exit code."""
    return run_program("classification_score", lambda: score(*parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
