"""ResNet-18 with a stem for small images, trained from scratch, https://arxiv.org/abs/1512.03385.

The parameters have the same names as in torchvision and timm, so that weights from there can be loaded.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import DatasetInfo
from models.core.settings import Depth, PositiveFloat, PositiveInt
from models.parts.classification import Classification
from models.parts.parametrization import WidthSettings, parametrized


@dataclass(frozen=True, kw_only=True)
class ResNet18Settings(WidthSettings):
    """ResNet-18 from scratch; for small images its stem is a 3x3 convolution of stride 1 without max pooling."""

    epochs: PositiveInt = 8
    lr: PositiveFloat = 2.787e-3
    width: PositiveInt = 64
    """Channels of the stem and the first stage; each later stage has twice as many."""
    depth: Depth = 2
    """Residual blocks in each of the four stages."""
    residual: bool = True
    """Whether the input of each block is added to its output; without that it is a plain network of equal depth."""


class BasicBlock(nn.Module):
    """A residual block: two 3x3 convolutions, whose output is added to a shortcut.

    The shortcut is the input or, if the block changes the shape, a 1x1 convolution of it. There is none if the block
    is not residual.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if residual and (stride != 1 or inputs != outputs):
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, outputs, H / stride, W / stride]
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x) if self.residual else y, inplace=True)


class ResNet18(nn.Module):
    """The network: stem, four stages of residual blocks, global average pooling and a linear head."""

    def __init__(self, width: int, depth: int, num_classes: int, residual: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = stage(width, width, depth, 1, residual)
        self.layer2 = stage(width, 2 * width, depth, 2, residual)
        self.layer3 = stage(2 * width, 4 * width, depth, 2, residual)
        self.layer4 = stage(4 * width, 8 * width, depth, 2, residual)
        self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, num_classes]
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


def stage(inputs: int, outputs: int, depth: int, stride: int, residual: bool) -> nn.Sequential:
    """Return a stage of `depth` blocks, the first of which changes the shape."""
    first = BasicBlock(inputs, outputs, stride, residual)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, residual) for _ in range(depth - 1)))


def make_net(settings: ResNet18Settings, info: DatasetInfo) -> ResNet18:
    """Return the network that `settings` describe."""
    return ResNet18(settings.width, settings.depth, len(info.classes), settings.residual)


def build(settings: ResNet18Settings, info: DatasetInfo) -> Classification:
    """Build the classifier that `settings` describe.

    Raises:
        UserError: the parametrisation is not known for the optimizer, or has no base width.
    """
    net, scales = parametrized(make_net, settings, info)
    return Classification(net, settings, info, prefers_channels_last=True, scales=scales)
