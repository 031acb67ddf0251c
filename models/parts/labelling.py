"""What the labels of images are, and all that follows from it: losses, probabilities, predictions, metrics.

An image is of one class, or several labels may apply to it, or none. Whoever trains, measures or predicts asks
`labelling_of` which it is, and then the one that it gets.
"""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.dataset import DatasetInfo
from data.visible import percent

THRESHOLD = 0.5  # probability above which one of several labels is predicted
UNEVEN = 1.5  # times as many images of the largest class as of the smallest, above which classes are uneven
MANY = 20  # classes, from which on the likeliest few are looked at, too
NUM_LIKELIEST = 5
CAPTION_WIDTH = 26  # letters, as many as stand below a small image


class Labelling:
    """What the labels of images are: here, that each image is of one class.

    Labels are [B] int64, and the probabilities of the classes add up to 1.

    Attributes:
        accuracy: name of the metric that says how right predictions are.
    """

    accuracy = "accuracy"

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes, [B, C], of logits [B, C]."""
        return logits.softmax(1)

    def decide(self, probabilities: Tensor) -> Tensor:
        """Return what is predicted by probabilities [B, C], in the form of labels."""
        return probabilities.argmax(1)

    def rightness(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Return how right each prediction is, [B] in [0, 1]; both are in the form of labels."""
        return (predicted == labels).float()

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how right the prediction by logits [B, C] is, [B] in [0, 1]."""
        return self.rightness(logits.argmax(dim=1), labels)

    def scores(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return by name how right the prediction by logits [B, C] is, [B] each in [0, 1].

        With many classes, that an image's class is among the five likeliest, ImageNet's other measure, is a score, too:
        https://arxiv.org/abs/1409.0575.
        """
        found = {self.accuracy: self.right(logits, labels)}
        if logits.shape[1] >= MANY:
            likeliest = logits.topk(NUM_LIKELIEST, dim=1).indices
            found[f"top{NUM_LIKELIEST}_accuracy"] = (likeliest == labels.unsqueeze(1)).any(dim=1).float()
        return found

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of each image in nats, [B], of logits [B, C]."""
        return F.cross_entropy(logits, labels, reduction="none")

    def pooled(self, logits: Tensor) -> Tensor:
        """Return logits [B, C] that have the mean of the probabilities of some, [M, B, C]; a single one as it is."""
        return logits.log_softmax(2).logsumexp(0) if len(logits) > 1 else logits[0]

    def training_loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            logits: [B, C].
            targets: labels, or a mixture of the labels of several images.
            weights: as `balanced_weights`; None for none.
            smoothing: share of the targets that is spread evenly.
        """
        # torch's own mean would divide by the weights of this micro-batch, which differ from part to part of a step.
        return F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing, reduction="none").mean()

    def balanced_weights(self, info: DatasetInfo) -> Tensor:
        """Return weights [C] inverse to the numbers of images, 1 on average; 0 for a class without images."""
        numbers = torch.tensor(info.class_counts, dtype=torch.float64)
        present = numbers > 0
        return torch.where(present, numbers.sum() / (present.sum() * numbers.clamp(min=1)), 0.0).float()

    def mix(self, mixup: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return images [B, 3, H, W], which are overwritten, and their labels as timm's Mixup mixes them; B is even."""
        return mixup(images, labels)

    def kept(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return what `split_metrics` needs of each image, [B, C] each."""
        return {}

    def split_metrics(self, kept: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the metrics that are no means over images, of what `kept` gives of a whole split."""
        return {}

    def choices(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions as M choices among K, [M, K] and labels [M]: one per image, or a yes or no per label."""
        return probabilities, labels

    def caption(self, probabilities: Tensor, label: Tensor | None, info: DatasetInfo) -> str:
        """Return what is predicted of an image by probabilities [C], and what is wrong of it where that is known."""
        share, guess = probabilities.max(0)
        wrong = label is not None and int(guess) != int(label)
        truth = f", is {info.named(label)}" if wrong and label is not None else ""
        return f"{info.named(guess)} {percent(share.item(), 0)}{truth}"


class UnevenClasses(Labelling):
    """Each image is of one class, and some classes are much larger: naming these alone is already mostly right."""

    def kept(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"named": torch.stack([logits.argmax(dim=1), labels], dim=1)}

    def split_metrics(self, kept: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the means over the classes of recall (balanced_accuracy) and of the F1 score (macro_f1).

        A class that has no image is left out; of the F1 score, only if it is not predicted either.
        """
        named, labels = kept["named"].long().T
        num_classes = 1 + int(kept["named"].max())
        sizes, guesses, hits = (
            torch.bincount(each, minlength=num_classes).double() for each in (labels, named, labels[named == labels])
        )
        recalls = (hits / sizes)[sizes > 0]
        scores = (2 * hits / (sizes + guesses))[sizes + guesses > 0]
        return {"balanced_accuracy": recalls.mean().item(), "macro_f1": scores.mean().item()}


class SeveralLabels(Labelling):
    """Of several labels any may apply to an image: labels are [B, C] float32 of 0 and 1, each with its probability."""

    accuracy = "label_accuracy"  # the mean over the labels: where most do not apply, saying so is already mostly right

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def decide(self, probabilities: Tensor) -> Tensor:
        return (probabilities > THRESHOLD).float()

    def rightness(self, predicted: Tensor, labels: Tensor) -> Tensor:
        return (predicted == labels).float().mean(1)

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.rightness(self.decide(self.probabilities(logits)), labels)

    def scores(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {self.accuracy: self.right(logits, labels)}

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)

    def pooled(self, logits: Tensor) -> Tensor:
        if len(logits) == 1:
            return logits[0]
        return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)

    def training_loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        targets = targets * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weights)

    def balanced_weights(self, info: DatasetInfo) -> Tensor:
        """Return by how much more an image with a label weighs than one without: as often as there are more of these.

        A label that no image has, or every one, gets 1.
        """
        present = torch.tensor(info.class_counts, dtype=torch.float64)
        absent = info.num_images["train"] - present
        return torch.where((present > 0) & (absent > 0), absent / present.clamp(min=1), 1.0).float()

    def mix(self, mixup: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the labels as the images are: timm's targets, of images in place of classes, hold the share of each."""
        mixup.num_classes = len(images)
        images, shares = mixup(images, torch.arange(len(images), device=images.device))
        own = shares.diagonal().unsqueeze(1)
        return images, own * labels + (1 - own) * labels.flip(0)

    def kept(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"ranked_by": logits, "labels": labels}

    def split_metrics(self, kept: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the means over the labels of average precision (mAP) and area under the ROC curve (auroc)."""
        precisions, areas = ranking_scores(kept["ranked_by"].numpy(), kept["labels"].numpy())
        return {"mAP": mean_of_known(precisions), "auroc": mean_of_known(areas)}

    def choices(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return each label of each image as a choice of its own, between not applying and applying."""
        own = probabilities.flatten()
        return torch.stack([1 - own, own], dim=1), labels.flatten().long()

    def caption(self, probabilities: Tensor, label: Tensor | None, info: DatasetInfo) -> str:
        """Return the labels that are predicted and, a line each, those of them that do not apply and those missed."""
        predicted = self.decide(probabilities[None])[0]
        lines = [named_shares(predicted, probabilities, info)]
        if label is not None:
            faults = {"not": (predicted > label).float(), "misses": (label > predicted).float()}
            lines += [f"{what} {info.named(which)}" for what, which in faults.items() if which.any()]
        return "\n".join(textwrap.fill(line, CAPTION_WIDTH) for line in lines)


def named_shares(which: Tensor, probabilities: Tensor, info: DatasetInfo) -> str:
    """Return those of several labels [C] with their probabilities [C], the likeliest first."""
    places = [i for i in probabilities.argsort(descending=True).tolist() if which[i]]
    return ", ".join(f"{info.classes[i]} {percent(probabilities[i].item(), 0)}" for i in places) or info.named(which)


def ranking_scores(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each label how well scores rank the images that have it before the others.

    Args:
        scores: [N, C], the greater, the surer; not finite ones, of a training that has diverged, give no figures.
        labels: [N, C] of 0 and 1.

    Returns:
        Average precision [C], NaN for a label that no image has, and the area under the ROC curve [C], NaN for one that
        no image has, or every one.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # imported late: takes a second

    precisions, areas = np.full((2, scores.shape[1]), math.nan)
    for i in np.flatnonzero(labels.any(0) & np.isfinite(scores).all(0)):
        precisions[i] = average_precision_score(labels[:, i], scores[:, i])
        if not labels[:, i].all():
            areas[i] = roc_auc_score(labels[:, i], scores[:, i])
    return precisions, areas


def mean_of_known(values: np.ndarray) -> float:
    """Return the mean of those values that are no NaN; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


ONE_CLASS, UNEVEN_CLASSES, SEVERAL_LABELS = Labelling(), UnevenClasses(), SeveralLabels()


def labelling_of(info: DatasetInfo) -> Labelling:
    """Return what the labels of a dataset's images are."""
    if info.several_labels:
        return SEVERAL_LABELS
    fewest, most = info.class_sizes
    return UNEVEN_CLASSES if most > UNEVEN * fewest else ONE_CLASS
