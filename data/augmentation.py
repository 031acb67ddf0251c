"""Random changes to training images, made to whole batches on the device.

The random numbers come from torch's global CPU generator, which the training loop seeds before every step.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from data.policies import randaugment, trivialaugment


def crop_flip(images: Tensor) -> Tensor:
    """Shift each image by up to 1/8 of its side, reflecting its borders, and mirror half of the images.

    Args:
        images: [B, 3, H, W] of any type.

    Returns:
        [B, 3, H, W].
    """
    num, _, height, width = images.shape
    rows = reflected(torch.arange(height) + shifts(num, height // 8), height)
    columns = reflected(torch.arange(width) + shifts(num, width // 8), width)
    columns = torch.where(torch.rand(num, 1) < 0.5, columns.flip(1), columns)
    rows, columns = (index.to(images.device, non_blocking=True) for index in (rows, columns))
    shifted = images.gather(2, rows[:, None, :, None].expand_as(images))
    return shifted.gather(3, columns[:, None, None, :].expand_as(images))


def shifts(num: int, largest: int) -> Tensor:
    """Draw whole numbers from -largest to largest: [num, 1]."""
    return torch.randint(-largest, largest + 1, (num, 1))


def reflected(index: Tensor, size: int) -> Tensor:
    """Mirror positions beyond either border back inside; the border itself is not repeated."""
    index = index.abs()
    return torch.where(index < size, index, 2 * (size - 1) - index)


def cutout(images: Tensor, size: int) -> Tensor:
    """Blank a square at a random place of every image, https://arxiv.org/abs/1708.04552.

    Args:
        images: [B, 3, H, W], normalised; the square is filled with 0.
        size: side of the square in pixels; the square may reach over the border.

    Returns:
        [B, 3, H, W].
    """
    num, _, height, width = images.shape
    inside = []
    for side in (height, width):
        start = torch.randint(side, (num, 1)) - size // 2
        place = torch.arange(side)
        inside.append(((place >= start) & (place < start + size)).to(images.device, non_blocking=True))
    rows, columns = inside
    square = (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
    return torch.where(square, 0.0, images)  # masked_fill would lose the memory format


AUGMENTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "crop_flip": crop_flip,
    "randaugment": lambda images: randaugment(crop_flip(images)),
    "trivialaugment": lambda images: trivialaugment(crop_flip(images)),
}
