"""Networks whose features compare samples with real images: the Inception network of FID, or any network of timm."""

import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torch.nn import functional as F

from data import servers
from data.errors import UserError, in_one_line
from data.files import locked
from data.paths import default_data_dir
from models.parts.backbone import outline_network
from models.parts.feature_extractor import BATCH_SIZE, BATCH_SIZES, FeatureExtractor, FrozenNetwork
from models.parts.pretrained_weights import pretrained_config, pretrained_weights, read_weights

INCEPTION = "inception"
# The network of 2015 by which FID and Inception Score are defined, translated to TorchScript; with and without classes.
INCEPTION_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
INCEPTION_FILES = (Path(urlsplit(INCEPTION_URL).path).name, "fid_inception_v3.pt")
INCEPTION_SIDE = 299  # pixels
# TorchScript runs as code, so only files with one of these contents are loaded: sha256 of NVIDIA's file, and of the
# same layers and weights without the classes.
INCEPTION_SHA256 = (
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
)
TRUSTED = "VISION_SWEEPS_INCEPTION_SHA256"  # environment variable: sha256 of another file that may be loaded


class Extractor(Protocol):
    """A network by whose features images are compared."""

    name: str  # in the names of the metrics
    num_features: int
    batch_size: int  # images at once

    def description(self) -> dict[str, object]:
        """Return all that the features of an image depend on; "arch" and "precision" are among it."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return features [B, D] float32, on the extractor's device, of images [B, 3, H, W] uint8 on any device."""

    def classify(self, features: Tensor) -> Tensor | None:
        """Return class probabilities [N, K] of features [N, D]; None where the network knows no classes."""


class Inception:
    """The network of FID, in fp32, with the resizing that it was published with.

    Args:
        path: TorchScript that has, itself or in `net`, `layers`, from [B, 3, 299, 299] in [-1, 1) to 2,048 features,
            and perhaps `output`, the linear layer of the classes.
        device: where it runs.

    Raises:
        UserError: the file is not one that is known, see `read_trusted`, or no such network.
    """

    name = INCEPTION
    num_features = 2048

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self.device = device
        self.batch_size = BATCH_SIZES.get(device.type, BATCH_SIZE)
        content, self.sha256 = read_trusted(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # nothing else reads TorchScript
                loaded: Any = torch.jit.load(io.BytesIO(content), map_location=device).eval()
            loaded = getattr(loaded, "net", loaded)
            self.layers = loaded.layers
        except (RuntimeError, AttributeError) as error:
            reason = in_one_line(error)
            raise UserError(f"{path} is not the Inception of FID ({reason}): fetch {INCEPTION_URL}") from None
        self.output = getattr(loaded, "output", None)

    def description(self) -> dict[str, object]:
        return {"arch": self.name, "weights": self.sha256, "precision": "fp32", "resize": "TensorFlow 1's bilinear"}

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        exact = torch.autocast(self.device.type, enabled=False)
        with exact, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            resized = resize_as_tensorflow(images.to(self.device).float(), INCEPTION_SIDE)
            return self.layers(((resized - 128) / 128).contiguous(memory_format=torch.channels_last)).flatten(1)

    @torch.inference_mode()
    def classify(self, features: Tensor) -> Tensor | None:
        """Return probabilities of ImageNet's 1,008 outputs, without their biases, as Salimans et al. computed them."""
        with torch.autocast(self.device.type, enabled=False):
            return None if self.output is None else F.linear(features, self.output.weight).softmax(dim=1)


def read_trusted(path: Path) -> tuple[bytes, str]:
    """Return the content of a file of TorchScript, which may run any code when it is loaded, and its sha256.

    Raises:
        UserError: the file is none of those that are known, nor the one whose sha256 the environment names.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest not in (*INCEPTION_SHA256, os.environ.get(TRUSTED, "").lower()):
        raise UserError(
            f"{path} is not the Inception of FID (sha256 {digest}) and could run any code: fetch {INCEPTION_URL}; "
            f"if you trust this file all the same, set {TRUSTED} to its sha256"
        )
    return content, digest


def resize_as_tensorflow(images: Tensor, side: int) -> Tensor:
    """Return images [B, 3, H, W] resized to [B, 3, side, side] as by TensorFlow 1: bilinearly, pixels being points.

    Any other resizing changes the features of the standard network, and FID: https://arxiv.org/abs/2104.11222.
    """
    rows, columns = (interpolation(size, side).to(images.device) for size in images.shape[2:])
    return rows @ images @ columns.T


def interpolation(size: int, new_size: int) -> Tensor:
    """Return the weights [new_size, size] of the old points in each new one."""
    places = torch.arange(new_size) * (size / new_size)
    low = places.long()
    weights = torch.zeros(new_size, size)
    for index, weight in ((low, 1 - places + low), ((low + 1).clamp(max=size - 1), places - low)):
        weights.scatter_add_(1, index.unsqueeze(1), weight.unsqueeze(1))
    return weights


def find_inception() -> Path:
    """Return the file of the network of FID, downloaded where it is not on this machine.

    Raises:
        UserError: it cannot be downloaded.
    """
    folders = (default_data_dir(), default_data_dir() / "weights")
    for path in (folder / name for name in INCEPTION_FILES for folder in folders):
        if path.is_file():
            return path
    path = folders[1] / INCEPTION_FILES[0]
    reason = servers.unreachable(INCEPTION_URL)
    if not reason:
        try:
            with locked(path.with_name(f".{path.name}.lock"), f"another process downloads {path.name}: waiting for it"):
                if not path.is_file():
                    for leftover in path.parent.glob(f"{path.name}.*.partial"):  # of a download that was killed
                        leftover.unlink()
                    # Under another name until it is whole, and only if it has this sha256.
                    torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=INCEPTION_SHA256[0])
        except Exception as error:  # of urllib, http and torch
            reason = in_one_line(error)
    if reason:
        raise UserError(
            f"the Inception of FID could not be downloaded ({reason}): fetch {INCEPTION_URL} elsewhere and put it at "
            f"{path}, or give a network of timm as --extractor"
        )
    return path


class TimmExtractor:
    """A network of timm with its pretrained weights, in fp32, at the image size that they were trained for.

    Args:
        arch: timm's name of it.
        device: where it runs.

    Raises:
        UserError: timm does not know it, its features are no vector, or its weights cannot be had.
    """

    def __init__(self, arch: str, device: torch.device) -> None:
        self.name = arch
        config = pretrained_config(arch, "--extractor")
        size = config.input_size[-1]
        _, shape = outline_network(arch, 0, size)
        if len(shape) != 2:
            raise UserError(f"{arch} gives no vector of features, but {tuple(shape[1:])}: name another extractor")
        self.num_features = shape[1]
        weights = pretrained_weights(arch, "--extractor", "")
        self.frozen = FeatureExtractor(FrozenNetwork(arch, weights, size), device)
        self.batch_size = self.frozen.batch_size
        state = read_weights(weights)
        # The weights of a head that is one linear layer on the features; other heads are not known here.
        parts = [state.get(f"{config.classifier}.{part}") for part in ("weight", "bias")]
        self.head = [part.to(device) for part in parts if part is not None]

    def description(self) -> dict[str, object]:
        return self.frozen.description("fp32")

    def __call__(self, images: Tensor) -> Tensor:
        return self.frozen(images)

    @torch.inference_mode()
    def classify(self, features: Tensor) -> Tensor | None:
        with torch.autocast(self.frozen.device.type, enabled=False):
            return F.linear(features, *self.head).softmax(dim=1) if self.head else None


def build_extractor(name: str, device: torch.device) -> Extractor:
    """Return the extractor of that name: "inception", or a network of timm.

    Raises:
        UserError: its weights are not on this machine and cannot be downloaded, or timm does not know it.
    """
    return Inception(find_inception(), device) if name == INCEPTION else TimmExtractor(name, device)
