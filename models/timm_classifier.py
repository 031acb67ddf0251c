"""Any classifier of timm, from pretrained weights or from scratch; its first stages may be frozen."""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from data.dataset import DatasetInfo
from data.errors import UserError
from models.core.objective import Phase
from models.core.optimization import build_optimizer
from models.core.settings import Count, NonNegative, PositiveFloat, PositiveInt, Range
from models.parts.backbone import (
    BackboneSettings,
    Preprocess,
    TimmNet,
    build_network,
    network_size,
)
from models.parts.classification import Classification
from models.parts.pretrained_weights import find_weights, pretrained_config


@dataclass(frozen=True, kw_only=True)
class TimmSettings(BackboneSettings):
    """Any classifier of timm, from pretrained weights or from scratch."""

    layer_decay: Annotated[float, Range(0, 1, low_excluded=True)] = 1.0
    """Learning rate of each layer as a share of that of the layer above, https://arxiv.org/abs/2106.08254; 1 for the
    same learning rate in all layers."""
    frozen_stages: Count = 0
    """Number of stages, counted from the stem upwards, that keep their weights and running statistics."""
    drop_rate: Annotated[float, Range(0, 0.95)] = 0.0
    """Dropout before the classifier, and within networks in which timm uses it there, too; 0 for timm's default."""
    drop_path_rate: Annotated[float, Range(0, 0.95)] = 0.0
    """Stochastic depth, https://arxiv.org/abs/1603.09382: the share of images for which the last block is skipped,
    less for those below, in timm's networks that have it; 0 for timm's own default."""
    stem: Literal["own", "small"] = "own"
    """Stem of the network. own: as in timm; small: for a ResNet on small images, a 3x3 convolution of stride 1 in place
    of the 7x7 one, and no max pooling."""
    stem_init: Literal["random", "centre"] = "random"
    """Initial weights of a small stem. random: random ones; centre: the central 3x3 weights of the network's own 7x7
    convolution."""


@dataclass(frozen=True, kw_only=True)
class ResNet18PretrainedSettings(TimmSettings):
    """ResNet-18 with weights pretrained on ImageNet and a stem for small images; all layers are trained."""

    arch: str = "resnet18.tv_in1k"
    epochs: PositiveInt = 3
    lr: PositiveFloat = 3.3e-4
    stem: Literal["own", "small"] = "small"


@dataclass(frozen=True, kw_only=True)
class VitB16FinetuneSettings(TimmSettings):
    """ViT-B/16 with pretrained weights; all layers are trained, the lower ones at lower learning rates."""

    arch: str = "vit_base_patch16_224"
    input_size: Count = 224
    epochs: PositiveInt = 3
    lr: PositiveFloat = 2e-4
    layer_decay: Annotated[float, Range(0, 1, low_excluded=True)] = 0.75
    optimizer: str = "adamw"
    weight_decay: NonNegative = 0.05
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    warmup_epochs: NonNegative = 0.2
    grad_clip: NonNegative = 1.0


class TimmClassification(Classification):
    """A classifier of timm whose first stages may be frozen."""

    net: TimmNet
    settings: TimmSettings

    def __init__(self, net: TimmNet, settings: TimmSettings, info: DatasetInfo) -> None:
        super().__init__(net, settings, info, prefers_channels_last=True)
        freeze(net.backbone, settings.frozen_stages)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("classify", build_optimizer(layer_groups(self.net.backbone, self.settings), self.settings)),)

    def train(self, mode: bool = True) -> "TimmClassification":
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()  # keeps the running statistics of a frozen batch norm unchanged
        return self


def layer_groups(backbone: nn.Module, settings: TimmSettings) -> list[dict]:
    """Return the trainable parameters in groups by layer, each with its learning rate and weight decay."""
    from timm.optim import param_groups_layer_decay

    no_decay = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()  # type: ignore[operator]
    groups = param_groups_layer_decay(
        backbone, settings.weight_decay, no_weight_decay_list=no_decay, layer_decay=settings.layer_decay
    )
    return [
        {"params": group["params"], "lr_scale": group["lr_scale"], "weight_decay": group["weight_decay"]}
        for group in groups
    ]


def freeze(backbone: nn.Module, num_stages: int) -> None:
    """Freeze the first stages of a network; the stem counts as the first stage.

    Raises:
        UserError: the network has fewer stages below its head, or timm does not divide it into stages.
    """
    if not num_stages:
        return
    from timm.models import group_parameters

    try:
        stage_of = group_parameters(backbone, backbone.group_matcher(coarse=True), reverse=True)  # type: ignore[operator]
    except (AssertionError, AttributeError):
        raise UserError(
            f"--frozen_stages={num_stages}: timm divides no {type(backbone).__name__} into stages"
        ) from None
    order = sorted(set(stage_of.values()))  # the head is the last
    if num_stages >= len(order):
        raise UserError(f"--frozen_stages={num_stages}: there are {len(order) - 1} below the head")
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(order.index(stage_of[name]) >= num_stages)


def shrink_stem(backbone: nn.Module, init: str) -> None:
    """Replace the first convolution of a ResNet by a 3x3 one of stride 1, and remove the max pooling after it.

    Args:
        backbone: a network whose `conv1` is a 7x7 convolution, with its weights loaded.
        init: "random", or "centre" for the central 3x3 weights of that convolution.

    Raises:
        UserError: the network does not begin with a 7x7 convolution.
    """
    large = getattr(backbone, "conv1", None)
    if not isinstance(large, nn.Conv2d) or large.kernel_size != (7, 7) or not hasattr(backbone, "maxpool"):
        raise UserError(f"--stem=small: {type(backbone).__name__} does not begin with a 7x7 convolution: leave it out")
    small = nn.Conv2d(large.in_channels, large.out_channels, 3, padding=1, bias=large.bias is not None)
    if init == "centre":
        small.load_state_dict({**large.state_dict(), "weight": large.weight[:, :, 2:5, 2:5]})
    backbone.conv1, backbone.maxpool = small, nn.Identity()


def build(settings: TimmSettings, info: DatasetInfo) -> TimmClassification:
    """Build the classifier that `settings` describe.

    Raises:
        UserError: timm does not know the network, its weights are missing or do not fit, or settings do not go
            together.
    """
    if settings.stem == "own" and settings.stem_init == "centre":
        raise UserError("--stem_init=centre is of no use to --stem=own, whose weights are whole: give --stem=small")
    if settings.stem == "small" and settings.stem_init == "random" and settings.frozen_stages:
        raise UserError(f"--frozen_stages={settings.frozen_stages} would freeze a random stem: give --stem_init=centre")
    config = pretrained_config(settings.arch)
    size = network_size(settings, info)
    rates = {"drop_rate": settings.drop_rate, "drop_path_rate": settings.drop_path_rate}
    rates = {name: rate for name, rate in rates.items() if rate}
    weights = find_weights(settings.arch, settings.pretrained, settings.weights)
    backbone = build_network(settings.arch, len(info.classes), size, weights, rates)
    if settings.stem == "small":
        shrink_stem(backbone, settings.stem_init)
    prepare = Preprocess(info, config.mean, config.std, settings.input_size, settings.interpolation)
    return TimmClassification(TimmNet(prepare, backbone), settings, info)
