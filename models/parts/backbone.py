"""Networks of timm: building them, and preparing images as they expect them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import DatasetInfo
from data.errors import UserError, in_one_line, is_of_the_machine
from data.visible import warn
from models.core.settings import Count
from models.parts.classification import ClassifierSettings
from models.parts.pretrained_weights import misfits, num_classes_of, pretrained_config, read_weights
from models.parts.timm_attention import missing_attention, timm_attention_weights

NO_RATES: Mapping[str, float] = {}


@dataclass(frozen=True, kw_only=True)
class BackboneSettings(ClassifierSettings):
    """The settings of all models that use a network of timm."""

    arch: str = "resnet18"
    """Name of the network in timm (see `timm.list_models()`), with or without a dot and the tag of its weights."""
    pretrained: bool = True
    """Start from pretrained weights; if false, from random ones."""
    weights: str = ""
    """File of pretrained weights, in the format of safetensors or torch. If empty: weights/ARCH.safetensors (or .pth)
    in the folder that an empty data_dir stands for; if there is no such file, the weights are downloaded."""
    input_size: Count = 0
    """Side in pixels to which images are resized, with antialiasing; 0 for no resizing."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation by which images are resized."""


class Preprocess(nn.Module):
    """A layer that turns images of a dataset into images as a pretrained network expects them.

    It changes the normalisation first and the size second. The other order would give the same images, but take longer
    if they are enlarged. Bicubic interpolation overshoots at edges; such pixels are set back to black or full white, as
    they were in the images that the network was pretrained on.

    Args:
        info: the dataset's facts, for the normalisation of the images that come in.
        mean, std: the network's normalisation, one number a channel, of pixel values in [0, 1].
        size: side in pixels of the images that go out; 0 for no resizing.
        interpolation: "bilinear" or "bicubic".
    """

    scale: Tensor
    shift: Tensor
    black: Tensor
    white: Tensor

    def __init__(
        self, info: DatasetInfo, mean: tuple[float, ...], std: tuple[float, ...], size: int, interpolation: str
    ) -> None:
        super().__init__()
        own_mean, own_std, mean_wanted, std_wanted = (
            torch.tensor(values).view(3, 1, 1) for values in (info.mean, info.std, mean, std)
        )
        self.register_buffer("scale", own_std / std_wanted, persistent=False)
        self.register_buffer("shift", (own_mean - mean_wanted) / std_wanted, persistent=False)
        self.register_buffer("black", -mean_wanted / std_wanted, persistent=False)
        self.register_buffer("white", (1 - mean_wanted) / std_wanted, persistent=False)
        self.size = size
        self.interpolation = interpolation

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 3, size, size]
        images = torch.addcmul(self.shift, images, self.scale)
        if self.size in (0, images.shape[-1]):
            return images
        images = F.interpolate(images, size=self.size, mode=self.interpolation, antialias=True)
        return images if self.interpolation == "bilinear" else images.clamp(self.black, self.white)


class TimmNet(nn.Module):
    """A network of timm, preceded by the resizing and normalisation that it expects.

    Args:
        prepare: the layer that resizes and normalises the images.
        backbone: the network; it has its own head unless `head` is given.
        head: module from the pooled features of a backbone without a head to logits.
    """

    def __init__(self, prepare: Preprocess, backbone: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.prepare = prepare
        self.backbone = backbone
        self.head = head or nn.Identity()
        if not missing_attention(backbone):
            self.num_prefix_tokens: int = backbone.num_prefix_tokens  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, num_classes]
        return self.head(self.backbone(self.prepare(images)))

    def attention_weights(self, images: Tensor) -> list[Tensor]:
        """Return the attention weights of each layer, lowest first: [B, 3, H, W] -> one [B, heads, T, T] a layer.

        Raises:
            UserError: the network is of a kind whose attention weights cannot be read out.
        """
        return timm_attention_weights(self.backbone, self.prepare(images))


def network_size(settings: BackboneSettings, info: DatasetInfo) -> int:
    """Return the side in pixels of the images that the network gets; say so if they lose detail on the way to it."""
    size = settings.input_size or info.image_size
    if info.is_reduced and info.image_size < size:
        warn(
            f"{info.name}: images are reduced to {info.image_size} pixels and then enlarged to {size} for "
            f"{settings.arch}: --image_size={size} keeps their detail"
        )
    return size


def build_network(
    arch: str, num_classes: int, input_size: int, weights: Path | None, rates: Mapping[str, float] = NO_RATES
) -> nn.Module:
    """Build a network of timm and load its weights.

    Args:
        arch: timm's name of the network.
        num_classes: classes of its head; if the pretrained head has another number, it is replaced by a random one. 0
            for a network without a head, whose outputs are the pooled features.
        input_size: side in pixels of the images that the network will get.
        weights: file of pretrained weights; None for random ones.
        rates: of what is dropped at random in training, by timm's names of them.

    Raises:
        UserError: the weights do not fit, the network cannot be built for images of this size, it has no classifier
            although one is wanted, or it knows no such rate.
    """
    import timm

    _, shape = outline_network(arch, num_classes, input_size, rates)
    if num_classes and shape != (1, num_classes):
        raise UserError(f"--arch={arch} has no classifier, its output for an image is {tuple(shape[1:])}: name another")
    config = pretrained_config(arch)
    own = {**size_options(config, input_size), **rates}
    if weights is None:
        return timm.create_model(arch, num_classes=num_classes, **own)
    state = read_weights(weights)
    num_pretrained = num_classes_of(state, config)
    source = {"state_dict": state, "num_classes": num_pretrained, "custom_load": False}
    try:
        net = timm.create_model(arch, True, pretrained_cfg_overlay=source, num_classes=num_pretrained, **own)
    except Exception as error:  # timm's code that converts the weights may fail in any way, before torch checks them
        if is_of_the_machine(error):
            raise
        raise UserError(f"{weights} does not fit --arch={arch}: {misfits(error)}") from None
    if num_classes != num_pretrained:
        net.reset_classifier(num_classes)
    return net


def outline_network(
    arch: str, num_classes: int, input_size: int, rates: Mapping[str, float] = NO_RATES
) -> tuple[nn.Module, torch.Size]:
    """Return a network of timm without any values in its weights, and the shape of its output for one image.

    The shape is empty if the output is no tensor, but several of them.

    Raises:
        UserError: the network cannot be built for images of this size, or knows no such rate.
    """
    import timm

    options = {"num_classes": num_classes, **size_options(pretrained_config(arch), input_size), **rates}
    try:
        with torch.device("meta"), torch.no_grad():
            net = timm.create_model(arch, **options).eval()
            output = net(torch.empty(1, 3, input_size, input_size))
            return net, output.shape if isinstance(output, Tensor) else torch.Size()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        for name, rate in rates.items():
            if isinstance(error, TypeError) and f"'{name}'" in str(error):
                raise UserError(f"--{name}={rate:g}: timm's {arch} does not take it: leave it out") from None
        reason = in_one_line(error)
        raise UserError(
            f"--arch={arch} cannot be built for {input_size}-pixel images ({reason}): set --input_size"
        ) from None


def size_options(config: Any, input_size: int) -> dict[str, int]:
    """Return the extra option of networks that are built for one image size; timm then fits the weights to it."""
    return {"img_size": input_size} if config.fixed_input_size else {}
