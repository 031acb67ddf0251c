"""A frozen network of timm with a new linear head on its features, which are computed once and cached.

The head is trained in one of two ways: by gradient steps (the model `frozen`), or as a logistic regression that is
solved exactly for one strength of its penalty after another (the model `logistic_probe`).
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo, Split
from data.errors import UserError
from data.feature_cache import FeatureCache, cached_features
from data.paths import feature_dir
from models.core.objective import Phase
from models.core.optimization import FreshLBFGS
from models.core.settings import Count, Fraction, PositiveFloat, PositiveInt, Range
from models.parts.backbone import BackboneSettings, network_size, outline_network
from models.parts.classification import Classification
from models.parts.feature_extractor import FeatureExtractor, FrozenNetwork
from models.parts.pretrained_weights import find_weights

OF_IMAGES = (
    *("augmentation", "crop_scale", "start_size", "eval_crop"),
    *("rotation", "colour_jitter", "erasing", "cutout", "cutmix"),
)  # settings that need the images themselves in each epoch
# Settings of training by gradient steps, which a logistic regression does not use.
OF_GRADIENTS = (
    *("optimizer", "momentum", "beta1", "beta2", "weight_decay"),
    *("schedule", "warmup_epochs", "grad_clip", "mixup", "ema_decay"),
)


@dataclass(frozen=True, kw_only=True)
class FrozenSettings(BackboneSettings):
    """A frozen network of timm with a new linear head; the features of each image are computed once and cached."""

    arch: str = "tf_efficientnet_lite0"
    epochs: PositiveInt = 45
    lr: PositiveFloat = 3.08e-4
    input_size: Count = 224
    flips: bool = False
    """Also train on mirror images, for which twice as many features are computed and kept."""
    standardise: bool = False
    """Scale each feature to mean 0 and standard deviation 1 over the training images."""
    feature_precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the frozen network and of the cached features. auto: bf16 if the processor has it and features
    of a few images deviate from those in fp32 by at most 5 % of their spread, else fp32."""
    feature_batch_size: Count = 0
    """Images whose features each process computes at once; 0 for 16 on a CPU and 256 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class VitB16FrozenSettings(FrozenSettings):
    """A frozen ViT-B/16 with a new linear head; the features of each image are computed once and cached."""

    arch: str = "vit_base_patch16_224"


@dataclass(frozen=True, kw_only=True)
class LogisticProbeSettings(FrozenSettings):
    """A logistic regression on a frozen network of timm; in each epoch L-BFGS solves it for a weaker penalty."""

    batch_size: Annotated[int, Range(0, 0)] = 0
    """Always 0: all training images at once."""
    epochs: PositiveInt = 11
    """How many strengths of the penalty are tried, one in each epoch; the best epoch has the best strength."""
    patience: Count = 2
    lr: PositiveFloat = 1.0
    """First step size that the line search of L-BFGS tries."""
    standardise: bool = True
    l2: PositiveFloat = 0.1
    """Strength of the penalty in the first epoch; the penalty is l2 / 2 times the sum of the squared weights, added to
    the mean cross-entropy."""
    l2_ratio: Fraction = 0.3162
    """Factor by which the strength of the penalty changes from one epoch to the next."""
    max_iterations: PositiveInt = 200
    """Largest number of L-BFGS iterations in an epoch; each epoch starts from the solution of the one before."""


def refuse(settings: FrozenSettings, names: tuple[str, ...], reason: str) -> None:
    """Refuse settings that the model does not use.

    Args:
        settings: the run's.
        names: the settings that are not used, and so must have their default values.
        reason: why they are not used, for the message.

    Raises:
        UserError: one of these settings does not have its default value.
    """
    defaults = {field.name: field.default for field in fields(settings)}
    for name in names:
        if getattr(settings, name) != defaults[name]:
            raise UserError(f"--{name}={getattr(settings, name)} has no effect here: {reason}")


class Head(nn.Linear):
    """A linear head that can standardise its features: to mean 0 and standard deviation 1 over the training images.

    It does so once `standardise` has been called. Means and deviations are applied to the weights instead of the
    features, so that no copy of the features is needed. A batch norm would not do, because its statistics are those of
    a single batch, or even of one process's share of it.
    """

    mean: Tensor  # [D]
    deviation: Tensor  # [D]

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("deviation", torch.ones(num_features))

    def standardise(self, features: Tensor) -> None:  # [N, V, D] in main memory
        deviation, mean = torch.std_mean(features.flatten(0, 1).float(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.masked_fill(deviation == 0, 1))  # a constant feature becomes 0

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, num_classes]
        with torch.autocast(features.device.type, enabled=False):  # a line search needs exact losses
            weight = self.weight / self.deviation
            return F.linear(features, weight, self.bias - weight @ self.mean)


class FrozenBackbone(Classification):
    """A classifier that is a linear head on the features of a frozen network.

    Its batches hold features [B, D] in place of images. The frozen network is built only if some features are not yet
    in the cache.

    Raises:
        UserError: timm does not know the network, its weights are missing, or a setting needs the images themselves in
            each epoch.
    """

    net: Head
    settings: FrozenSettings

    def __init__(self, settings: FrozenSettings, info: DatasetInfo) -> None:
        refuse(
            settings,
            OF_IMAGES,
            "features are computed once, of the images as they are; --flips=True adds mirror images",
        )
        size = network_size(settings, info)
        network, shape = outline_network(settings.arch, 0, size)
        if len(shape) != 2:
            raise UserError(f"--arch={settings.arch} gives no vector of features, but {tuple(shape[1:])}: name another")
        num_features = shape[1]
        super().__init__(Head(num_features, len(info.classes)), settings, info)
        self.num_features = num_features
        self.outside_weights = find_weights(settings.arch, settings.pretrained, settings.weights)
        self.frozen = FrozenNetwork(settings.arch, self.outside_weights, size, settings.interpolation, settings.seed)
        self.extractor: FeatureExtractor | None = None  # of images that come in many parts
        self.num_outside_parameters = sum(parameter.numel() for parameter in network.parameters())

    def image_network(self) -> nn.Module:
        return self.frozen.build(self.info, self.net)

    def input_shape(self) -> tuple[int, ...]:
        return (self.num_features,)

    def prepare(
        self, splits: dict[str, Split], accelerator: Accelerator, scratch: Path | None = None
    ) -> dict[str, Split]:
        settings = self.settings
        root = feature_dir(settings.feature_dir)
        extractor = self.extractor or self.extractor_for(splits, accelerator, root)
        description, known = extractor.description(extractor.precision), None
        cache = FeatureCache(root, description, self.num_features)
        if scratch:  # more images will come; else the network need not take memory any longer
            self.extractor = extractor
            cache, known = FeatureCache(scratch, description, self.num_features), cache
        encoded = {}
        for name, split in splits.items():
            flips = (False, True) if settings.flips and name == "train" else (False,)
            copies = [ImagesOf(split, is_mirrored) for is_mirrored in flips]
            features = [
                cached_features(cache, images, extractor, extractor.batch_size, accelerator, known) for images in copies
            ]
            encoded[name] = split._replace(features=torch.stack(features, dim=1))
        if settings.standardise and "train" in encoded:  # without, the head has the means of its own run
            training_features = encoded["train"].features
            assert training_features is not None
            self.net.standardise(training_features)
        return encoded

    def extractor_for(self, splits: dict[str, Split], accelerator: Accelerator, root: Path) -> FeatureExtractor:
        """Return the frozen network on the device, in the precision that suits it.

        Args:
            splits: whose first images tell the precision, where that is not known.
            accelerator: of this process.
            root: folder of the caches, where the precision is noted.
        """
        extractor = FeatureExtractor(self.frozen, accelerator.device, self.settings.feature_batch_size)
        precision: str = self.settings.feature_precision
        if precision == "auto" and accelerator.is_main_process:
            first = splits.get("train", next(iter(splits.values())))
            folder = FeatureCache(root, extractor.description("bf16"), self.num_features).folder
            precision = extractor.sound_precision(ImagesOf(first), folder / "deviation")
        [extractor.precision] = broadcast_object_list([precision])
        return extractor


@dataclass(frozen=True)
class ImagesOf:
    """The images of a split, or their mirror images, some at a time."""

    split: Split
    is_mirrored: bool = False

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: Tensor) -> Tensor:
        images = self.split.gather(index)
        return images.flip(-1) if self.is_mirrored else images


class LogisticProbe(FrozenBackbone):
    """A logistic regression on the features of a frozen network, solved for a weaker penalty in each epoch.

    Raises:
        UserError: as for `FrozenBackbone`, or a setting is given that only training by gradient steps uses.
    """

    settings: LogisticProbeSettings

    def __init__(self, settings: LogisticProbeSettings, info: DatasetInfo) -> None:
        refuse(settings, OF_GRADIENTS, "L-BFGS minimises one loss to the end; --l2 is its penalty")
        if settings.mixed_precision == "fp16":
            raise UserError("--mixed_precision=fp16 scales gradients, which a line search cannot bear: leave it out")
        super().__init__(settings, info)

    def phases(self) -> tuple[Phase, ...]:
        optimizer = FreshLBFGS(self.net.parameters(), self.settings.lr, self.settings.max_iterations)
        return (Phase("fit", optimizer, searches=True),)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        strength = self.settings.l2 * self.settings.l2_ratio ** int(self.epoch)
        terms = super().forward(batch, phase)
        penalty = strength / 2 * self.net.weight.square().sum()
        cross_entropy = terms.pop("loss")
        loss = {"loss": cross_entropy + penalty, "cross_entropy": cross_entropy}
        return {**loss, **terms, "l2": penalty.new_tensor(strength)}
