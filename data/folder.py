"""A dataset made of image files in a folder, of any size and in any format that Pillow reads.

With labels, each class has a folder: `ROOT/CLASS/*.jpg`. Without labels, the images lie in one folder: `ROOT/*.jpg`.
If there are test images, `ROOT/train` and `ROOT/test` are each laid out in that way, and so is `ROOT/val`, whose images
are then those to validate with.

The images are decoded once, in parallel, and kept as a uint8 array in the cache folder; later runs map that array into
memory.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from data.dataset import Dataset, Source, Split
from data.errors import UserError
from data.files import UNFINISHED, locked, sync
from data.folder_layout import (
    Listing,
    NoImagesError,
    find_splits,
    left_out_line,
    list_images,
    refuse_classes_beside_splits,
)
from data.paths import cache_dir
from data.pixels import decode_image

IMAGE_SIZE = 64  # pixels, if no other size is asked for
NUM_NAMED = 20  # files that cannot be read which are named one by one
LARGEST_OF_12_BITS = 4095
DECODING = 2  # number of the way in which images are decoded; images decoded in another way are decoded anew


@dataclass(frozen=True)
class Decoded:
    """The note beside decoded images.

    Attributes:
        fingerprint: hash of the images and their names.
        kept: names of the files that could be read, in the order of the images.
        damaged: name of each other file -> why it could not be read.
        smallest, largest: width and height that all images have at least, and at most.
    """

    fingerprint: str
    kept: list[str]
    damaged: dict[str, str]
    smallest: tuple[int, int]
    largest: tuple[int, int]


def load(data_dir: Path, image_size: int, max_corrupt_images: int) -> Dataset:
    """Return the images of a folder, each cropped to its central square and resized to `image_size` (0 for 64).

    Raises:
        UserError: there are no images, the layout of the folders can be read in two ways, images lie beside class
            folders, held-out images have other classes than the training images, or more than `max_corrupt_images`
            files of a split cannot be read.
    """
    size = image_size or IMAGE_SIZE
    sweep_decoded()
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
            splits[name], notes[name] = read_split(listing, classes, size, max_corrupt_images)
    if left_out:
        print(f"{data_dir}: {left_out_line(left_out)}", file=sys.stderr)
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
    listing: Listing, classes: tuple[str, ...], image_size: int, max_corrupt_images: int
) -> tuple[Split, Decoded]:
    """Return the images of a split with their labels, and the note beside them.

    The files are decoded unless an earlier run left them in the cache. Those that cannot be read are named.

    Raises:
        UserError: more than `max_corrupt_images` files cannot be read, or none can.
    """
    root = listing.root
    names = [path.relative_to(root).as_posix() for path in listing.files]
    stats = [path.stat() for path in listing.files]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)]
    key = hashlib.sha256(json.dumps([str(root.resolve()), files, image_size, DECODING]).encode()).hexdigest()[:16]
    cache = decoded_dir() / key
    closed = {path.relative_to(root).as_posix(): "it may not be opened" for path in listing.unreadable}
    try:
        decoded = read_note(cache)
        if decoded is None:
            with locked(lock_of(key), f"another process decodes {root}: waiting for it"):
                decoded = read_note(cache)
                if decoded is None:
                    decoded = decode(root, names, image_size, max_corrupt_images, closed, cache)
        # Copy-on-write: pixels are read only when they are used, and torch gets the writable array that it insists on.
        images = torch.from_numpy(np.load(cache / "images.npy", mmap_mode="c")[: len(decoded.kept)])
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{cache_dir()} cannot keep the decoded images ({reason}): make room there, or set XDG_CACHE_HOME"
        ) from None
    tell_unread(root, closed | decoded.damaged, max_corrupt_images)
    own_labels = dict(zip(names, listing.labels, strict=True))
    labels = [classes.index(name) for name in listing.classes]  # by the label in this split alone
    return Split(images, torch.tensor([labels[own_labels[name]] if labels else 0 for name in decoded.kept])), decoded


def tell_unread(root: Path, unread: dict[str, str], limit: int) -> None:
    """Name the files that cannot be read, and why.

    Raises:
        UserError: there are more than `limit`.
    """
    if len(unread) > limit:
        raise too_many_unread(root, limit, *next(iter(unread.items())))
    for name, reason in list(unread.items())[:NUM_NAMED]:
        print(f"{root / name} cannot be read and is skipped: {reason}", file=sys.stderr)
    if len(unread) > NUM_NAMED:
        print(f"{root}: {len(unread) - NUM_NAMED:,} more files cannot be read and are skipped", file=sys.stderr)


def too_many_unread(root: Path, limit: int, first: str, reason: str) -> UserError:
    """Return the error for a folder with more unreadable files than allowed."""
    return UserError(
        f"{root}: more than --max_corrupt_images={limit} files cannot be read, the first is {first}: "
        f"repair or remove them, or raise the limit ({' '.join(reason.split())})"
    )


def decoded_dir() -> Path:
    """Return the folder of decoded images, with a folder for each list of files and image size."""
    return cache_dir() / "decoded"


def lock_of(key: str) -> Path:
    """Return the file that is locked while the images of this key are decoded."""
    return cache_dir() / "locks" / f"decoded-{key}.lock"


def sweep_decoded() -> None:
    """Remove what processes that were killed while they decoded have left."""
    for leftover in decoded_dir().glob(f"*{UNFINISHED}"):
        try:
            with FileLock(lock_of(leftover.stem), timeout=0, mode=0o666):  # else its process still lives
                shutil.rmtree(leftover, ignore_errors=True)
        except (Timeout, OSError):
            continue


def read_note(cache: Path) -> Decoded | None:
    """Return the note beside decoded images; None if they are not there or not whole."""
    try:
        note = Decoded(**json.loads((cache / "files.json").read_text("utf-8")))
        np.load(cache / "images.npy", mmap_mode="r")
    except (OSError, ValueError, TypeError, EOFError):
        return None
    return note


def decode(root: Path, names: list[str], image_size: int, limit: int, closed: dict[str, str], cache: Path) -> Decoded:
    """Decode all files and write the result to the folder `cache`; call it with the lock held.

    images.npy holds the images, [N, 3, H, W] uint8, and at its end a row without meaning for each damaged file;
    files.json holds the note that is returned.

    Raises:
        UserError: more than `limit` files are damaged or `closed`, or all are damaged; one could not be read; or the
            values of the 16-bit images use too little of their range.
        OSError: the cache cannot be written, for example because the disk is full.
    """
    unfinished = cache.with_name(cache.name + UNFINISHED)
    for leftover in (unfinished, cache):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        images = allocate(unfinished / "images.npy", (len(names), 3, image_size, image_size))
        note = decode_into(images, root, names, limit, closed)
        images.flush()
        sync(unfinished / "images.npy")
        (unfinished / "files.json").write_text(json.dumps(asdict(note)), "utf-8")
        sync(unfinished / "files.json")
        unfinished.rename(cache)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return note


def allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Return a new array of bytes in a file, for which there is room on the disk: else a write would end the process.

    Raises:
        OSError: there is no room for it.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with path.open("rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot tell
                raise
    return array


def decode_into(images: np.memmap, root: Path, names: list[str], limit: int, closed: dict[str, str]) -> Decoded:
    """Decode files in parallel into the first rows of `images`; see `decode`."""
    kept: list[str] = []
    damaged: dict[str, str] = {}
    sizes: list[tuple[int, int]] = []
    largest_of_16_bits = 0
    pool = ThreadPoolExecutor()  # Pillow decodes outside the interpreter lock
    try:
        decoded = pool.map(lambda name: decode_image(root / name, images.shape[-1]), names)
        bar = tqdm(decoded, f"decoding {root.name}", len(names), unit=" images", disable=None)
        for name, picture in zip(names, bar, strict=True):
            if isinstance(picture, Exception):
                damaged[name] = reason_of(root / name, picture)
                if len(damaged) + len(closed) > limit:
                    raise too_many_unread(root, limit, *next(iter({**damaged, **closed}.items())))
            else:
                images[len(kept)] = picture.pixels
                kept.append(name)
                sizes.append(picture.size)
                largest_of_16_bits = max(largest_of_16_bits, picture.largest_of_16_bits)
    finally:
        pool.shutdown(cancel_futures=True)
    if not kept:
        raise NoImagesError(f"{root} holds no image that can be read: name another folder with --data_dir")
    if 0 < largest_of_16_bits <= LARGEST_OF_12_BITS:
        raise UserError(
            f"{root}: its 16-bit images hold no value above {largest_of_16_bits:,} of 65,535, so they would be nearly "
            f"black: scale them to the whole range"
        )
    digest = hashlib.sha256(json.dumps(kept).encode())
    for pixels in images[: len(kept)]:
        digest.update(pixels)
    widths, heights = zip(*sizes, strict=True)
    extremes = [(function(widths), function(heights)) for function in (min, max)]
    return Decoded(digest.hexdigest()[:16], kept, damaged, *extremes)


def reason_of(path: Path, error: Exception) -> str:
    """Return why a file is damaged.

    Raises:
        UserError: it could not be read at all, which says nothing about the file.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
        reason = getattr(error, "strerror", None) or "not enough memory"
        raise UserError(f"{path} could not be read ({reason}): see to that, or move the file away")
    return " ".join(str(error).split()) or type(error).__name__


SOURCE = Source(load, has_test_images=has_test_images)
