"""Where a vision transformer's class token looks: maps of its attention, and pictures with those laid over them."""

from collections.abc import Sequence
from math import ceil, isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.core.abilities import HasAttention
from models.core.panel import Panel

MIN_SIDE = 192  # pixels; smaller pictures are enlarged without smoothing, so that the maps over them can be smooth
OPACITY = 0.7  # of the colours over the grey picture
BRIGHTNESS = 0.5  # of the grey picture: a white one would outshine the colours of small weights
NUM_PANEL_IMAGES = 8
BATCH_SIZE = 8  # images at once: a ViT-B/16 of 224 pixels has 22 MB of attention weights for each


class AttentionMaps(NamedTuple):
    """Where the class token looks."""

    heads: Tensor  # [L, B, heads, h, w] weights of each layer, lowest first
    rollout: Tensor  # [B, h, w]

    def columns(self) -> Tensor:
        """Return the mean of each layer's heads, then rollout: [B, L + 1, h, w]."""
        return torch.cat([self.heads.mean(dim=2).transpose(0, 1), self.rollout[:, None]], dim=1)


def class_attention(weights: Sequence[Tensor], num_prefix_tokens: int) -> Tensor:
    """Return where the class token looks in every layer and head.

    Args:
        weights: one [B, heads, T, T] a layer, row 0 the class token's.
        num_prefix_tokens: tokens before the patches, the class token included.

    Returns:
        [L, B, heads, h, w] weights of the patches; together with those of the prefix tokens they sum to 1.
    """
    return as_map(torch.stack([layer[:, :, 0, num_prefix_tokens:] for layer in weights]))


def rollout(weights: Sequence[Tensor], num_prefix_tokens: int) -> Tensor:
    """Return how much of each patch would reach the class token if layers did nothing but attend.

    A layer mixes its tokens by the mean of its heads and by the identity, half each, since its residual branch adds
    a token to itself; the matrices of all layers are multiplied.

    Args:
        weights: one [B, heads, T, T] a layer, lowest first.
        num_prefix_tokens: tokens before the patches, the class token included.

    Returns:
        [B, h, w] shares of the patches; together with those of the prefix tokens they sum to 1.

    Source: Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928
    """
    num, _, num_tokens, _ = weights[0].shape
    share = torch.zeros(num, 1, num_tokens, device=weights[0].device)
    share[:, :, 0] = 1
    with torch.autocast(share.device.type, enabled=False):
        for layer in reversed(weights):  # from the top, since the class token's row is all that is wanted
            share = (share + share @ layer.mean(dim=1)) / 2
    return as_map(share[:, 0, num_prefix_tokens:])


def as_map(patches: Tensor) -> Tensor:  # [..., h * w] -> [..., h, w]
    """Return values of patches, which come row by row, as the square that the patches were cut from."""
    side = isqrt(patches.shape[-1])
    assert side * side == patches.shape[-1], f"{patches.shape[-1]} patches make no square"
    return patches.unflatten(-1, (side, side))


@torch.no_grad()
def attention_maps(net: HasAttention, images: Tensor) -> AttentionMaps:
    """Return the attention of a network in evaluation mode to images [B, 3, H, W]; the maps lie on the CPU."""
    heads, shares = [], []
    for batch in images.split(BATCH_SIZE):
        weights = net.attention_weights(batch)
        heads.append(class_attention(weights, net.num_prefix_tokens).cpu())
        shares.append(rollout(weights, net.num_prefix_tokens).cpu())
    return AttentionMaps(torch.cat(heads, dim=1), torch.cat(shares))


def overlay(picture: Tensor, attention: Tensor) -> Tensor:
    """Return a picture in grey under the colours of an attention map, which is smoothly enlarged.

    The picture is grey so that all colour is the map's. Darkening it where weights are small was tried: a dark object
    then looks like one that gets no attention.

    Args:
        picture: [3, H, W] in [0, 1].
        attention: [h, w] weights; the least is shown dark, the greatest bright. A uniform map is dark throughout.

    Returns:
        [3, H, W] in [0, 1].
    """
    from matplotlib import colormaps  # imported late: takes a second

    scaled = (attention - attention.min()) / (attention.max() - attention.min()).clamp(min=1e-12)
    large = F.interpolate(scaled[None, None].float(), picture.shape[1:], mode="bilinear", align_corners=False)
    colours = torch.from_numpy(colormaps["inferno"](large[0, 0].numpy())[:, :, :3]).permute(2, 0, 1)
    grey = BRIGHTNESS * picture.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return torch.lerp(grey, colours.to(picture), OPACITY)


def tile_side(image_size: int) -> int:
    """Return the side in pixels that images are shown at, a multiple of their own."""
    return image_size * ceil(MIN_SIDE / image_size)


def tiles(pictures: Tensor, maps: Tensor) -> Tensor:
    """Return rows of a picture and its overlays: [B, 3, S, S] and maps [B, K, h, w] -> [B, 1 + K, 3, S, S]."""
    rows = [[picture, *(overlay(picture, one) for one in own)] for picture, own in zip(pictures, maps, strict=True)]
    return torch.stack([torch.stack(row) for row in rows])


def enlarge(pictures: Tensor) -> Tensor:
    """Return pictures [B, 3, S, S] at the size they are shown at, each pixel a square, on the CPU."""
    return F.interpolate(pictures.cpu(), tile_side(pictures.shape[-1]), mode="nearest-exact")


def column_names(num_layers: int) -> list[str]:
    """Return the headings of `AttentionMaps.columns`."""
    return [*(f"layer {i + 1}" for i in range(num_layers)), "rollout"]


def peak(attention: Tensor) -> str:
    """Return how far a map is from uniform, in words: its greatest weight over its mean."""
    return f"peak {attention.max() / attention.mean():.1f}x"


def attention_panel(net: HasAttention, images: Tensor, pictures: Tensor, captions: Sequence[str]) -> Panel:
    """Return a panel with a row for each image: the picture, the mean of each layer's heads, and rollout.

    Args:
        net: in evaluation mode.
        images: [B, 3, H, W], normalised as the network expects.
        pictures: [B, 3, S, S] in [0, 1], the same images as people see them.
        captions: one for each picture.
    """
    maps = attention_maps(net, images).columns()
    names = column_names(maps.shape[1] - 1)
    texts: list[str] = []
    for caption, own in zip(captions, maps, strict=True):
        texts += [caption, *(f"{name}, {peak(one)}" for name, one in zip(names, own, strict=True))]
    return Panel(tiles(enlarge(pictures), maps).flatten(0, 1), tuple(texts), columns=1 + len(names))
