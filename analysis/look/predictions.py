"""What a classifier predicts of whole splits: computed once, and kept as a table in the run's folder."""

import csv
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from data.files import replace_file
from data.loader import Loader, Shard

COLUMNS = ("file", "split", "true", "predicted", "probability", "loss")


class Predictions:
    """The logits of a split's images, in its order, and what follows from them.

    Args:
        logits: [N, num_classes] float32, on the CPU.
        labels: [N] int64, the true classes.
        names: of the N images; their files, else their places in the split.
    """

    def __init__(self, logits: Tensor, labels: Tensor, names: Sequence[str] = ()) -> None:
        self.logits = logits
        self.labels = labels
        self.names = names or [str(i) for i in range(len(labels))]

    @cached_property
    def probabilities(self) -> Tensor:
        """[N, num_classes], each row with the sum 1."""
        return self.logits.softmax(1)

    @cached_property
    def predicted(self) -> Tensor:
        """[N] int64, the class of the greatest probability."""
        return self.probabilities.argmax(1)

    @cached_property
    def losses(self) -> Tensor:
        """[N], the cross-entropy of each image in nats."""
        return F.cross_entropy(self.logits, self.labels, reduction="none")


@torch.no_grad()
def predict_split(model: Any, loader: Loader) -> Predictions:
    """Return what a model that `Classifies`, in evaluation mode, predicts of all images of a split."""
    batches = loader.evaluation_batches(model.settings.eval_batch_size, Shard())
    parts = [(model.predict(images).float().cpu(), labels.cpu()) for images, labels in batches]
    logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return Predictions(logits, labels, loader.names)


def save_predictions(path: Path, splits: Mapping[str, Predictions], classes: Sequence[str]) -> None:
    """Write a CSV file with a row for each image of some splits; its numbers are exact."""

    def write(unfinished: Path) -> None:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for split, them in splits.items():
                figures = them.labels, them.predicted, them.probabilities.amax(1), them.losses
                for name, label, predicted, share, loss in zip(them.names, *map(Tensor.tolist, figures), strict=True):
                    table.writerow((name, split, classes[label], classes[predicted], exact(share), exact(loss)))

    replace_file(path, write)


def exact(value: float) -> str:
    """Return a float32 in as many digits as tell it from every other."""
    return f"{value:.9g}"
