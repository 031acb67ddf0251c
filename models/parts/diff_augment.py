"""DiffAugment: random changes to both the real and the generated images that a discriminator sees.

Gradients flow through the changes. Zhao et al. 2020, https://arxiv.org/abs/2006.10738.

All functions take and return images [B, 3, H, W] in [-1, 1]. The random numbers come from torch's global CPU generator,
as in `data.augmentation`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from data.augmentation import cutout, shifts
from data.errors import check_known
from data.transfer import send


def translation(images: Tensor) -> Tensor:
    """Shift each image by up to 1/8 of its side, and fill the gap with grey."""
    for dim, side in ((2, images.shape[2]), (3, images.shape[3])):
        shift = send(shifts(len(images), side // 8), images.device)
        index = torch.arange(side, device=images.device) + shift  # [B, side]
        index = index.view((-1, 1, side, 1) if dim == 2 else (-1, 1, 1, side))
        inside, index = (index >= 0) & (index < side), index.clamp(0, side - 1)
        images = torch.where(inside, images.gather(dim, index.expand_as(images)), 0.0)
    return images


def colour(images: Tensor) -> Tensor:
    """Add up to 1/2 to the brightness or subtract it, and multiply saturation by 0 to 2 and contrast by 1/2 to 3/2."""
    brightness, saturation, contrast = send(torch.rand(3, len(images), 1, 1, 1), images.device)
    images = images + brightness - 0.5
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * 2 * saturation
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


POLICIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "colour": colour,
    "translation": translation,
    "cutout": lambda images: cutout(images, images.shape[2] // 2),  # a square of half the side, at a random place
}


def parse_policy(text: str) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Return the functions that the comma-separated names in `text` stand for, in the order in which they are applied.

    Raises:
        UserError: a name is not known.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        check_known(f"--diffaugment={text}: {name}", name, POLICIES)
    return tuple(change for name, change in POLICIES.items() if name in names)
