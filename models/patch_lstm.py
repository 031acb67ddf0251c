"""Bidirectional LSTM that reads an image as a sequence of patches."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import DatasetInfo
from models.core.settings import Depth, Fraction, PositiveFloat, PositiveInt
from models.parts.classification import Classification, ClassifierSettings
from models.parts.layers import PatchEmbedding, check_patch_size


@dataclass(frozen=True, kw_only=True)
class PatchLstmSettings(ClassifierSettings):
    """Bidirectional LSTM layers on patches; by default two, which read the 2x2-pixel patches row by row."""

    epochs: PositiveInt = 20
    lr: PositiveFloat = 4.25e-4
    patch_size: PositiveInt = 2
    """Side of a patch in pixels."""
    embedding_width: PositiveInt = 128
    """Dimension of an embedded patch."""
    width: PositiveInt = 256
    """Hidden units of the LSTM in each direction."""
    depth: Depth = 2
    """Number of LSTM layers."""
    reading: Literal["sequence", "grid"] = "sequence"
    """How the layers go through the patches. sequence: one row after the other, all patches in one sequence; grid: the
    odd layers along every row and the even layers along every column, as in ReNet, https://arxiv.org/abs/1505.00393,
    with dropout between the layers."""
    head_width: PositiveInt = 256
    """Hidden units of the head."""
    dropout: Fraction = 0.1
    """Dropout of the embeddings and in the head."""
    pooling: Literal["last", "ends", "mean"] = "last"
    """Outputs of the LSTM that the head gets. last: those of both directions at the last patch, where the backward
    direction has seen that patch alone; ends: for each direction, those after it has seen all patches; mean: the mean
    over all patches."""


def sequence_lstm(settings: PatchLstmSettings) -> nn.LSTM:
    """Return bidirectional layers that go through all patches in one sequence."""
    sizes = settings.embedding_width, settings.width, settings.depth
    return nn.LSTM(*sizes, batch_first=True, bidirectional=True)


class GridLstm(nn.ModuleList):
    """Bidirectional layers that go along the rows of a square grid of patches and along its columns by turns."""

    def __init__(self, settings: PatchLstmSettings) -> None:
        inputs = [settings.embedding_width, *[2 * settings.width] * (settings.depth - 1)]
        super().__init__(nn.LSTM(num, settings.width, batch_first=True, bidirectional=True) for num in inputs)
        self.dropout = settings.dropout

    def forward(self, patches: Tensor) -> tuple[Tensor, None]:  # [B, N, D] -> [B, N, 2 * width], and no final state
        side = math.isqrt(patches.shape[1])
        grid = patches.unflatten(1, (side, side))
        for layer in range(len(self)):
            if layer:
                grid = F.dropout(grid, self.dropout, self.training).transpose(1, 2)
            lines, _ = self[layer](grid.flatten(0, 1))
            grid = lines.unflatten(0, (-1, side))
        return (grid if len(self) % 2 else grid.transpose(1, 2)).flatten(1, 2), None


READINGS: Mapping[str, Callable[[PatchLstmSettings], nn.Module]] = {"sequence": sequence_lstm, "grid": GridLstm}


class PatchLstm(nn.Module):
    """The network: patch embedding, LSTM, pooling over the sequence, and a head of two layers."""

    def __init__(self, settings: PatchLstmSettings, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.pooling = settings.pooling
        self.embed = PatchEmbedding(image_size, settings.patch_size, settings.embedding_width)
        self.positions = nn.Parameter(torch.empty(1, self.embed.num_patches, settings.embedding_width).normal_())
        self.dropout = nn.Dropout(settings.dropout)
        self.lstm = READINGS[settings.reading](settings)
        self.head = nn.Sequential(
            nn.LayerNorm(2 * settings.width),
            nn.Linear(2 * settings.width, settings.head_width),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.head_width, num_classes),
        )

    def pool(self, steps: Tensor) -> Tensor:  # [B, T, 2 * width] -> [B, 2 * width]
        if self.pooling == "mean":
            return steps.mean(dim=1)
        forward, backward = steps.chunk(2, dim=2)
        return torch.cat([forward[:, -1], backward[:, -1 if self.pooling == "last" else 0]], dim=1)

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, num_classes]
        steps, _ = self.lstm(self.dropout(self.embed(images) + self.positions))
        return self.head(self.pool(steps))


def build(settings: PatchLstmSettings, info: DatasetInfo) -> Classification:
    """Build the classifier that `settings` describe.

    Raises:
        UserError: the patches do not tile the image.
    """
    check_patch_size(settings.patch_size, info.image_size)
    return Classification(PatchLstm(settings, info.image_size, len(info.classes)), settings, info)
