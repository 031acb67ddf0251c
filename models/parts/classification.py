"""The objective that all classifiers share: cross-entropy, accuracy, and a panel of predictions.

What cross-entropy and accuracy are depends on the labels, see `models.parts.labelling`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from data.dataset import Batch, DatasetInfo
from models.core.objective import LOGITS, Objective, Phase
from models.core.optimization import Scale, optimizer_of
from models.core.panel import Panel
from models.core.settings import NonNegative, Range, Settings
from models.parts.labelling import labelling_of


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(Settings):
    """The settings of all classifiers."""

    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the training loss. balanced: as 1 / the number of a class's images to train on; of
    several labels an image, those with a label weigh together as much as those without."""
    label_smoothing: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of the target probability that is spread evenly over all classes, https://arxiv.org/abs/1512.00567; of
    several labels an image, over applying and not applying."""
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
        self.labelling = labelling_of(info)
        self.net = net
        self.prefers_channels_last = prefers_channels_last
        self.scales = scales
        self.register_buffer("class_weights", None, persistent=False)
        if settings.class_weights == "balanced" and info.class_counts:
            self.class_weights = self.labelling.balanced_weights(info)
        self.mix = None
        if settings.mixup or settings.cutmix:
            from timm.data.mixup import Mixup  # imported late: timm takes a second

            self.fewest_images = 2
            self.mix = Mixup(settings.mixup, settings.cutmix, label_smoothing=0.0, num_classes=len(info.classes))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("classify", optimizer_of(self.net, self.settings, self.scales)),)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        images, labels = batch.images, batch.labels
        targets = labels
        if self.mix is not None and len(images) > 1:
            even = len(images) // 2 * 2  # timm mixes the first image with the last, and so on: it needs an even number
            images, labels = images[:even], labels[:even]
            images, targets = self.labelling.mix(self.mix, images.clone(), labels)  # changes its argument
            labels = self.labelling.decide(targets)  # a mixed image is called by the larger of its shares
        logits = self.net(images)
        loss = self.labelling.training_loss(logits, targets, self.class_weights, self.settings.label_smoothing)
        return {"loss": loss, self.labelling.accuracy: self.labelling.right(logits, labels).mean()}

    def predict(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, num_classes] float32 logits
        return self.net(images).float()

    def image_network(self) -> nn.Module:
        """Return the network from images [B, 3, H, W] to logits, even if the model is trained on cached features."""
        return self.net

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        logits, labels = self.predict(batch.images), batch.labels
        scores, kept = self.labelling.scores(logits, labels), self.labelling.kept(logits, labels)
        return {"loss": self.labelling.losses(logits, labels), **scores, **kept, LOGITS: logits}

    def split_metrics(self, kept: Mapping[str, Tensor]) -> dict[str, float]:
        return self.labelling.split_metrics(kept)

    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        probabilities = self.labelling.probabilities(self.predict(batch.images)).cpu()
        labels = batch.labels.cpu()
        captions = [self.labelling.caption(*each, self.info) for each in zip(probabilities, labels, strict=True)]
        marks = self.labelling.rightness(self.labelling.decide(probabilities), labels) == 1
        return {"predictions": Panel(pictures, tuple(captions), tuple(marks.tolist()))}
