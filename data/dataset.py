"""Images as uint8 tensors, their splits, and what is known of a dataset."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError


class Split(NamedTuple):
    """Images of one split and their labels, in main memory."""

    images: Tensor  # [N, 3, H, W] uint8
    labels: Tensor  # [N] int64; zeros where the dataset has none
    features: Tensor | None = None  # [N, V, D] of V copies of each image, where a frozen network has seen them


class Batch(NamedTuple):
    """Images and their labels, on the device."""

    images: Tensor  # [B, 3, H, W] float32, normalised as DatasetInfo says; or features of them, [B, D] float32
    labels: Tensor  # [B] int64; zeros where the dataset has none


@dataclass(frozen=True)
class Dataset:
    """What a dataset's loader function returns."""

    name: str
    classes: tuple[str, ...]  # empty where the images have no labels
    train: Split
    test: Split | None
    fingerprint: str  # hash of the content, the same wherever the same images lie


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from; its line in `data.datasets` names one.

    Attributes:
        load: takes data_dir, image_size (0 for the dataset's own) and max_corrupt_images, and may raise UserError.
        image_size: side in pixels, where it is known without reading an image; else 0.
        classes: names of the classes, where they are known without reading an image; else None.
        has_test_images: whether a data_dir holds test images.
    """

    load: Callable[[Path, int, int], Dataset]
    image_size: int = 0
    classes: tuple[str, ...] | None = None
    has_test_images: Callable[[Path], bool] = lambda data_dir: True


@dataclass(frozen=True)
class DatasetInfo:
    """What models and panels need to know of the images they are given."""

    name: str
    image_size: int  # pixels
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # of each channel, in [0, 1] units; what normalisation subtracts
    std: tuple[float, ...]  # of each channel, in [0, 1] units; what it divides by
    num_images: dict[str, int]  # by split
    fingerprint: str

    def to_unit_range(self, images: Tensor) -> Tensor:
        """Undo the normalisation: [B, 3, H, W] as models see them, to [0, 1]."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1)


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A random order of the images in which every stretch holds the classes in their proportions.

    It is a function of the labels and the seed alone: numpy keeps RandomState's stream the same for ever.

    Args:
        labels: [N] int64.
        seed: of the order.

    Returns:
        [N] int64 indices.
    """
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(labels))
    classes = labels.numpy()[shuffled]
    place = np.empty(len(labels))  # in (0, 1): how far through its own class an image stands
    names = np.unique(classes)
    # Each class starts at a place of its own, else the first stretch would lack all the small ones.
    for label, start in zip(names, (random.permutation(len(names)) + 0.5) / len(names), strict=True):
        members = np.flatnonzero(classes == label)
        place[members] = (np.arange(len(members)) + start) / len(members)
    return torch.from_numpy(shuffled[np.argsort(place, kind="stable")])


def make_splits(dataset: Dataset, train_fraction: float, val_fraction: float, seed: int) -> dict[str, Split]:
    """Training, validation and test split of a dataset; the first two are stratified parts of its training images.

    Args:
        dataset: all its images.
        train_fraction: share of the training images used at all.
        val_fraction: share of those held out; 0 for no validation split.
        seed: of the splits, see `stratified_order`.

    Raises:
        UserError: a split asked for would hold no image.
    """
    total = len(dataset.train.labels)
    num_used = round(total * train_fraction)
    num_val = round(num_used * val_fraction)
    if num_used - num_val < 1:
        raise UserError(f"--train_fraction={train_fraction} leaves none of {total} images to train on: raise it")
    if val_fraction and num_val == 0:
        raise UserError(f"--val_fraction={val_fraction} leaves no validation image of {num_used}: raise it, or give 0")
    order = stratified_order(dataset.train.labels, seed)
    parts = {"train": order[num_val:num_used], "val": order[:num_val]}
    splits = {
        name: Split(dataset.train.images.index_select(0, index), dataset.train.labels.index_select(0, index))
        for name, index in parts.items()
        if len(index)
    }
    return splits if dataset.test is None else {**splits, "test": dataset.test}


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation of each channel, in [0, 1] units.

    Args:
        images: [N, 3, H, W] uint8.

    Returns:
        Three means and three deviations; a channel of one value gets deviation 1.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(mean.item())
        deviations.append((share * (values - mean) ** 2).sum().sqrt().item() or 1.0)
    return tuple(means), tuple(deviations)


def pixel_statistics(normalisation: str, images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What the setting `normalisation` subtracts and divides by, given the training images [N, 3, H, W] uint8."""
    fixed = {"symmetric": ((0.5,) * 3, (0.5,) * 3), "unit": ((0.0,) * 3, (1.0,) * 3)}
    return fixed.get(normalisation) or channel_statistics(images)
