"""Plain convolutional network: by default three blocks of convolution and pooling, and a head of two layers."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from data.dataset import DatasetInfo
from data.errors import UserError
from models.core.settings import Fraction, PositiveFloat, PositiveInt
from models.parts.classification import Classification, ClassifierSettings
from models.parts.layers import conv_blocks


@dataclass(frozen=True, kw_only=True)
class CnnSettings(ClassifierSettings):
    """Blocks of 3x3 convolution, batch norm, ReLU and pooling, each with twice the channels of the one before."""

    epochs: PositiveInt = 16
    lr: PositiveFloat = 1.99e-4
    width: PositiveInt = 32
    """Channels of the first block."""
    depth: PositiveInt = 3
    """Number of blocks."""
    head_width: PositiveInt = 512
    """Hidden units of the head."""
    dropout: Fraction = 0.5
    """Dropout in the head."""


def build(settings: CnnSettings, info: DatasetInfo) -> Classification:
    """Build the classifier that `settings` describe.

    Raises:
        UserError: the images are too small to be halved `depth` times.
    """
    side = info.image_size >> settings.depth
    if side == 0:
        raise UserError(f"--depth={settings.depth} halves {info.image_size}-pixel images to nothing: lower it")
    features = nn.Sequential(*conv_blocks(settings.width, settings.depth))
    head = nn.Sequential(
        nn.Flatten(),
        nn.Linear((settings.width << settings.depth - 1) * side**2, settings.head_width),
        nn.ReLU(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.head_width, len(info.classes)),
    )
    net = nn.Sequential(OrderedDict(features=features, head=head))
    return Classification(net, settings, info, prefers_channels_last=True)
