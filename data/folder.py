"""A dataset made of image files in a folder, of any size and in any format that Pillow reads.

With labels, each class has a folder: `ROOT/CLASS/*.jpg`. Without labels, the images lie in one folder: `ROOT/*.jpg`.
If there are test images, `ROOT/train` and `ROOT/test` are each laid out in that way, and so is `ROOT/val`, whose images
are then those to validate with.

The images are decoded once, in parallel, and kept as a uint8 array in the cache folder; later runs map that array into
memory. Or they are decoded whenever they are used, see `decode_each`.
"""

import os
from collections import Counter
from pathlib import Path

import torch

from data import decoding
from data.dataset import Dataset, Source, Split
from data.decoding import Decoded
from data.errors import UserError
from data.folder_layout import Listing, find_splits, left_out_line, list_images, refuse_classes_beside_splits
from data.visible import visible, warn

IMAGE_SIZE = 64  # pixels, if no other size is asked for


def load(data_dir: Path, image_size: int, max_corrupt_images: int, each: bool = False) -> Dataset:
    """Return the images of a folder, each cropped to its central square and resized to `image_size` (0 for 64).

    With `each` they are decoded whenever they are used.

    Raises:
        UserError: there are no images, the layout of the folders can be read in two ways, images lie beside class
            folders, held-out images have other classes than the training images, or more than `max_corrupt_images`
            files of a split cannot be read.
    """
    size = image_size or IMAGE_SIZE
    decoding.sweep_decoded()
    roots = find_splits(data_dir) if data_dir.is_dir() else {}
    left_out = refuse_classes_beside_splits(data_dir, roots) if roots else Counter()
    listings = {name: list_images(root) for name, root in (roots or {"train": data_dir}).items()}
    classes = listings["train"].classes
    splits: dict[str, Split] = {}
    notes: dict[str, Decoded] = {}
    for name in ("train", "val", "test"):
        if name in listings:
            listing = listings[name]
            check_classes(listing, listings["train"])
            left_out += listing.left_out
            split, notes[name] = read_split(listing, classes, size, max_corrupt_images, each)
            within = f"{listing.root.name}/" if roots else ""
            splits[name] = split._replace(names=[within + file for file in split.names])
    if left_out:
        warn(f"{visible(data_dir)}: {left_out_line(left_out)}")
    marks = {"train": "", "val": "-val", "test": "-"}
    return Dataset(
        data_dir.resolve().name,
        classes,
        splits["train"],
        splits.get("test"),
        "".join(marks[name] + note.fingerprint for name, note in notes.items()),
        val=splits.get("val"),
        preparation=describe_sizes(list(notes.values()), size),
        is_reduced=max(max(note.largest) for note in notes.values()) > size,
    )


def has_test_images(data_dir: Path) -> bool:
    """Return whether there are test images as well as training images; True where `load` will refuse the layout."""
    try:
        return data_dir.is_dir() and "test" in find_splits(data_dir)
    except UserError:
        return True


def check_classes(listing: Listing, train: Listing) -> None:
    """Check that held-out images have no class that the training images lack.

    Raises:
        UserError: they have one, or no class folders at all.
    """
    if train.classes and not listing.classes:
        raise UserError(f"{listing.root} has no class folders, but {train.root} has: sort its images so")
    if unknown := sorted(set(listing.classes) - set(train.classes)):
        raise UserError(f"{listing.root / unknown[0]} is a class that {train.root} lacks: add or remove it")


def describe_sizes(notes: list[Decoded], size: int) -> str:
    """Return what becomes of the images' sizes, as in "75x100 to 640x480 -> 64x64, centre crop"."""
    smallest = [min(note.smallest[side] for note in notes) for side in (0, 1)]
    largest = [max(note.largest[side] for note in notes) for side in (0, 1)]
    texts = ["{}x{}".format(*sides) for sides in (smallest, largest, (size, size))]
    if len(set(texts)) == 1:
        return texts[0]
    return f"{' to '.join(dict.fromkeys(texts[:2]))} -> {texts[2]}, centre crop"


def read_split(
    listing: Listing, classes: tuple[str, ...], image_size: int, max_corrupt_images: int, each: bool
) -> tuple[Split, Decoded]:
    """Return the images of a split with their labels, and the note beside them.

    The files are decoded unless an earlier run left them in the cache. Those that cannot be read are named.

    Raises:
        UserError: more than `max_corrupt_images` files cannot be read, or none can.
    """
    root = listing.root
    closed = {os.path.relpath(path, root): "it may not be opened" for path in listing.unreadable}
    work = decoding.of_files(root, listing.files, image_size, closed)
    split, decoded = decoding.read(work, max_corrupt_images, each)
    own_labels = dict(zip(work.names, listing.labels, strict=True))
    labels = [classes.index(name) for name in listing.classes]  # by the label in this split alone
    numbers = torch.tensor([labels[own_labels[name]] if labels else 0 for name in decoded.kept])
    return split._replace(labels=numbers), decoded


SOURCE = Source(load, has_test_images=has_test_images, is_decoded=True)
