"""Plain convolutional network: by default three blocks of convolution and pooling, and a head of two layers."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import nn

from data.dataset import DatasetInfo
from data.errors import UserError
from models.core.settings import Count, Depth, Fraction, PositiveFloat, PositiveInt
from models.parts.classification import Classification
from models.parts.layers import conv_blocks
from models.parts.parametrization import WidthSettings, parametrized


@dataclass(frozen=True, kw_only=True)
class CnnSettings(WidthSettings):
    """Blocks of 3x3 convolutions, batch norm, ReLU and pooling, each with twice the channels of the one before."""

    epochs: PositiveInt = 16
    lr: PositiveFloat = 1.99e-4
    width: PositiveInt = 32
    """Channels of the first block."""
    depth: Depth = 3
    """Number of blocks."""
    convolutions: Depth = 1
    """Convolutions of each block."""
    pooling: Literal["none", "mean"] = "none"
    """What the head gets of the last block. none: its whole maps; mean: the mean of each map, which takes far fewer
    weights."""
    head_width: Count = 512
    """Hidden units of the head; 0 for a head of a single linear layer."""
    dropout: Fraction = 0.5
    """Dropout in the head."""


def make_net(settings: CnnSettings, info: DatasetInfo) -> nn.Sequential:
    """Return the network that `settings` describe.

    Raises:
        UserError: the images are too small to be halved `depth` times.
    """
    side = info.image_size >> settings.depth
    if side == 0:
        raise UserError(f"--depth={settings.depth} halves {info.image_size}-pixel images to nothing: lower it")
    features = nn.Sequential(*conv_blocks(settings.width, settings.depth, settings.convolutions))
    if settings.pooling == "mean":
        features.append(nn.AdaptiveAvgPool2d(1))
        side = 1
    units = (settings.width << settings.depth - 1) * side**2
    head = nn.Sequential(nn.Flatten())
    if settings.head_width:
        head_width = settings.grown(settings.head_width)
        head.extend([nn.Linear(units, head_width), nn.ReLU()])
        units = head_width
    head.extend([nn.Dropout(settings.dropout), nn.Linear(units, len(info.classes))])
    return nn.Sequential(OrderedDict(features=features, head=head))


def build(settings: CnnSettings, info: DatasetInfo) -> Classification:
    """Build the classifier that `settings` describe.

    Raises:
        UserError: the images are too small to be halved `depth` times, or the parametrisation is not known for the
            optimizer, or has no base width.
    """
    net, scales = parametrized(make_net, settings, info)
    return Classification(net, settings, info, prefers_channels_last=True, scales=scales)
