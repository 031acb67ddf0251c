"""What a classifier predicts of whole splits: computed once, and kept as a table in the run's folder."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.csv_table import LABEL
from data.dataset import DatasetInfo
from data.files import replace_file
from data.loader import Loader, Shard
from models.parts.labelling import ONE_CLASS, Labelling, labelling_of

PROBABILITY = "probability:"  # what stands before the name of one of several labels, as LABEL does


class Predictions:
    """The logits of a split's images, in its order, and what follows from them.

    Args:
        logits: [N, num_classes] float32, on the CPU.
        labels: [N] int64, the true classes; [N, num_classes] of several labels.
        names: of the N images; their files, else their places in the split.
        labelling: what the labels are.
    """

    def __init__(
        self, logits: Tensor, labels: Tensor, names: Sequence[str] = (), labelling: Labelling = ONE_CLASS
    ) -> None:
        self.logits = logits
        self.labels = labels
        self.names = names or [str(i) for i in range(len(labels))]
        self.labelling = labelling

    @classmethod
    def of(cls, logits: Tensor, loader: Loader) -> "Predictions":
        """Return those of all images of a loader's split, by their logits [N, num_classes]."""
        return cls(logits, loader.labels.cpu(), loader.names, labelling_of(loader.info))

    @cached_property
    def probabilities(self) -> Tensor:
        """[N, num_classes]; of one class, each row has the sum 1."""
        return self.labelling.probabilities(self.logits)

    @cached_property
    def predicted(self) -> Tensor:
        """What is predicted, in the form of the labels: [N] int64, the class of the greatest probability."""
        return self.labelling.decide(self.probabilities)

    @cached_property
    def is_right(self) -> Tensor:
        """[N] bool, whether all that is predicted of an image is right."""
        return self.labelling.rightness(self.predicted, self.labels) == 1

    @cached_property
    def losses(self) -> Tensor:
        """[N], the cross-entropy of each image in nats."""
        return self.labelling.losses(self.logits, self.labels)


@torch.no_grad()
def predict_split(model: Any, loader: Loader) -> Predictions:
    """Return what a model that `Classifies`, in evaluation mode, predicts of all images of a split."""
    batches = loader.evaluation_batches(model.settings.eval_batch_size, Shard(), "predicting")
    logits = torch.cat([model.predict(images).float().cpu() for images, *_ in batches])
    return Predictions.of(logits, loader)


def save_predictions(path: Path, splits: Mapping[str, Predictions], info: DatasetInfo) -> None:
    """Write a CSV file with a row for each image of some splits; its numbers are exact, names as on the disk."""
    of_several = [f"{kind}{name}" for kind in (LABEL, PROBABILITY) for name in info.classes]
    columns = of_several if info.several_labels else ["true", "predicted", "probability"]

    def write(unfinished: Path) -> None:
        with unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(("file", "split", *columns, "loss"))
            for split, them in splits.items():
                for name, cells, loss in zip(them.names, cells_of(them, info), them.losses.tolist(), strict=True):
                    table.writerow((name, split, *cells, exact(loss)))

    replace_file(path, write)


def cells_of(them: Predictions, info: DatasetInfo) -> Iterator[Sequence[object]]:
    """Yield for each image its class, the predicted one and the probability of that; of several labels, all of both."""
    labels = them.labels.int().tolist()
    if info.several_labels:
        for own, shares in zip(labels, them.probabilities.tolist(), strict=True):
            yield *own, *map(exact, shares)
    else:
        greatest = them.probabilities.amax(1).tolist()
        for label, predicted, share in zip(labels, them.predicted.tolist(), greatest, strict=True):
            yield info.classes[label], info.classes[predicted], exact(share)


def exact(value: float) -> str:
    """Return a float32 in as many digits as tell it from every other."""
    return f"{value:.9g}"
