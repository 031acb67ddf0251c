"""Classification accuracy score: how well a classifier that has learnt from samples alone does on real images.

Source: Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887
"""

from collections.abc import Sequence
from dataclasses import asdict

import torch

from analysis.look.samples import sample_images, sampler
from analysis.look.train_process import run_train_py
from analysis.look.trained_run import TrainedRun
from analysis.read.recipe import told_settings
from analysis.record import run_folder
from data import arrays
from data.dataset import DatasetInfo, Split
from data.errors import UserError
from data.files import read_json, scratch_folder
from data.photographs import centre_crop
from models.core.settings import Settings

# Settings of the classifier's run that its images bring with them.
OF_DATA = {"dataset": "arrays", "label_column": "", "image_size": 0}
OF_DATA |= {"train_fraction": 1.0, "val_fraction": 0.0, "test": True}


def score_run(run: TrainedRun, split: str, num_images: int, seed: int, classifier: Settings) -> dict[str, float]:
    """Return the score of a run's samples by its name, such as test/classification_score_cnn_50000_epochs=16.

    Args:
        run: of a conditional model.
        split: real images that the classifier is tested on.
        num_images: samples that it learns from.
        seed: of the samples.
        classifier: settings of its run; those of its data do not count.

    Raises:
        UserError: the run has no such split, its model is not conditional, or the classifier could not be trained.
    """
    real = seen_by_models(run.split(split), run.info)
    metrics = train_and_test(classifier, run.info.classes, sample_split(run, num_images, seed), real)
    name = "_".join([f"{split}/classification_score", classifier.model, str(num_images), *told_of(classifier)])
    return {name: metrics["test/accuracy"]}


def told_of(classifier: Settings) -> list[str]:
    """Return the settings of a classifier that count and differ from its model's own, as epochs=16."""
    told = told_settings(asdict(classifier))
    return [f"{key}={value}" for key, value in told.items() if key not in ("model", "seed", *OF_DATA)]


def seen_by_models(split: Split, info: DatasetInfo) -> Split:
    """Return the images of a split as models see them, the central squares of those that are kept."""
    return Split(torch.cat([centre_crop(part, info.image_size) for part in split.parts()]), split.labels)


def sample_split(run: TrainedRun, num_images: int, seed: int) -> Split:
    """Sample images of a run's model whose classes take turns.

    Raises:
        UserError: the model is not conditional.
    """
    model = run.objective
    if not model.num_labels:
        raise UserError(f"{run.settings.model} samples without regard to classes: name a run of a cvae, say")
    images = [part.cpu() for part in sample_images(sampler(run), num_images, seed, range(model.num_labels))]
    return Split(torch.cat(images), torch.arange(num_images) % model.num_labels)


def train_and_test(settings: Settings, classes: Sequence[str], train: Split, test: Split) -> dict[str, float]:
    """Train a classifier on one split and test it on another; nothing is chosen on either.

    Args:
        settings: of the classifier's run.
        classes: of both splits.
        train: all that it learns from, its normalisation included.
        test: all that it is tested on.

    Returns:
        The summary of the classifier's run, test/accuracy among it.

    Raises:
        UserError: the run failed, since settings do not suit the images, say.
    """
    with scratch_folder() as folder:
        arrays.save(folder, classes, train, test)
        told = {**asdict(settings), **OF_DATA, "data_dir": str(folder), "tracking": "off"}
        return read_json(run_train_py(told, folder / "runs") / run_folder.SUMMARY)
