"""Multi-layer perceptron on flattened pixels; for CIFAR-10 its layers have 3072, 512, 256 and 10 units by default."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import nn

from data.dataset import DatasetInfo
from models.core.settings import Depth, Fraction, PositiveFloat, PositiveInt
from models.parts.classification import Classification, ClassifierSettings


@dataclass(frozen=True, kw_only=True)
class MlpSettings(ClassifierSettings):
    """Fully connected ReLU layers, each half as wide as the one before."""

    epochs: PositiveInt = 13
    lr: PositiveFloat = 5.6e-5
    width: PositiveInt = 512
    """Units of the first hidden layer."""
    depth: Depth = 2
    """Number of hidden layers."""
    norm: Literal["none", "batch"] = "none"
    """Normalisation of every hidden layer before its ReLU; batch: batch norm."""
    dropout: Fraction = 0.0
    """Dropout after every hidden layer."""


def build(settings: MlpSettings, info: DatasetInfo) -> Classification:
    """Build the classifier that `settings` describe."""
    widths = [3 * info.image_size**2, *(max(1, settings.width >> layer) for layer in range(settings.depth))]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        norm = [nn.BatchNorm1d(outputs)] if settings.norm == "batch" else []
        layers += [nn.Linear(inputs, outputs), *norm, nn.ReLU(), nn.Dropout(settings.dropout)]
    head = nn.Linear(widths[-1], len(info.classes))
    net = nn.Sequential(OrderedDict(hidden=nn.Sequential(*layers), head=head))
    return Classification(net, settings, info)
