"""A small vision transformer with post-norm encoder layers, https://arxiv.org/abs/2010.11929."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from data.dataset import DatasetInfo
from models.core.settings import Depth, Fraction, PositiveFloat, PositiveInt
from models.parts.classification import Classification
from models.parts.dropout import Dropout
from models.parts.layers import ConvolutionalEmbedding, PatchEmbedding, SelfAttention, check_heads, check_patch_size
from models.parts.parametrization import WidthSettings, attention_scale, parametrized


@dataclass(frozen=True, kw_only=True)
class NanoVitSettings(WidthSettings):
    """A small vision transformer; by default four layers on patches of 2x2 pixels and a class token."""

    epochs: PositiveInt = 16
    lr: PositiveFloat = 2.32e-4
    patch_size: PositiveInt = 2
    """Side of a patch in pixels."""
    stem: Literal["patches", "convolutions"] = "patches"
    """How patches become tokens. patches: each by itself, linearly; convolutions: by overlapping 3x3 convolutions with
    max pooling, https://arxiv.org/abs/2104.05704."""
    width: PositiveInt = 192
    """Dimension of a token."""
    depth: Depth = 4
    """Number of transformer layers."""
    num_heads: PositiveInt = 8
    """Attention heads in each layer; `width` is divided among them."""
    ffn_width: PositiveInt = 384
    """Hidden units of each layer's feed-forward network."""
    dropout: Fraction = 0.1
    """Dropout of the embeddings, the attention weights and both residual branches of each layer."""


STEMS: Mapping[str, type[PatchEmbedding | ConvolutionalEmbedding]] = {
    "patches": PatchEmbedding,
    "convolutions": ConvolutionalEmbedding,
}


class EncoderLayer(nn.Module):
    """A layer of the original transformer's encoder, with ReLU and norms after the residual additions."""

    def __init__(
        self, width: int, num_heads: int, ffn_width: int, dropout: float, attention_scale: float | None = None
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, num_heads, dropout, attention_scale)
        self.norm1 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn_width), nn.ReLU(), Dropout(dropout), nn.Linear(ffn_width, width))
        self.norm2 = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        x = self.norm1(x + self.dropout(self.attention(x)))
        return self.norm2(x + self.dropout(self.ffn(x)))


class NanoVit(nn.Module):
    """The network: patch embedding, class token, transformer layers, and a linear head on the class token."""

    num_prefix_tokens = 1

    def __init__(self, settings: NanoVitSettings, image_size: int, num_classes: int) -> None:
        super().__init__()
        width = settings.width
        self.embed = STEMS[settings.stem](image_size, settings.patch_size, width)
        self.class_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.positions = nn.Parameter(torch.empty(1, self.embed.num_patches + 1, width).normal_(std=0.02))
        self.dropout = Dropout(settings.dropout)
        ffn_width, scale = settings.grown(settings.ffn_width), attention_scale(settings, settings.num_heads)
        self.layers = nn.ModuleList(
            EncoderLayer(width, settings.num_heads, ffn_width, settings.dropout, scale) for _ in range(settings.depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def tokens(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 1 + N, D], class token first
        patches = self.embed(images)
        # Not len(patches), which an export would take for a constant.
        x = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return self.dropout(x + self.positions)

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, num_classes]
        x = self.tokens(images)
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])

    def attention_weights(self, images: Tensor) -> list[Tensor]:
        """Return the attention weights of each layer, lowest first.

        Args:
            images: [B, 3, H, W], normalised as in training.

        Returns:
            For each layer [B, heads, 1 + N, 1 + N] float32, in [0, 1]. Row 0 holds the weights that the class token
            gives to all tokens; its entries from 1 on are those of the N patches, row by row.
        """
        x, weights = self.tokens(images), []
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            weights.append(layer.attention.weights(x))
            x = layer(x)
        return weights


def make_net(settings: NanoVitSettings, info: DatasetInfo) -> NanoVit:
    """Return the network that `settings` describe.

    Raises:
        UserError: the number of heads does not divide the width, or the patches do not tile the image.
    """
    check_heads(settings, "num_heads", "width")
    check_patch_size(settings.patch_size, info.image_size)
    return NanoVit(settings, info.image_size, len(info.classes))


def build(settings: NanoVitSettings, info: DatasetInfo) -> Classification:
    """Build the classifier that `settings` describe.

    Raises:
        UserError: as `make_net`, or the parametrisation is not known for the optimizer, or has no base width.
    """
    if settings.parametrization == "mup":
        check_heads(settings, "num_heads", "base_width")
    net, scales = parametrized(make_net, settings, info)
    return Classification(net, settings, info, scales=scales)
