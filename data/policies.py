"""RandAugment and TrivialAugment, of which every image draws operations of its own.

The images of a batch that drew the same operation are changed together, each by its own magnitude. Operations and
magnitudes are torchvision's, with black for what comes in from outside an image.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from data.transfer import send

NUM_LEVELS = 31  # strengths of an operation, from none on
RANDAUGMENT_LEVEL = 9  # of all operations
RANDAUGMENT_OPERATIONS = 2  # of each image, one after the other


class Operation(NamedTuple):
    """An operation of a policy, and its magnitudes from the first level to the last."""

    change: Callable[[Tensor, Tensor], Tensor]  # uint8 images [B, 3, H, W] and magnitudes [B] to uint8 images
    first: float
    last: float
    is_signed: bool = False  # whether the magnitude is negative in half of the cases


def warp(images: Tensor, *rows: float | Tensor) -> Tensor:
    """Return images [B, 3, H, W] whose pixel at (x, y) is that of the image at (a x + b y + c, d x + e y + f).

    Args:
        images: uint8.
        rows: a, b, c, d, e and f, numbers or [B]; x and y are counted in pixels from the centre of the image.
    """
    height, width = images.shape[2:]
    scales = (1, height / width, 2 / width, width / height, 1, 2 / height)  # affine_grid counts in halves of a side
    parts = [row * scale for row, scale in zip(rows, scales, strict=True)]
    like = torch.zeros(len(images), device=images.device)
    theta = torch.stack([part if isinstance(part, Tensor) else like + part for part in parts], dim=1)
    grid = F.affine_grid(theta.view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="nearest", align_corners=False).byte()


def shear_x(images: Tensor, amounts: Tensor) -> Tensor:
    """Shift each row by a share of its distance from the top."""
    return warp(images, 1, amounts, amounts * images.shape[2] / 2, 0, 1, 0)


def shear_y(images: Tensor, amounts: Tensor) -> Tensor:
    """Shift each column by a share of its distance from the left."""
    return warp(images, 1, 0, 0, amounts, 1, amounts * images.shape[3] / 2)


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift to the right, by whole pixels."""
    return warp(images, 1, 0, -pixels.trunc(), 0, 1, 0)


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift down, by whole pixels."""
    return warp(images, 1, 0, 0, 0, 1, -pixels.trunc())


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn round the centre, counter-clockwise."""
    cosine, sine = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    return warp(images, cosine, -sine, 0, sine, cosine, 0)


def blend(images: Tensor, plain: Tensor | float, amounts: Tensor) -> Tensor:
    """Move images away from their plain version, [B, 3, H, W], by a share of the difference; towards it below 0."""
    factors = 1 + amounts.view(-1, 1, 1, 1)
    return (images * factors + plain * (1 - factors)).clamp(0, 255).byte()


def brighten(images: Tensor, amounts: Tensor) -> Tensor:
    """Blend with black."""
    return blend(images, 0.0, amounts)


def saturate(images: Tensor, amounts: Tensor) -> Tensor:
    """Blend with grey images."""
    return blend(images, grey(images), amounts)


def contrast(images: Tensor, amounts: Tensor) -> Tensor:
    """Blend with an even grey, the mean of the image's."""
    return blend(images, grey(images).float().mean(dim=(1, 2, 3), keepdim=True), amounts)


def sharpen(images: Tensor, amounts: Tensor) -> Tensor:
    """Blend with blurred images."""
    from torchvision.transforms.v2.functional import adjust_sharpness  # imported late: torchvision takes a second

    return blend(images, adjust_sharpness(images, 0.0), amounts)


def grey(images: Tensor) -> Tensor:
    """Return grey images, [B, 3, H, W] uint8."""
    from torchvision.transforms.v2.functional import adjust_saturation

    return adjust_saturation(images, 0.0)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each value."""
    return images & (256 - 2 ** (8 - bits.round())).byte().view(-1, 1, 1, 1)


def solarize(images: Tensor, shares: Tensor) -> Tensor:
    """Invert the values from a share of the largest one on."""
    return torch.where(images >= 255 * shares.view(-1, 1, 1, 1), 255 - images, images)


def autocontrast(images: Tensor, unused: Tensor) -> Tensor:
    """Stretch the values of each channel to the whole range."""
    from torchvision.transforms.v2.functional import autocontrast

    return autocontrast(images)


def equalize(images: Tensor, unused: Tensor) -> Tensor:
    """Make all values of a channel about equally frequent."""
    from torchvision.transforms.v2.functional import equalize

    return equalize(images)


def operations(shear: float, shifts: tuple[float, float], turn: float, blending: float, bits: int) -> list[Operation]:
    """Return the operations of a policy by their last magnitudes.

    Args:
        shear: share of the distance.
        shifts: pixels to the side and down.
        turn: degrees.
        blending: share of the difference.
        bits: that are left of each value.
    """
    return [
        Operation(lambda images, unused: images, 0, 0),
        Operation(shear_x, 0, shear, True),
        Operation(shear_y, 0, shear, True),
        Operation(translate_x, 0, shifts[0], True),
        Operation(translate_y, 0, shifts[1], True),
        Operation(rotate, 0, turn, True),
        *(Operation(change, 0, blending, True) for change in (brighten, saturate, contrast, sharpen)),
        Operation(posterize, 8, bits),
        Operation(solarize, 1, 0),
        Operation(autocontrast, 0, 0),
        Operation(equalize, 0, 0),
    ]


def apply_one(images: Tensor, choices: list[Operation], levels: Tensor) -> Tensor:
    """Change each image by an operation that is drawn for it.

    Args:
        images: [B, 3, H, W] uint8.
        choices: equally likely.
        levels: [B], of each image's operation.
    """
    num = len(images)
    chosen, is_negative = torch.randint(len(choices), (num,)), torch.rand(num) < 0.5
    scales = torch.stack([torch.linspace(each.first, each.last, NUM_LEVELS) for each in choices])
    magnitudes, is_signed = scales[chosen, levels], torch.tensor([each.is_signed for each in choices])[chosen]
    magnitudes = torch.where(is_signed & is_negative, -magnitudes, magnitudes)
    order = chosen.argsort()
    sizes = chosen.bincount(minlength=len(choices)).tolist()
    back, order, magnitudes = (send(each, images.device) for each in (order.argsort(), order, magnitudes[order]))
    parts = zip(choices, images.index_select(0, order).split(sizes), magnitudes.split(sizes), strict=True)
    return torch.cat([choice.change(*part) for choice, *part in parts if len(part[0])]).index_select(0, back)


def randaugment(images: Tensor) -> Tensor:
    """Change images [B, 3, H, W] uint8 by RandAugment, https://arxiv.org/abs/1909.13719."""
    height, width = images.shape[2:]
    choices = operations(0.3, (150 / 331 * width, 150 / 331 * height), 30, 0.9, 4)
    for _ in range(RANDAUGMENT_OPERATIONS):
        images = apply_one(images, choices, torch.full((len(images),), RANDAUGMENT_LEVEL))
    return images


def trivialaugment(images: Tensor) -> Tensor:
    """Change images [B, 3, H, W] uint8 by TrivialAugment (wide), https://arxiv.org/abs/2103.10158."""
    choices = operations(0.99, (32, 32), 135, 0.99, 2)
    return apply_one(images, choices, torch.randint(NUM_LEVELS, (len(images),)))
