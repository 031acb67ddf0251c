"""Means and deviations of pixel values, exact, out of sums that can be kept beside the images."""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

Channels = tuple[float, ...]  # a number for each channel


def pixel_sums(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of the pixel values of each channel and that of their squares.

    Args:
        parts: some of the images each, [B, C, H, W] uint8.

    Returns:
        [C, 2] int64.
    """
    values = torch.arange(256)
    powers = torch.stack([values, values**2], dim=1)
    counts = [
        torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in part.unbind(1)]) for part in parts
    ]
    return (torch.stack(counts).sum(0)[:, :, None] * powers).sum(1)


def channel_statistics(sums: Sequence[Sequence[int]], num_pixels: int) -> tuple[Channels, Channels]:
    """Return the mean and standard deviation of each channel, of pixel values scaled to [0, 1].

    Args:
        sums: of the pixel values of each channel and of their squares, see `pixel_sums`.
        num_pixels: in each channel.

    Returns:
        A mean and a deviation for each channel; the deviation is 1 where all pixels are equal.
    """
    means = [Fraction(total, 255 * num_pixels) for total, _ in sums]
    squares = [Fraction(total, 255**2 * num_pixels) for _, total in sums]
    deviations = [math.sqrt(square - mean**2) or 1.0 for mean, square in zip(means, squares, strict=True)]
    return tuple(map(float, means)), tuple(deviations)
