"""Datasets: their images as uint8 tensors, in memory or mapped from files, their splits, and what models ask about."""

import math
import unicodedata
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.statistics import Channels, channel_statistics, pixel_sums
from data.stores import ImageFile, Joined, Store
from data.visible import listed, visible

BYTES_AT_ONCE = 2**24  # of pixels that are gone through
MOST_NAMED = 3  # classes without images
NO_LABEL = "none"  # what an image without any of several labels is said to be


class Split(NamedTuple):
    """Images of one split and their labels. Images in a file stay there until they are used."""

    stored: Store  # [M, 3, H, W] uint8: the images of this split and maybe, see `rows`, of others
    labels: Tensor  # [N] int64, zeros where there are none; of several labels an image [N, C] float32 of 0 and 1
    features: Tensor | None = None  # [N, V, D] from a frozen network, if there is one: V augmented copies an image
    names: Sequence[str] = ()  # N files, as they are called in the dataset's folder; none where images are no files
    rows: Tensor | None = None  # [N] int64, where the images of this split are in `stored`; None if they are all of it
    sums: Tensor | None = None  # [N, 3, 2], of each image, see `statistics.pixel_sums`; None if they are not known
    groups: Tensor | None = None  # [N] int64: what each image shows, a patient, say; None where nobody has told it

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return tuple(self.stored.shape[1:])

    @property
    def images(self) -> Tensor:
        """All images together, [N, 3, H, W] uint8: a copy, unless they are all that is stored."""
        if self.rows is None and isinstance(self.stored, Tensor):
            return self.stored
        if self.rows is None and isinstance(self.stored, ImageFile):
            return self.stored.mapped
        return self.stored.index_select(0, self.places())

    def gather(self, index: Tensor) -> Tensor:
        """Return a copy of the images with these indices: [B] -> [B, 3, H, W] uint8."""
        return self.stored.index_select(0, index if self.rows is None else self.rows.index_select(0, index))

    def parts(self) -> Iterator[Tensor]:
        """Yield the images in order, some at a time, [B, 3, H, W] uint8."""
        for index in torch.arange(len(self.labels)).split(self.num_at_once()):
            yield self.gather(index)

    def num_at_once(self) -> int:
        """Return how many images there are in each of the `parts` but the last."""
        return max(1, BYTES_AT_ONCE // math.prod(self.image_shape))

    def select(self, index: Tensor) -> "Split":
        """Return the images with these indices [B], as a split of their own; no pixel is copied."""
        optional = (self.features, self.sums, self.groups)
        features, sums, groups = (None if part is None else part.index_select(0, index) for part in optional)
        names = [self.names[i] for i in index.tolist()] if self.names else ()
        rows = index if self.rows is None else self.rows.index_select(0, index)
        return Split(self.stored, self.labels.index_select(0, index), features, names, rows, sums, groups)

    def join(self, other: "Split") -> "Split":
        """Return the images of this split and then those of another; no pixel is copied."""
        is_shared = self.stored is other.stored
        return Split(
            self.stored if is_shared else Joined(self.stored, other.stored),
            torch.cat([self.labels, other.labels]),
            names=[*self.names, *other.names],
            rows=torch.cat([self.places(), other.places() + (0 if is_shared else len(self.stored))]),
            sums=together(self.sums, other.sums),
            groups=together(self.groups, other.groups),
        )

    def places(self) -> Tensor:
        """Return where the images are in `stored`, [N] int64."""
        return torch.arange(len(self.labels)) if self.rows is None else self.rows


def together(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return two tensors as one; None if either is missing."""
    return None if first is None or second is None else torch.cat([first, second])


class Batch(NamedTuple):
    """Images and their labels, on the device."""

    images: Tensor  # [B, 3, H, W] float32, normalised as DatasetInfo says; from a FeatureLoader features, [B, D]
    labels: Tensor  # [B] int64, zeros where there are none; of several labels an image [B, C] float32 of 0 and 1
    whole: Tensor | None = None  # in training, the images before parts of them were blanked out, if they are wanted

    @property
    def targets(self) -> Tensor:
        """What an autoencoder is to draw: the images, with nothing blanked out."""
        return self.images if self.whole is None else self.whole


@dataclass(frozen=True)
class Dataset:
    """All images of a dataset, as its load function returns them."""

    name: str
    classes: tuple[str, ...]  # empty if the images have no labels
    train: Split
    test: Split | None
    fingerprint: str  # names the content: the same images give the same fingerprint on every machine
    val: Split | None = None  # images to validate with; without them, a part of `train` is held out
    preparation: str = ""  # what became of the sizes of the images, as in "100x100 -> 64x64, centre crop"
    is_reduced: bool = False  # there are larger images in the files, which another image_size would show

    @property
    def splits(self) -> dict[str, Split]:
        """Those of "train", "val" and "test" that there are."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}


@dataclass(frozen=True)
class Source:
    """A dataset that can be loaded: the functions and facts that `data.datasets` lists under its name.

    Attributes:
        load: function of data_dir, image_size (0 for the dataset's own) and max_corrupt_images; may raise UserError.
            With `is_decoded` it takes a fourth argument: whether images are decoded whenever they are used.
            With `has_columns` it takes `label_column`, by its name.
        image_size: side in pixels, if it is known without reading an image; else 0.
        classes: names of the classes, if they are known without reading an image; else None.
        has_test_images: function that tells whether a data_dir holds test images.
        is_decoded: whether there are image files that are decoded.
        has_columns: whether it is a table, of which any column may hold the labels.
    """

    load: Callable[..., Dataset]
    image_size: int = 0
    classes: tuple[str, ...] | None = None
    has_test_images: Callable[[Path], bool] = lambda data_dir: True
    is_decoded: bool = False
    has_columns: bool = False


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a dataset that models and panels need."""

    name: str
    image_size: int  # pixels
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # one a channel, of pixel values in [0, 1]; normalisation subtracts it
    std: tuple[float, ...]  # one a channel, of pixel values in [0, 1]; normalisation then divides by it
    num_images: dict[str, int]  # in each split
    fingerprint: str
    class_sizes: tuple[int, int] = (0, 0)  # images of the smallest and of the largest class, to train and validate with
    has_own_val: bool = False  # the dataset has images to validate with, beside those to train on
    preparation: str = ""  # what became of the sizes of the images, as in "100x100 -> 64x64, centre crop"
    is_reduced: bool = False  # there are larger images in the files, which another image_size would show
    class_counts: tuple[int, ...] = ()  # images of each class to train on
    stored_size: int = 0  # side of images as they are kept, of which models see the central square; 0: image_size
    held_out: str = ""  # how the images to validate with were chosen, where it was not at random
    several_labels: bool = False  # an image may be of several of the classes, or of none

    @property
    def kept_size(self) -> int:
        """Side in pixels of the images as they are kept, of which models see the central `image_size`."""
        return self.stored_size or self.image_size

    def in_one_line(self) -> str:
        """Return what a run trains on: classes, splits and sizes of the images, for people to check."""
        fewest, most = (f"{size:,}" for size in self.class_sizes)
        sizes = fewest if fewest == most else f"{fewest}-{most}"
        kind = "labels, several an image" if self.several_labels else "classes"
        classes = f"{len(self.classes)} {kind} ({sizes} each{self.never_seen()})" if self.classes else "no classes"
        splits = " / ".join(f"{self.num_images.get(name, 0):,} {name}" for name in ("train", "val", "test"))
        note = self.held_out
        if self.has_own_val and not note:
            note = "--val_fraction=0: the dataset's own val images are trained on"
            if "val" in self.num_images:
                note = "val is the dataset's own, which --val_fraction=0 would train on, too"
        own = f" ({note})" if note else ""
        preparation = self.preparation or f"{self.kept_size}x{self.kept_size}"
        if self.stored_size:
            preparation += f", of which {self.image_size}x{self.image_size} are seen"
        return f"{classes}, {splits}{own}, {preparation}"

    def never_seen(self) -> str:
        """Return which classes no image to train on has, as labels counted from 1 leave class 0; "" for none."""
        names = [name for name, num in zip(self.classes, self.class_counts, strict=False) if not num]
        if not names:
            return ""
        have = "class {} has" if len(names) == 1 else "classes {} have"
        return f"; {have.format(listed(names, MOST_NAMED))} no image to train on"

    def named(self, label: Tensor) -> str:
        """Return the class of an image as people read it, or its labels; "" where there are no classes.

        Args:
            label: [] int64, or [C] of 0 and 1.
        """
        if self.several_labels:
            return ", ".join(self.classes[i] for i in label.nonzero().flatten().tolist()) or NO_LABEL
        return self.classes[int(label)] if self.classes else ""

    def blank_labels(self, num: int) -> Tensor:
        """Return labels of `num` images of which none are known, zeros in the form of the dataset's."""
        return torch.zeros(num, len(self.classes)) if self.several_labels else torch.zeros(num, dtype=torch.int64)

    def to_unit_range(self, images: Tensor) -> Tensor:
        """Undo the normalisation: turn images [B, 3, H, W] as models see them into images in [0, 1]."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1)


def class_name(text: str) -> str:
    """Return the name of a class in Unicode's form NFC, with all that no file or terminal can show escaped."""
    return visible(unicodedata.normalize("NFC", text))


def pixel_statistics(normalisation: str, train: Split) -> tuple[Channels, Channels]:
    """Return the means and deviations that a value of the setting `normalisation` stands for, see `DatasetInfo`.

    Args:
        normalisation: "symmetric" for pixels in [-1, 1], "unit" for [0, 1], else the channels' own statistics.
        train: the training images.
    """
    fixed = {"symmetric": ((0.5,) * 3, (0.5,) * 3), "unit": ((0.0,) * 3, (1.0,) * 3)}
    if normalisation in fixed:
        return fixed[normalisation]
    sums = pixel_sums(train.parts()) if train.sums is None else train.sums.sum(0)
    return channel_statistics(sums.tolist(), len(train.labels) * math.prod(train.image_shape[1:]))


def split_looked_at(splits: Container[str]) -> str:
    """Return the split whose images are looked at where none is named: the test images, if there are any."""
    return next(name for name in ("test", "val", "train") if name in splits)
