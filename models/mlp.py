"""Multi-layer perceptron on flattened pixels; for CIFAR-10 its layers have 3072, 512, 256 and 10 units by default."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import nn

from data.dataset import DatasetInfo
from models.core.settings import Depth, Fraction, PositiveFloat, PositiveInt
from models.parts.classification import Classification
from models.parts.parametrization import WidthSettings, parametrized


@dataclass(frozen=True, kw_only=True)
class MlpSettings(WidthSettings):
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


def make_net(settings: MlpSettings, info: DatasetInfo) -> nn.Sequential:
    """Return the network that `settings` describe."""
    widths = [3 * info.image_size**2, *(max(1, settings.width >> layer) for layer in range(settings.depth))]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        norm = [nn.BatchNorm1d(outputs)] if settings.norm == "batch" else []
        layers += [nn.Linear(inputs, outputs), *norm, nn.ReLU(), nn.Dropout(settings.dropout)]
    head = nn.Linear(widths[-1], len(info.classes))
    return nn.Sequential(OrderedDict(hidden=nn.Sequential(*layers), head=head))


def build(settings: MlpSettings, info: DatasetInfo) -> Classification:
    """Build the classifier that `settings` describe.

    Raises:
        UserError: the parametrisation is not known for the optimizer, or has no base width.
    """
    net, scales = parametrized(make_net, settings, info)
    return Classification(net, settings, info, scales=scales)
