"""DiffAugment: the same random changes to real and generated images, which gradients pass through.

Zhao et al. 2020, https://arxiv.org/abs/2006.10738. Random numbers come from torch's global CPU generator, as those of
`data.augmentation` do.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from data.augmentation import cutout, shifts
from data.errors import UserError, suggestion


def translation(images: Tensor) -> Tensor:
    """Shift by up to 1/8 of the side, with grey behind: [B, 3, H, W] in [-1, 1], as all of these take and give."""
    for dim, side in ((2, images.shape[2]), (3, images.shape[3])):
        index = torch.arange(side) + shifts(len(images), side // 8)  # [B, side]
        shape = (-1, 1, side, 1) if dim == 2 else (-1, 1, 1, side)
        inside = ((index >= 0) & (index < side)).view(shape).to(images.device)
        index = index.clamp(0, side - 1).view(shape).to(images.device)
        images = torch.where(inside, images.gather(dim, index.expand_as(images)), 0.0)
    return images


def colour(images: Tensor) -> Tensor:
    """Change brightness by up to 1/2, and multiply saturation by 0 to 2 and contrast by 1/2 to 3/2."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1).to(images.device)
    images = images + brightness - 0.5
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * 2 * saturation
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def half_cutout(images: Tensor) -> Tensor:
    """Blank a square of half the side."""
    return cutout(images, images.shape[2] // 2)


POLICIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "colour": colour,
    "translation": translation,
    "cutout": half_cutout,
}


def parse_policy(text: str) -> tuple[Callable[[Tensor], Tensor], ...]:
    """The changes that a comma-separated `text` names, in the order in which they are made.

    Raises:
        UserError: a name is not known.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in POLICIES:
            raise UserError(
                f"--diffaugment={text}: {name} is none of {', '.join(POLICIES)}{suggestion(name, list(POLICIES))}"
            )
    return tuple(change for name, change in POLICIES.items() if name in names)
