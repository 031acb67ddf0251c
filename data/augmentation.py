"""Random changes to training images, made in batches on the device.

Random numbers come from torch's global CPU generator, which the training loop seeds on every step.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

POLICY_GROUP = 8  # images that share one draw of a policy: an image's own distribution is the same as alone


def crop_flip(images: Tensor) -> Tensor:
    """Shift by up to 1/8 of the side with reflected borders, and mirror half of the images.

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
    """Whole numbers from -largest to largest, [num, 1]."""
    return torch.randint(-largest, largest + 1, (num, 1))


def reflected(index: Tensor, size: int) -> Tensor:
    """Positions beyond either border, mirrored back inside without repeating the border."""
    index = index.abs()
    return torch.where(index < size, index, 2 * (size - 1) - index)


def randaugment(images: Tensor) -> Tensor:
    """RandAugment with torchvision's defaults after crop_flip, https://arxiv.org/abs/1909.13719."""
    from torchvision.transforms.v2 import RandAugment  # imported late: torchvision takes a second

    return in_groups(RandAugment(), crop_flip(images))


def trivialaugment(images: Tensor) -> Tensor:
    """TrivialAugment (wide) after crop_flip, https://arxiv.org/abs/2103.10158."""
    from torchvision.transforms.v2 import TrivialAugmentWide

    return in_groups(TrivialAugmentWide(), crop_flip(images))


def in_groups(policy: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a policy, which draws once a call, to every few images of an already shuffled batch."""
    return torch.cat([policy(group) for group in images.split(POLICY_GROUP)])


def cutout(images: Tensor, size: int) -> Tensor:
    """Blank a square at a random place of every image, https://arxiv.org/abs/1708.04552.

    Args:
        images: [B, 3, H, W], normalised, so that 0 is the mean colour; the square may reach over the border.
        size: side of the square in pixels.

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
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
}
