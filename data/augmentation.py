"""Random changes to training images, made to whole batches on the device.

The random numbers come from torch's global CPU generator, which the training loop seeds before every step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from data.photographs import Boxes, blank, centre_crop, erase, jitter_colours, reduce, resized_crop, turn
from data.policies import randaugment, trivialaugment
from data.transfer import send


def crop_flip(images: Tensor) -> Tensor:
    """Shift each image by up to 1/8 of its side, reflecting its borders, and mirror half of the images.

    Args:
        images: [B, 3, H, W] of any type.

    Returns:
        [B, 3, H, W].
    """
    num, _, height, width = images.shape
    drawn = shifts(num, height // 8), shifts(num, width // 8), torch.rand(num, 1) < 0.5
    down, right, is_mirrored = (send(each, images.device) for each in drawn)
    rows = reflected(torch.arange(height, device=images.device) + down, height)
    columns = reflected(torch.arange(width, device=images.device) + right, width)
    columns = torch.where(is_mirrored, columns.flip(1), columns)
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
    top, left = (torch.randint(side, (num,)) - size // 2 for side in (height, width))
    sides = torch.full((num,), size)
    return blank(images, Boxes(top, left, sides, sides))


POLICIES: Mapping[str, Callable[[Tensor], Tensor]] = {"randaugment": randaugment, "trivialaugment": trivialaugment}


@dataclass(frozen=True)
class Augmentation:
    """The random changes to training images; those that are left out do nothing.

    Attributes:
        kind: "none", "crop_flip", or a key of POLICIES, which change images that `crop_flip` has shifted and mirrored.
        crop_scale: least area of a random resized crop, as a share of the image, in place of `crop_flip`.
        crop_ratio: greatest ratio of the crop's sides.
        rotation: degrees to either side.
        colour_jitter: greatest change of brightness, contrast and saturation.
        cutout: side in pixels of a square that is blanked out in every image.
        erasing: share of the images in which a box is blanked out.
        side: in pixels, to which the changed images are reduced; 0 to leave them at their size.
    """

    kind: str = "none"
    crop_scale: float = 0.0
    crop_ratio: float = 4 / 3
    rotation: float = 0.0
    colour_jitter: float = 0.0
    cutout: int = 0
    erasing: float = 0.0
    side: int = 0

    def of_pixels(self, images: Tensor, size: int) -> Tensor:
        """Change images [B, 3, H, W] uint8, and bring them to `size` or `side` pixels: [B, 3, size, size] uint8."""
        if self.rotation:
            images = turn(images, self.rotation)
        if self.crop_scale:
            images = resized_crop(images, self.side or size, self.crop_scale, self.crop_ratio)
        elif self.kind != "none":
            images = crop_flip(images)
        if self.kind in POLICIES:
            images = POLICIES[self.kind](images)
        images = centre_crop(images, size)
        if self.side and not self.crop_scale:  # a resized crop has that side
            images = reduce(images, self.side)
        return jitter_colours(images, self.colour_jitter) if self.colour_jitter else images

    def blanked(self, images: Tensor) -> Tensor:
        """Return normalised images [B, 3, H, W] with parts of them blanked out."""
        if self.cutout:
            images = cutout(images, self.cutout)
        return erase(images, self.erasing) if self.erasing else images


NO_CHANGE = Augmentation()
