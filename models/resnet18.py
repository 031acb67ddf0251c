"""ResNet-18 from scratch with the CIFAR stem, https://arxiv.org/abs/1512.03385."""

from dataclasses import dataclass

from torch import nn

from data.dataset import DatasetInfo
from models.classification import Classification, ClassifierSettings
from models.settings import PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class ResNet18Settings(ClassifierSettings):
    """timm's ResNet with a 3x3 stem of stride 1 and no max-pooling, for small images."""

    epochs: PositiveInt = 8
    lr: PositiveFloat = 2.787e-3
    width: PositiveInt = 64
    """Channels of the first stage; every stage doubles them."""
    depth: PositiveInt = 2
    """Residual blocks of each of the four stages."""


def build(settings: ResNet18Settings, info: DatasetInfo) -> Classification:
    """The classifier that `settings` describe."""
    from timm.models.resnet import BasicBlock, ResNet  # imported late: timm takes a second

    width = settings.width
    net = ResNet(
        BasicBlock,
        (settings.depth,) * 4,
        num_classes=len(info.classes),
        channels=(width, 2 * width, 4 * width, 8 * width),
        stem_width=width,
        zero_init_last=False,
    )
    net.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return Classification(net, settings, info, prefers_channels_last=True)
