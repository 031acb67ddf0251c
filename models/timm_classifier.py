"""Any classifier of timm, from scratch or from pretrained weights, trained whole or from some stage on."""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from data.dataset import DatasetInfo
from data.errors import UserError
from models.core.objective import Phase
from models.core.optimization import build_optimizer
from models.core.settings import Count, NonNegative, PositiveFloat, PositiveInt, Range
from models.parts.backbone import BackboneSettings, Preprocess, TimmNet, build_network, find_weights, pretrained_config
from models.parts.classification import Classification


@dataclass(frozen=True, kw_only=True)
class TimmSettings(BackboneSettings):
    """Any classifier of timm, from pretrained weights or from scratch."""

    layer_decay: Annotated[float, Range(0, 1, low_excluded=True)] = 1.0
    """Factor of the learning rate from each layer to the one below; 1 for the same in all.
    https://arxiv.org/abs/2106.08254"""
    frozen_stages: Count = 0
    """Stages that keep their weights and running statistics, from the stem, which is the first, upwards."""
    stem: Literal["own", "small"] = "own"
    """small, for a ResNet on small images: a 3x3 first convolution of stride 1, and no max-pooling."""
    stem_init: Literal["random", "centre"] = "random"
    """Weights of a small stem: random, or the centre of the network's own 7x7 convolution."""


@dataclass(frozen=True, kw_only=True)
class ResNet18PretrainedSettings(TimmSettings):
    """ResNet-18 from ImageNet weights, with a stem for small images; all layers are trained."""

    arch: str = "resnet18.tv_in1k"
    epochs: PositiveInt = 3
    lr: PositiveFloat = 3.3e-4
    stem: Literal["own", "small"] = "small"


@dataclass(frozen=True, kw_only=True)
class VitB16FinetuneSettings(TimmSettings):
    """ViT-B/16 from pretrained weights, all of it trained, the lower layers more slowly."""

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
    """Cross-entropy of a network of timm, some of whose stages may be frozen."""

    def __init__(self, net: TimmNet, settings: TimmSettings, info: DatasetInfo) -> None:
        super().__init__(net, settings, info, prefers_channels_last=True)
        freeze(net.backbone, settings.frozen_stages)

    def phases(self) -> tuple[Phase, ...]:
        assert isinstance(self.settings, TimmSettings)
        assert isinstance(self.net, TimmNet)
        return (Phase("classify", build_optimizer(layer_groups(self.net.backbone, self.settings), self.settings)),)

    def train(self, mode: bool = True) -> "TimmClassification":
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()  # which keeps the running statistics of a frozen batch norm
        return self


def layer_groups(backbone: nn.Module, settings: TimmSettings) -> list[dict]:
    """Trainable parameters by layer, each with its learning rate and weight decay."""
    from timm.optim import param_groups_layer_decay

    no_decay = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()  # type: ignore[operator]
    groups = param_groups_layer_decay(
        backbone, settings.weight_decay, no_weight_decay_list=no_decay, layer_decay=settings.layer_decay
    )
    return [
        {
            "params": group["params"],
            "lr": settings.lr * group["lr_scale"],
            "weight_decay": group["weight_decay"],
        }
        for group in groups
    ]


def freeze(backbone: nn.Module, num_stages: int) -> None:
    """Freeze the first stages of a network, the stem being the first.

    Raises:
        UserError: there are not so many below the head, or timm does not know the network's stages.
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
    num_below_head = len(set(stage_of.values())) - 1
    if num_stages > num_below_head:
        raise UserError(f"--frozen_stages={num_stages}: there are {num_below_head} below the head")
    order = sorted(set(stage_of.values()))
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(order.index(stage_of[name]) >= num_stages)


def shrink_stem(backbone: nn.Module, init: str) -> None:
    """Give a ResNet a 3x3 first convolution of stride 1, and take its max-pooling away.

    Args:
        backbone: a network whose `conv1` is 7x7, with its weights in place.
        init: "random", or "centre" for the middle 3x3 of those weights.

    Raises:
        UserError: the network's first convolution is another.
    """
    large = getattr(backbone, "conv1", None)
    if not isinstance(large, nn.Conv2d) or large.kernel_size != (7, 7) or not hasattr(backbone, "maxpool"):
        raise UserError(f"--stem=small: {type(backbone).__name__} does not begin with a 7x7 convolution: leave it out")
    small = nn.Conv2d(large.in_channels, large.out_channels, 3, padding=1, bias=large.bias is not None)
    if init == "centre":
        small.load_state_dict({**large.state_dict(), "weight": large.weight[:, :, 2:5, 2:5]})
    backbone.conv1, backbone.maxpool = small, nn.Identity()


def build(settings: TimmSettings, info: DatasetInfo) -> TimmClassification:
    """The classifier that `settings` describe.

    Raises:
        UserError: unknown network, weights that are missing or do not fit, or a stem that would be frozen at random.
    """
    if settings.stem == "own" and settings.stem_init == "centre":
        raise UserError("--stem_init=centre is of no use to --stem=own, whose weights are whole: give --stem=small")
    if settings.stem == "small" and settings.stem_init == "random" and settings.frozen_stages:
        raise UserError(f"--frozen_stages={settings.frozen_stages} would freeze a random stem: give --stem_init=centre")
    config = pretrained_config(settings.arch)
    size = settings.input_size or info.image_size
    backbone = build_network(
        settings.arch, len(info.classes), size, find_weights(settings.arch, settings.pretrained, settings.weights)
    )
    if settings.stem == "small":
        shrink_stem(backbone, settings.stem_init)
    prepare = Preprocess(info, config.mean, config.std, size, settings.interpolation)
    return TimmClassification(TimmNet(prepare, backbone), settings, info)
