"""The objective that all classifiers share: cross-entropy, accuracy, and a panel of predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo
from models.core.objective import Objective, Phase
from models.core.optimization import Scale, optimizer_of
from models.core.panel import Panel
from models.core.settings import NonNegative, Range, Settings
from models.parts.layers import check_classes


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(Settings):
    """The settings of all classifiers."""

    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the training loss. balanced: as 1 / the number of a class's images to train on."""
    label_smoothing: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of the target probability that is spread evenly over all classes, https://arxiv.org/abs/1512.00567."""
    mixup: NonNegative = 0.0
    """Alpha of mixup, https://arxiv.org/abs/1710.09412; 0 for none."""
    cutmix: NonNegative = 0.0
    """Alpha of CutMix, https://arxiv.org/abs/1905.04899; 0 for none. If mixup is set too, each batch gets one of the
    two at random."""


class Classification(Objective):
    """A classifier: a network whose logits are trained with the cross-entropy.

    Args:
        net: network from images [B, 3, H, W] to logits [B, num_classes].
        settings: label smoothing, mixup, CutMix and the optimizer.
        info: the dataset's facts.
        prefers_channels_last: true for networks made mostly of convolutions.
        scales: of learning rate and weight decay, by the name of a parameter of the network.

    Raises:
        UserError: the dataset has fewer than two classes.
    """

    settings: ClassifierSettings
    class_weights: Tensor | None  # [num_classes], of the training loss

    def __init__(
        self,
        net: nn.Module,
        settings: ClassifierSettings,
        info: DatasetInfo,
        prefers_channels_last: bool = False,
        scales: Mapping[str, Scale] = {},
    ) -> None:
        super().__init__(settings, info)
        check_classes(info, "a classifier")
        self.net = net
        self.prefers_channels_last = prefers_channels_last
        self.scales = scales
        self.register_buffer("class_weights", None, persistent=False)
        if settings.class_weights == "balanced" and info.class_counts:
            self.class_weights = balanced_weights(info.class_counts)
        self.mix = None
        if settings.mixup or settings.cutmix:
            from timm.data.mixup import Mixup  # imported late: timm takes a second

            self.mix = Mixup(settings.mixup, settings.cutmix, label_smoothing=0.0, num_classes=len(info.classes))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("classify", optimizer_of(self.net, self.settings, self.scales)),)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        images, labels = batch
        targets = labels
        if self.mix is not None and len(images) > 1:
            even = len(images) // 2 * 2  # timm mixes the first image with the last, and so on: it needs an even number
            images, labels = images[:even], labels[:even]
            images, targets = self.mix(images.clone(), labels)  # changes its argument
        logits = self.net(images)
        return {
            "loss": F.cross_entropy(
                logits, targets, weight=self.class_weights, label_smoothing=self.settings.label_smoothing
            ),
            "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
        }

    def predict(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, num_classes] float32 logits
        return self.net(images).float()

    def image_network(self) -> nn.Module:
        """Return the network from images [B, 3, H, W] to logits, even if the model is trained on cached features."""
        return self.net

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.predict(batch.images)
        return {
            "loss": F.cross_entropy(logits, batch.labels, reduction="none"),
            "accuracy": (logits.argmax(dim=1) == batch.labels).float(),
        }

    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        probabilities = torch.softmax(self.predict(batch.images), dim=1)
        confidence, predicted = (column.tolist() for column in probabilities.max(dim=1))
        names = self.info.classes
        captions, marks = [], []
        for guess, share, label in zip(predicted, confidence, batch.labels.tolist(), strict=True):
            captions.append(f"{names[guess]} {share:.0%}" + ("" if guess == label else f", is {names[label]}"))
            marks.append(guess == label)
        return {"predictions": Panel(pictures, tuple(captions), tuple(marks))}


def balanced_weights(counts: Sequence[int]) -> Tensor:
    """Return a weight for each class, inverse to its number of images, 1 on average over these; 0 without images."""
    numbers = torch.tensor(counts, dtype=torch.float64)
    present = numbers > 0
    return torch.where(present, numbers.sum() / (present.sum() * numbers.clamp(min=1)), 0.0).float()
