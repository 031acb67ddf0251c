"""Random changes that suit photographs, made to whole batches on the device: each image draws its own.

The random numbers come from torch's global CPU generator, which the training loop seeds before every step.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from data.policies import brighten, contrast, saturate
from data.transfer import send

TRIES = 10  # boxes that are drawn for an image; the first that fits into it is taken
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), 3.3  # shares of an image, and the greatest ratio of the sides, of the paper


class Boxes(NamedTuple):
    """A box in each image, in whole pixels, all [B] int64."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def on(self, device: torch.device) -> "Boxes":
        """Return the boxes on a device."""
        return Boxes(*(send(part, device) for part in self))


def draw_boxes(num: int, height: int, width: int, areas: tuple[float, float], largest_ratio: float) -> Boxes:
    """Draw a box for each of `num` images, as torchvision does.

    Args:
        num: of images.
        height: of an image.
        width: of an image.
        areas: least and greatest share of the image.
        largest_ratio: of width to height and of height to width; the ratio's logarithm is uniform.
    """
    area = height * width * torch.empty(num, TRIES).uniform_(*areas)
    ratio = largest_ratio ** torch.empty(num, TRIES).uniform_(-1, 1)
    heights, widths = (area / ratio).sqrt().round().clamp(min=1), (area * ratio).sqrt().round().clamp(min=1)
    fits = (heights <= height) & (widths <= width)
    first = fits.int().argmax(1, keepdim=True)  # 0 where none fits: that one is cut to the image
    tall = heights.gather(1, first).flatten().clamp(max=height)
    wide = widths.gather(1, first).flatten().clamp(max=width)
    top, left = (torch.rand(num) * (height - tall + 1)).floor(), (torch.rand(num) * (width - wide + 1)).floor()
    return Boxes(*(part.long() for part in (top, left, tall, wide)))


def reduce(images: Tensor, size: int) -> Tensor:
    """Resize images [B, 3, H, W] uint8 to `size` pixels, antialiased: [B, 3, size, size] uint8."""
    smaller = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).byte()


def resized_crop(images: Tensor, size: int, least_area: float, largest_ratio: float) -> Tensor:
    """Cut a random box out of each image, resize it, and mirror half of the images.

    Args:
        images: [B, 3, H, W] uint8.
        size: side of the result in pixels.
        least_area: of the box, as a share of the image; the greatest is 1.
        largest_ratio: of the longer to the shorter side of the box.

    Returns:
        [B, 3, size, size] uint8.
    """
    num, _, height, width = images.shape
    boxes = draw_boxes(num, height, width, (least_area, 1.0), largest_ratio)
    return crop_boxes(images, boxes, size, torch.rand(num) < 0.5)


def crop_boxes(images: Tensor, boxes: Boxes, size: int, is_mirrored: Tensor) -> Tensor:
    """Cut a box out of each image and resize it, bilinear and antialiased, by two matrix products.

    Args:
        images: [B, 3, H, W] uint8.
        boxes: in each image.
        size: side of the result in pixels.
        is_mirrored: [B], whether the image is mirrored.
    """
    height, width = images.shape[2:]
    boxes, is_mirrored = boxes.on(images.device), send(is_mirrored, images.device)
    rows = resampling(boxes.top, boxes.height, height, size)
    columns = resampling(boxes.left, boxes.width, width, size)
    columns = torch.where(is_mirrored.view(-1, 1, 1), columns.flip(1), columns)
    return (rows.unsqueeze(1) @ images.float() @ columns.unsqueeze(1).mT).round().clamp(0, 255).byte()


def resampling(start: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """Return the weights by which `target` pixels are made of the `length` pixels from `start` on, a triangle each.

    Args:
        start: [B].
        length: [B]; where it is more than `target`, the triangles become as much wider, which is antialiasing.
        source: pixels along this side of the images.
        target: pixels along this side of the result.

    Returns:
        [B, target, source] float32; each row adds up to 1.
    """
    start, scale = start.view(-1, 1, 1), (length / target).view(-1, 1, 1)
    centres = start + scale * (torch.arange(target, device=start.device).view(1, -1, 1) + 0.5)
    places = torch.arange(source, device=start.device) + 0.5
    is_inside = (places > start) & (places < start + length.view(-1, 1, 1))
    weights = (1 - (places - centres).abs() / scale.clamp(min=1)).clamp(min=0) * is_inside
    return weights / weights.sum(-1, keepdim=True)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """Return the central square of images [B, 3, H, W]; the images themselves if they are no larger."""
    height, width = images.shape[2:]
    top, left = (height - size) // 2, (width - size) // 2
    return images if min(height, width) <= size else images[:, :, top : top + size, left : left + size]


def turn(images: Tensor, degrees: float) -> Tensor:
    """Turn each image [B, 3, H, W] uint8 by up to so many degrees to either side; what comes in is its mirror image."""
    angles = torch.empty(len(images)).uniform_(-degrees, degrees).deg2rad()
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros(len(images))
    theta = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(send(theta, images.device), list(images.shape), align_corners=False)
    turned = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return turned.round().clamp(0, 255).byte()


def jitter_colours(images: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and saturation of each image [B, 3, H, W] uint8 by factors up to 1 +- strength."""
    for change in (brighten, contrast, saturate):
        images = change(images, send(torch.empty(len(images)).uniform_(-strength, strength), images.device))
    return images


def erase(images: Tensor, share: float) -> Tensor:
    """Blank a random box in a share of the images, https://arxiv.org/abs/1708.04896.

    Args:
        images: [B, 3, H, W], normalised; the box is filled with 0.
        share: probability that an image has one.
    """
    num, _, height, width = images.shape
    boxes = draw_boxes(num, height, width, ERASED_AREA, ERASED_RATIO)
    is_erased = torch.rand(num) < share
    return blank(images, boxes._replace(height=boxes.height * is_erased))


def blank(images: Tensor, boxes: Boxes) -> Tensor:
    """Fill a box in each image [B, 3, H, W] with 0; it may reach over the border, and one of height 0 fills none."""
    top, left, height, width = (part.view(-1, 1) for part in boxes.on(images.device))
    y, x = (torch.arange(side, device=images.device) for side in images.shape[2:])
    rows, columns = (y >= top) & (y < top + height), (x >= left) & (x < left + width)  # [B, H], [B, W]
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(inside, 0.0, images)  # masked_fill would lose the memory format
