"""Panels: grids of images for people to look at. Models make them, and `analysis.look.panels` renders them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

COLUMNS = 8
NUM_SAMPLES = 64  # images in a panel of samples
ROWS_BY_CLASS = 8  # rows of a panel of samples that has one column for each class
MOST_CLASSES = 20  # columns that such a panel has at most


class Panel(NamedTuple):
    """A grid of images, filled row by row."""

    images: Tensor  # [N, 3, H, W] in [0, 1]
    captions: tuple[str, ...] = ()  # one for each image, or none at all
    marks: tuple[bool, ...] = ()  # for each image whether its prediction is right, or none at all
    columns: int = COLUMNS


def class_columns(decode: Callable[[Tensor, Tensor], Tensor], latents: Tensor, classes: Sequence[str]) -> Panel:
    """Return a panel of a conditional model's samples, with a column for each class and a row for each latent.

    Args:
        decode: function from latents [N, Z] and labels [N] to images [N, 3, H, W] in [0, 1].
        latents: [M, Z], at least 8 of them; the first 8 are shown.
        classes: names of the classes; the first 20 are shown.
    """
    names = tuple(classes[:MOST_CLASSES])
    labels = torch.arange(len(names), device=latents.device).repeat(ROWS_BY_CLASS)
    images = decode(latents[:ROWS_BY_CLASS].repeat_interleave(len(names), dim=0), labels)
    return Panel(images, names * ROWS_BY_CLASS, columns=len(names))


def side_by_side(pictures: Tensor, reconstructions: Tensor) -> Panel:
    """Return a panel in which each row of images stands above the row of their reconstructions.

    Args:
        pictures: [N, 3, H, W] in [0, 1]; a last row that is not full is left out.
        reconstructions: of those images, with the same shape.
    """
    columns = min(COLUMNS, len(pictures))
    num = len(pictures) // columns * columns
    rows = [images[:num].float().unflatten(0, (-1, columns)) for images in (pictures, reconstructions)]
    return Panel(torch.stack(rows, dim=1).flatten(0, 2), columns=columns)
