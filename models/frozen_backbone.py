"""A frozen network of timm and a new linear head on its features, which are computed once and kept.

The head is trained by gradient steps (`frozen`), or as a logistic regression solved to the end for one strength of its
penalty after the other (`logistic_probe`).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.record.run_folder import replace_file
from data.dataset import Batch, DatasetInfo, Split
from data.errors import UserError
from data.feature_cache import DTYPES, FeatureCache, cached_features
from data.paths import cache_dir
from data.seeding import seed_everything
from models.core.objective import Phase
from models.core.optimization import FreshLBFGS
from models.core.settings import Count, Fraction, PositiveFloat, PositiveInt, Range
from models.parts.backbone import (
    BackboneSettings,
    Preprocess,
    TimmNet,
    build_network,
    find_weights,
    identity,
    outline_network,
    pretrained_config,
)
from models.parts.classification import Classification

OF_IMAGES = ("augmentation", "cutout", "cutmix")  # settings that need the images in every epoch
BATCH_SIZES = {"cpu": 16}  # images whose features are computed at once: their activations fit in the cache
BATCH_SIZE = 256  # on the others
OF_GRADIENTS = ("optimizer", "momentum", "weight_decay", "schedule", "warmup_epochs", "grad_clip", "mixup", "ema_decay")
NUM_COMPARED = 32  # images by which bf16 is held against fp32
LARGEST_DEVIATION = 0.05  # of the features' spread


@dataclass(frozen=True, kw_only=True)
class FrozenSettings(BackboneSettings):
    """A frozen network of timm and a new linear head; the features of each image are computed once and kept."""

    arch: str = "tf_efficientnet_lite0"
    epochs: PositiveInt = 45
    lr: PositiveFloat = 3.08e-4
    input_size: Count = 224
    flips: bool = False
    """Train on mirrored copies of the images, too: twice the features."""
    standardise: bool = False
    """Scale every feature to mean 0 and deviation 1 over the training images."""
    feature_precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the frozen network and of the features kept; auto: bf16 where the processor has it and the
    features of some images deviate from fp32's by at most 5 % of their spread."""
    feature_batch_size: Count = 0
    """Images whose features a process computes at once; 0 for 16 on a CPU and 256 elsewhere."""
    feature_dir: str = ""
    """Folder of the kept features; empty: vision-sweeps/features in the user's cache folder."""


@dataclass(frozen=True, kw_only=True)
class VitB16FrozenSettings(FrozenSettings):
    """ViT-B/16, frozen, and a new linear head; the features of each image are computed once and kept."""

    arch: str = "vit_base_patch16_224"


@dataclass(frozen=True, kw_only=True)
class LogisticProbeSettings(FrozenSettings):
    """A frozen network of timm and a logistic regression, solved by L-BFGS for a weaker penalty in every epoch."""

    batch_size: Annotated[int, Range(0, 0)] = 0
    """All training images at once."""
    epochs: PositiveInt = 11
    """Strengths of the penalty; the best epoch is the one of the best strength."""
    patience: Count = 2
    lr: PositiveFloat = 1.0
    """Step that the line search tries first."""
    standardise: bool = True
    l2: PositiveFloat = 0.1
    """Strength of the first epoch's penalty: it adds l2 / 2 times the squared weights to the mean cross-entropy."""
    l2_ratio: Fraction = 0.3162
    """Strength of each epoch's penalty over that of the epoch before."""
    max_iterations: PositiveInt = 200
    """Iterations of L-BFGS at one strength; it starts from the solution of the strength before."""


def refuse(settings: FrozenSettings, names: tuple[str, ...], reason: str) -> None:
    """Refuse settings that would change nothing.

    Raises:
        UserError: one of these names has another value than its default.
    """
    defaults = {field.name: field.default for field in fields(settings)}
    for name in names:
        if getattr(settings, name) != defaults[name]:
            raise UserError(f"--{name}={getattr(settings, name)} is of no use here: {reason}")


class Head(nn.Linear):
    """A linear head on features that are taken to mean 0 and deviation 1 over the images it was fitted to, if to any.

    The standardisation is folded into the weights of each pass, which spares it a copy of the features. It is no batch
    norm, whose figures would be those of a batch, and of one process's share of it.
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
        self.deviation.copy_(deviation.masked_fill(deviation == 0, 1))  # a constant feature counts for nothing

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, num_classes]
        with torch.autocast(features.device.type, enabled=False):  # a line search needs exact losses
            weight = self.weight / self.deviation
            return F.linear(features, weight, self.bias - weight @ self.mean)


def frozen_network(
    settings: FrozenSettings, info: DatasetInfo, input_size: int, weights: Path | None, head: nn.Module | None = None
) -> TimmNet:
    """The frozen network, of images as `info` normalises them: to features, or to logits where it is given a head."""
    seed_everything(settings.seed)  # of random weights
    config = pretrained_config(settings.arch)
    prepare = Preprocess(info, config.mean, config.std, input_size, settings.interpolation)
    return TimmNet(prepare, build_network(settings.arch, 0, input_size, weights), head).eval()


class FrozenBackbone(Classification):
    """Cross-entropy of a linear head on the features of a frozen network.

    Its batches hold features [B, D]; the network itself is built only where features are missing.

    Raises:
        UserError: unknown network, missing weights, or a setting that would need the images in every epoch.
    """

    net: Head

    def __init__(self, settings: FrozenSettings, info: DatasetInfo) -> None:
        refuse(
            settings,
            OF_IMAGES,
            "features are computed once, of the images as they are; --flips=True adds mirror images",
        )
        size = settings.input_size or info.image_size
        network, shape = outline_network(settings.arch, 0, size)
        if len(shape) != 2:
            raise UserError(f"--arch={settings.arch} gives no vector of features, but {tuple(shape[1:])}: name another")
        num_features = shape[1]
        super().__init__(Head(num_features, len(info.classes)), settings, info)
        self.input_size = size
        self.num_features = num_features
        self.weights = find_weights(settings)
        self.num_outside_parameters = sum(parameter.numel() for parameter in network.parameters())

    def image_network(self) -> nn.Module:
        settings = self.settings
        assert isinstance(settings, FrozenSettings)
        return frozen_network(settings, self.info, self.input_size, self.weights, self.net)

    def input_shape(self, info: DatasetInfo) -> tuple[int, ...]:
        return (self.num_features,)

    def prepare(self, splits: dict[str, Split], info: DatasetInfo, accelerator: Accelerator) -> dict[str, Split]:
        settings = self.settings
        assert isinstance(settings, FrozenSettings)
        root = Path(settings.feature_dir).expanduser() if settings.feature_dir else cache_dir() / "features"
        extractor = Extractor(settings, self.input_size, self.weights, accelerator.device)
        caches = {
            precision: FeatureCache(root, extractor.description(precision), self.num_features) for precision in DTYPES
        }
        precision: str = settings.feature_precision
        if precision == "auto" and accelerator.is_main_process:
            precision = extractor.sound_precision(splits["train"].images, caches["bf16"].folder / "deviation")
        [extractor.precision] = broadcast_object_list([precision])
        cache = caches[extractor.precision]
        encoded = {}
        for name, split in splits.items():
            copies = [split.images, split.images.flip(-1)] if settings.flips and name == "train" else [split.images]
            features = [
                cached_features(cache, images, extractor, extractor.batch_size, accelerator) for images in copies
            ]
            encoded[name] = split._replace(features=torch.stack(features, dim=1))
        if settings.standardise:
            training_features = encoded["train"].features
            assert training_features is not None
            self.net.standardise(training_features)
        return encoded


class Extractor:
    """A frozen network as a function of images: [B, 3, H, W] uint8 to features [B, D] on the device."""

    def __init__(self, settings: FrozenSettings, input_size: int, weights: Path | None, device: torch.device) -> None:
        self.settings = settings
        self.input_size = input_size
        self.weights = weights
        self.device = device
        self.batch_size = settings.feature_batch_size or BATCH_SIZES.get(device.type, BATCH_SIZE)
        self.precision = "fp32"

    def description(self, precision: str) -> dict[str, object]:
        """All that the features of an image depend on."""
        config = pretrained_config(self.settings.arch)
        return {
            "arch": self.settings.arch,
            "weights": self.identity,
            "input_size": self.input_size,
            "interpolation": f"{self.settings.interpolation}, antialiased",
            "mean": config.mean,
            "std": config.std,
            "precision": precision,
            "timm": version("timm"),
        }

    @cached_property
    def identity(self) -> str:
        """What the network's weights are; a large file takes a second to hash."""
        return identity(self.settings, self.weights)

    @cached_property
    def network(self) -> TimmNet:
        """The network on the device, built when it is first needed."""
        pixels = DatasetInfo("pixels", 0, (), (0.0,) * 3, (1 / 255,) * 3, {}, "")
        net = frozen_network(self.settings, pixels, self.input_size, self.weights)
        return net.to(self.device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device).float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(images)

    def sound_precision(self, images: Tensor, note: Path) -> str:
        """bf16 where the device computes in it and it agrees with fp32 on the first of these images, else fp32.

        Args:
            images: [N, 3, H, W] uint8.
            note: file that keeps the deviation between the two, so that it is measured once.
        """
        if not has_fast_bf16(self.device):
            return "fp32"
        with FileLock(f"{note}.lock"):  # one process measures
            if not note.exists():
                features = {}
                for self.precision in ("bf16", "fp32"):
                    features[self.precision] = self(images[:NUM_COMPARED]).float()
                rounded, exact = features["bf16"], features["fp32"]
                measured = ((rounded - exact).norm() / (exact - exact.mean(dim=0)).norm()).item()
                replace_file(note, lambda unfinished: unfinished.write_text(f"{measured:.4f}"))
        deviation = float(note.read_text())
        chosen = "bf16" if deviation <= LARGEST_DEVIATION else "fp32"
        print(f"features in bf16 deviate from fp32 by {deviation:.1%} of their spread: taking {chosen}")
        return chosen


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 itself."""
    checks: dict[str, Callable[[], bool]] = {
        "cpu": lambda: torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
    }
    return checks.get(device.type, lambda: False)()


class LogisticProbe(FrozenBackbone):
    """Logistic regression on the features of a frozen network, a weaker penalty in every epoch.

    Raises:
        UserError: as for `FrozenBackbone`, or a setting of gradient steps, of which L-BFGS takes none.
    """

    def __init__(self, settings: LogisticProbeSettings, info: DatasetInfo) -> None:
        refuse(settings, OF_GRADIENTS, "L-BFGS minimises one loss to the end; --l2 is its penalty")
        if settings.mixed_precision == "fp16":
            raise UserError("--mixed_precision=fp16 scales gradients, which a line search cannot bear: leave it out")
        super().__init__(settings, info)

    def phases(self) -> tuple[Phase, ...]:
        assert isinstance(self.settings, LogisticProbeSettings)
        optimizer = FreshLBFGS(self.net.parameters(), self.settings.lr, self.settings.max_iterations)
        return (Phase("fit", optimizer, searches=True),)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert isinstance(self.settings, LogisticProbeSettings)
        strength = self.settings.l2 * self.settings.l2_ratio ** int(self.epoch)
        terms = super().forward(batch, phase)
        penalty = strength / 2 * self.net.weight.square().sum()
        return {
            "loss": terms["loss"] + penalty,
            "cross_entropy": terms["loss"],
            "accuracy": terms["accuracy"],
            "l2": penalty.new_tensor(strength),
        }


def build(settings: FrozenSettings, info: DatasetInfo) -> FrozenBackbone:
    """The classifier that `settings` describe."""
    return FrozenBackbone(settings, info)


def build_probe(settings: LogisticProbeSettings, info: DatasetInfo) -> LogisticProbe:
    """The logistic regression that `settings` describe."""
    return LogisticProbe(settings, info)
