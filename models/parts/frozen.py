"""A frozen network of timm as a function from images to features."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from data.dataset import DatasetInfo
from data.files import replace_file
from data.internals import cpu_has_bf16
from data.seeding import seed_everything
from models.parts.backbone import Preprocess, TimmNet, build_network, identity, pretrained_config

PIXELS = DatasetInfo("pixels", 0, (), (0.0,) * 3, (1 / 255,) * 3, {}, "")  # of images as they are, in 0 .. 255
BATCH_SIZES = {"cpu": 16}  # images whose features are computed at once: their activations fit in the cache
BATCH_SIZE = 256  # on other devices
NUM_COMPARED = 32  # images on which bf16 is compared with fp32
LARGEST_DEVIATION = 0.05  # between the two, of the features' spread


@dataclass(frozen=True)
class FrozenNetwork:
    """Which network is frozen, and how it is fed.

    Attributes:
        arch: timm's name of it.
        weights: file of its weights; None for random ones.
        input_size: side in pixels that images are resized to.
        interpolation: "bilinear" or "bicubic".
        seed: of random weights.
    """

    arch: str
    weights: Path | None
    input_size: int
    interpolation: str = "bilinear"
    seed: int = 0

    def build(self, info: DatasetInfo, head: nn.Module | None = None) -> TimmNet:
        """Return the network, from images as `info` normalises them to features, or to what `head` makes of those."""
        seed_everything(self.seed)
        config = pretrained_config(self.arch)
        prepare = Preprocess(info, config.mean, config.std, self.input_size, self.interpolation)
        return TimmNet(prepare, build_network(self.arch, 0, self.input_size, self.weights), head).eval()


@dataclass
class Extractor:
    """A frozen network on a device: [B, 3, H, W] uint8 images to features [B, D].

    Attributes:
        frozen: the network.
        device: where it runs.
        batch_size: images at once; 0 for 16 on a CPU and 256 elsewhere.
        precision: "bf16" or "fp32", of the arithmetic.
    """

    frozen: FrozenNetwork
    device: torch.device
    batch_size: int = 0
    precision: str = field(default="fp32", init=False)

    def __post_init__(self) -> None:
        self.batch_size = self.batch_size or BATCH_SIZES.get(self.device.type, BATCH_SIZE)

    def description(self, precision: str) -> dict[str, object]:
        """Return all that the features of an image depend on."""
        config = pretrained_config(self.frozen.arch)
        return {
            "arch": self.frozen.arch,
            "weights": self.identity,
            "input_size": self.frozen.input_size,
            "interpolation": f"{self.frozen.interpolation}, antialiased",
            "mean": config.mean,
            "std": config.std,
            "precision": precision,
            "timm": version("timm"),
        }

    @cached_property
    def identity(self) -> str:
        """What the network's weights are; a large file takes a second to hash."""
        return identity(self.frozen.weights, self.frozen.seed)

    @cached_property
    def network(self) -> TimmNet:
        """The network on the device, built when it is first needed."""
        return self.frozen.build(PIXELS).to(self.device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device).float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(images)

    def sound_precision(self, images: Tensor, note: Path) -> str:
        """Return bf16 where the device computes in it and it agrees with fp32 on the first images, else fp32.

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
    """Return whether a device computes in bf16 itself."""
    checks: dict[str, Callable[[], bool]] = {
        "cpu": cpu_has_bf16,
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
    }
    return checks.get(device.type, lambda: False)()
