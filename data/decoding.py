"""Images decoded once, in parallel, and kept in the cache folder for later runs."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from data.dataset import Split
from data.decode_each import DecodedEachTime
from data.errors import UserError
from data.files import UNFINISHED, locked, sync
from data.folder_layout import NoImagesError
from data.paths import cache_dir
from data.pixels import Picture, decode_image, is_nearly_black
from data.prefetch import prefetched
from data.progress import progress_bar
from data.statistics import pixel_sums
from data.stores import ImageFile, Store
from data.visible import counted, say, visible, warn

DECODED_AHEAD = 256  # images that wait decoded in memory, at most
NUM_NAMED = 20  # files that cannot be read which are named one by one
DECODING = 2  # number of the way in which images are decoded; images decoded in another way are decoded anew


@dataclass(frozen=True)
class Undecoded:
    """Images that are to be decoded, unless an earlier run has decoded them.

    Attributes:
        place: the folder that they lie in, or the name of the dataset that they are part of.
        names: of the images, within that place.
        identity: what tells these images from all others, for JSON.
        image_size: side in pixels to which they are resized.
        decode: function of a name, that returns the image or the error if it cannot be read.
        closed: name of each file that may not be opened -> why; they are not among `names`.
    """

    place: Path
    names: list[str]
    identity: Sequence[object]
    image_size: int
    decode: Callable[[str], Picture | Exception]
    closed: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of the folder of the decoded images."""
        return hashlib.sha256(json.dumps([*self.identity, self.image_size, DECODING]).encode()).hexdigest()[:16]


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


def of_files(root: Path, paths: Sequence[str | Path], image_size: int, closed: dict[str, str] = {}) -> Undecoded:
    """Return image files below a folder as images that are to be decoded, known by their sizes and times.

    Raises:
        UserError: one of them is gone.
    """
    start = os.path.join(root, "")
    names = [os.fspath(path).removeprefix(start) for path in paths]  # relative_to takes seconds for 100,000
    try:
        stats = [os.stat(path) for path in paths]
    except OSError as error:  # removed in the meantime, say
        raise UserError(f"{error.filename} could not be read ({error.strerror}): start again") from None
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)]
    identity = (str(root.resolve()), files)
    return Undecoded(root, names, identity, image_size, lambda name: decode_image(root / name, image_size), closed)


def decoded_dir() -> Path:
    """Return the folder of decoded images, with a folder for each list of files and image size."""
    return cache_dir() / "decoded"


def lock_of(key: str) -> Path:
    """Return the file that is locked while the images of this key are decoded."""
    return cache_dir() / "locks" / f"decoded-{key}.lock"


def sweep_decoded() -> None:
    """Remove what processes that were killed while they decoded have left."""
    for leftover in decoded_dir().glob(f"*{UNFINISHED}"):
        # Where the lock is held, its process still lives.
        with suppress(Timeout, OSError), FileLock(lock_of(leftover.stem), timeout=0, mode=0o666):
            shutil.rmtree(leftover, ignore_errors=True)


def read_note(cache: Path, each: bool) -> Decoded | None:
    """Return the note beside decoded images, which with `each` are not kept; None if one is missing or damaged."""
    try:
        note = Decoded(**json.loads((cache / "files.json").read_text("utf-8")))
        if not each:
            np.load(cache / "images.npy", mmap_mode="r")
    except (OSError, ValueError, TypeError, EOFError):
        return None
    return note


def read(work: Undecoded, limit: int, each: bool = False) -> tuple[Split, Decoded]:
    """Return decoded images, with zeros for labels, and the note beside them.

    They are decoded unless an earlier run left them in the cache. Those that cannot be read are named.

    Args:
        work: the images.
        limit: of those that cannot be read.
        each: keep the note alone, and decode images whenever they are used.

    Raises:
        UserError: more than `limit` images cannot be read, or none can.
    """
    cache = decoded_dir() / work.key
    try:
        decoded = read_note(cache, each)
        if decoded is None:
            with locked(lock_of(work.key), f"another process decodes {work.place}: waiting for it"):
                decoded = read_note(cache, each)
                if decoded is None:
                    decoded = decode(work, limit, cache, each)
        images = stored(work, decoded, cache, each)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{cache_dir()} cannot keep the decoded images ({reason}): make room there, or set XDG_CACHE_HOME"
        ) from None
    tell_unread(work.place, work.closed | decoded.damaged, limit)
    labels = torch.zeros(len(images), dtype=torch.long)
    return Split(images, labels, names=decoded.kept, sums=read_sums(cache, len(images))), decoded


def stored(work: Undecoded, note: Decoded, cache: Path, each: bool) -> Store:
    """Return the images of a work, from the file that they have been decoded into, or to be decoded each time."""
    if not each:
        return ImageFile(cache / "images.npy", len(note.kept))
    images = DecodedEachTime(work.decode, note.kept, work.image_size)
    say(f"{work.place}: {counted(len(images), 'image')}, decoded whenever they are used, {images.rate():,.0f} a second")
    return images


def tell_unread(place: Path, unread: dict[str, str], limit: int) -> None:
    """Name the files that cannot be read, and why.

    Raises:
        UserError: there are more than `limit`.
    """
    if len(unread) > limit:
        raise too_many_unread(place, limit, unread)
    for name, reason in list(unread.items())[:NUM_NAMED]:
        warn(f"{visible(place / name)} cannot be read and is skipped: {visible(reason)}")
    if len(unread) > NUM_NAMED:
        warn(f"{visible(place)}: {counted(len(unread) - NUM_NAMED, 'more file')} cannot be read: skipped, too")


def decode(work: Undecoded, limit: int, cache: Path, each: bool) -> Decoded:
    """Decode all images and write the result to the folder `cache`; call it with the lock held.

    images.npy, which is not written with `each`, holds the images, [N, 3, H, W] uint8, and at its end a row without
    meaning for each damaged file; sums.npy holds the sums of each image's pixels, [N, 3, 2]; files.json holds the note
    that is returned.

    Raises:
        UserError: more than `limit` images are damaged or closed, or all are damaged; one could not be read; or the
            values of the 16-bit images use too little of their range.
        OSError: the cache cannot be written, for example because the disk is full.
    """
    unfinished = cache.with_name(cache.name + UNFINISHED)
    for leftover in (unfinished, cache):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        shape = (len(work.names), 3, work.image_size, work.image_size)
        images = None if each else allocate(unfinished / "images.npy", shape)
        note, sums = decode_into(images, work, limit)
        if images is not None:
            images.flush()
        np.save(unfinished / "sums.npy", sums)
        (unfinished / "files.json").write_text(json.dumps(asdict(note)), "utf-8")
        for path in unfinished.iterdir():
            sync(path)
        try:
            unfinished.rename(cache)
        except OSError:  # on NFS another machine's, just made, is not seen at once
            if read_note(cache, each) is None:
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return note


def allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Return a new array of bytes in a file, for which there is room on the disk: else a write would end the process.

    Raises:
        OSError: there is no room for it.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # which macOS lacks
        with path.open("rb+") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot tell
                    raise
    return array


def decode_into(images: np.memmap | None, work: Undecoded, limit: int) -> tuple[Decoded, np.ndarray]:
    """Decode images in parallel into the first rows of `images`, if any, and return the sums of each; see `decode`."""
    root, names, closed = work.place, work.names, work.closed
    kept: list[str] = []
    damaged: dict[str, str] = {}
    sizes: list[tuple[int, int]] = []
    sums = np.empty((len(names), 3, 2), np.int64)
    largest_of_16_bits = 0
    digest = hashlib.sha256(json.dumps(names).encode())
    bar = progress_bar(f"decoding {root.name}", len(names), "images", items=decoded_in_turn(work))
    for name, picture in zip(names, bar, strict=True):
        if isinstance(picture, Exception):
            damaged[name] = reason_of(root / name, picture)
            if len(damaged) + len(closed) > limit:
                raise too_many_unread(root, limit, damaged | closed)
            continue
        row, pixels = len(kept), np.ascontiguousarray(picture.pixels)
        if images is not None:
            images[row] = pixels
        digest.update(pixels.data)
        sums[row] = pixel_sums([torch.from_numpy(pixels[None])])
        kept.append(name)
        sizes.append(picture.size)
        largest_of_16_bits = max(largest_of_16_bits, picture.largest_of_16_bits)
    if not kept:
        raise NoImagesError(f"{root} holds no image that can be read: name another folder with --data_dir")
    if is_nearly_black(largest_of_16_bits):
        raise UserError(
            f"{root}: its 16-bit images hold no value above {largest_of_16_bits:,} of 65,535, so they would be nearly "
            f"black: scale them to the whole range"
        )
    if damaged:  # then other names come before the images in what is hashed
        digest = hashlib.sha256(json.dumps(kept).encode())
        again = decoded_in_turn(replace(work, names=kept)) if images is None else ()
        pictures = (each.pixels for each in again if isinstance(each, Picture))
        for pixels in pictures if images is None else images[: len(kept)]:
            digest.update(np.ascontiguousarray(pixels).data)
    widths, heights = zip(*sizes, strict=True)
    extremes = [(function(widths), function(heights)) for function in (min, max)]
    return Decoded(digest.hexdigest()[:16], kept, damaged, *extremes), sums[: len(kept)]


def decoded_in_turn(work: Undecoded) -> Iterator[Picture | Exception]:
    """Yield all images of a work in order, decoded in parallel: Pillow decodes outside the interpreter lock."""
    return prefetched(work.decode, work.names, DECODED_AHEAD)


def read_sums(cache: Path, num_images: int) -> Tensor | None:
    """Return the sums of each image's pixels, [N, 3, 2]; None where an older version has decoded the images."""
    try:
        sums = np.load(cache / "sums.npy")
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(sums) if sums.shape == (num_images, 3, 2) and sums.dtype == np.int64 else None


def reason_of(path: Path, error: Exception) -> str:
    """Return why a file is damaged.

    Raises:
        UserError: it could not be read at all, which says nothing about the file.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
        reason = getattr(error, "strerror", None) or "not enough memory"
        raise UserError(f"{path} could not be read ({reason}): see to that, or move the file away")
    return " ".join(str(error).split()) or type(error).__name__


def too_many_unread(root: Path, limit: int, unread: dict[str, str]) -> UserError:
    """Return the error for a folder with more unreadable files than allowed."""
    first, reason = next(iter(unread.items()))
    return UserError(
        f"{root}: more than --max_corrupt_images={limit} files cannot be read, the first is {first}: "
        f"repair or remove them, or raise the limit ({' '.join(reason.split())})"
    )
