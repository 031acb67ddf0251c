"""Classification accuracy score: how well a classifier does on real images that learnt from generated ones alone.

`python -m analysis.classification_score RUN --num 50000 --epochs=16` draws that many images of a conditional model, as
many of each class, trains a classifier on them, and tests it on a split of the run's own images. What follows is given
as to train.py: --model (cnn), --lr, --mixed_precision and all the rest. The figure to hold it against is that of the
same classifier trained on the real images.

Source: Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887
"""

import sys
import tempfile
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from analysis.command_line import Parser, run_program, whole_number
from analysis.look.fidelity import keep
from analysis.look.samples import draw, load_drawing_run
from analysis.look.trained_run import best_device, find_run
from data.dataset import DatasetInfo, Split, pixel_statistics
from data.errors import UserError


def draw_training_split(model: Any, num_images: int, seed: int) -> Split:
    """Images of a conditional model whose classes take turns.

    Raises:
        UserError: the model is not conditional.
    """
    if not model.num_labels:
        raise UserError("the run's model draws without regard to classes: a cvae, say, can be asked for one")
    classes = range(model.num_labels)
    images = torch.cat([part.cpu() for part in draw(model.sample, num_images, seed, classes)])
    return Split(images, torch.arange(num_images) % model.num_labels)


def train_and_test(settings: Any, info: DatasetInfo, train: Split, test: Split) -> dict[str, float]:
    """Metrics on one split of a classifier that learnt from another, with nothing chosen on either.

    Args:
        settings: of the classifier.
        info: size and classes of both splits.
        train: all that it learns from, its normalisation included.
        test: all that it is tested on.

    Raises:
        UserError: settings that do not suit the images, or a request to stop.
    """
    from models.core.processes import StopRequest  # imported late, as in analysis.look.trained_run
    from train import Training, load_model

    mean, std = pixel_statistics(settings.normalisation, train.images)
    info = replace(info, mean=mean, std=std)
    accelerator = Accelerator(cpu=best_device().type == "cpu", mixed_precision=settings.mixed_precision)
    objective, loaders = load_model(settings, info, {"train": train, "test": test}, accelerator)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run").mkdir()
        training = Training(replace(settings, runs_dir=folder, run_id="run"), accelerator, objective, loaders)
        if training.fit(None, StopRequest()) != "finished":
            raise UserError("stopped before the classifier was trained")
    return training.evaluate("test", settings.epochs)


def score_run(options: Namespace, words: Sequence[str]) -> None:
    """Score a finished run, print the figures and keep them in its folder.

    Raises:
        UserError: no such run or split, no weights, a model that is not conditional, or wrong settings.
    """
    from models.core.settings import resolve
    from models.registry import MODELS

    folder = find_run(options.run)
    settings = resolve([*words, f"--seed={options.seed}"], {}, MODELS)
    run = load_drawing_run(folder, options.data_dir)
    if options.split not in run.splits:
        raise UserError(f"--split={options.split}: the run has {', '.join(run.splits)}")
    train = draw_training_split(run.objective, options.num, options.seed)
    metrics = train_and_test(settings, run.info, train, run.splits[options.split])
    name = f"{options.split}/classification_score_{settings.model}_{options.num}"
    print(f"{name:<44}{metrics['test/accuracy']:12.5f}")
    print(keep(folder, {name: metrics["test/accuracy"]}))


def main(arguments: Sequence[str]) -> int:
    """Score a run, or say in one line what keeps it from being scored; returns the exit code."""
    parser = Parser(
        prog="python -m analysis.classification_score",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, or its id in runs/ ($VISION_SWEEPS_RUNS)")
    parser.add_argument("--num", type=whole_number, default=50_000, help="images to draw (default: 50000)")
    parser.add_argument("--split", default="test", help="the real images to test on (default: test)")
    parser.add_argument("--seed", type=int, default=0, help="of the images and of the classifier (default: 0)")
    parser.add_argument("--data_dir", default="", help="as for train.py; default: as the run was told")
    return run_program("classification_score", lambda: score_run(*parser.parse_known_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
