"""Frozen networks of timm, which turn images into features."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from data.dataset import DatasetInfo
from data.feature_cache import Images
from data.files import locked, replace_file
from data.seeding import weights_drawn_from
from data.visible import percent, say
from models.core.precision import has_fast_bf16
from models.parts.backbone import Preprocess, TimmNet, build_network
from models.parts.pretrained_weights import identity, pretrained_config

PIXELS = DatasetInfo("pixels", 0, (), (0.0,) * 3, (1 / 255,) * 3, {}, "")  # of images with values from 0 to 255
BATCH_SIZES = {"cpu": 16}  # images whose features are computed at once; the activations of 16 fit into a CPU's cache
BATCH_SIZE = 256  # on other devices
NUM_COMPARED = 32  # images on which bf16 is compared with fp32
INTERPOLATIONS = {"bilinear": "bilinear, antialiased", "bicubic": "bicubic, antialiased, clamped"}
LARGEST_DEVIATION = 0.05  # of bf16 features from fp32 features, as a share of the features' spread


@dataclass(frozen=True)
class FrozenNetwork:
    """The description of a frozen network: which one it is, and how images are resized for it.

    Attributes:
        arch: timm's name of the network.
        weights: file of its weights; None for random ones.
        input_size: side in pixels to which images are resized.
        interpolation: "bilinear" or "bicubic".
        seed: of random weights.
    """

    arch: str
    weights: Path | None
    input_size: int
    interpolation: str = "bilinear"
    seed: int = 0

    def build(self, info: DatasetInfo, head: nn.Module | None = None) -> TimmNet:
        """Build the network, in evaluation mode.

        Args:
            info: the dataset's facts, for the normalisation of the images that the network will get.
            head: module from features to outputs; None if the features themselves are the outputs.
        """
        config = pretrained_config(self.arch)
        prepare = Preprocess(info, config.mean, config.std, self.input_size, self.interpolation)
        with weights_drawn_from(self.seed):
            backbone = build_network(self.arch, 0, self.input_size, self.weights)
        return TimmNet(prepare, backbone, head).eval()


@dataclass
class FeatureExtractor:
    """A frozen network on a device; calling it turns uint8 images [B, 3, H, W] into features [B, D].

    Attributes:
        frozen: the description of the network.
        device: where it runs.
        batch_size: images to compute at once; 0 for 16 on a CPU and 256 elsewhere.
        precision: of the arithmetic, "bf16" or "fp32".
    """

    frozen: FrozenNetwork
    device: torch.device
    batch_size: int = 0
    precision: str = field(default="fp32", init=False)

    def __post_init__(self) -> None:
        self.batch_size = self.batch_size or BATCH_SIZES.get(self.device.type, BATCH_SIZE)

    def description(self, precision: str) -> dict[str, object]:
        """Return everything but the image that its features depend on; the features are cached under this."""
        config = pretrained_config(self.frozen.arch)
        return {
            "arch": self.frozen.arch,
            "weights": self.identity,
            "input_size": self.frozen.input_size,
            "interpolation": INTERPOLATIONS[self.frozen.interpolation],
            "mean": config.mean,
            "std": config.std,
            "precision": precision,
            "timm": version("timm"),
        }

    @cached_property
    def identity(self) -> str:
        """Return a text that identifies the network's weights; to hash a large file takes a second."""
        return identity(self.frozen.weights, self.frozen.seed)

    @cached_property
    def network(self) -> TimmNet:
        """Return the network, on the device; it is built when it is first needed."""
        return self.frozen.build(PIXELS).to(self.device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device).float().contiguous(memory_format=torch.channels_last)
        with self.arithmetic():
            return self.network(images)

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Compute in the extractor's precision, by the fastest kernels of cuDNN."""
        is_rounded = self.precision == "bf16"  # else not even to TF32, which is cuDNN's default
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=is_rounded)
        with autocast, torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=is_rounded):
            yield

    def sound_precision(self, images: Images, note: Path) -> str:
        """Return "bf16" if the device computes in bf16 and its features are close to those in fp32, else "fp32".

        Args:
            images: features of the first ones are compared.
            note: file in which the deviation is kept, so that it is measured only once.
        """
        if not has_fast_bf16(self.device):
            return "fp32"
        if not note.exists():  # first without the lock, which a folder that may only be read cannot have
            with locked(Path(f"{note}.lock"), f"another process measures {note.parent.name}: waiting for it"):
                if not note.exists():
                    measured = self.measure_deviation(images[torch.arange(min(NUM_COMPARED, len(images)))])
                    if not math.isfinite(measured):  # the images are all alike: the next ones may tell more
                        return "fp32"
                    replace_file(note, lambda unfinished: unfinished.write_text(f"{measured:.4f}", "utf-8"))
        deviation = float(note.read_text(encoding="utf-8"))
        chosen = "bf16" if deviation <= LARGEST_DEVIATION else "fp32"
        say(f"features in bf16 deviate from fp32 by {percent(deviation)} of their spread: taking {chosen}")
        return chosen

    def measure_deviation(self, images: Tensor) -> float:
        """Return by how much the features of images in bf16 deviate from those in fp32, as a share of their spread."""
        features = {}
        for self.precision in ("bf16", "fp32"):
            features[self.precision] = self(images).float()
        rounded, exact = features["bf16"], features["fp32"]
        return ((rounded - exact).norm() / (exact - exact.mean(dim=0)).norm()).item()
