"""Images decoded once, in parallel, and kept in the cache folder for later runs."""

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
from data.errors import UserError, message_of
from data.files import UNFINISHED, locked, sync
from data.folder_layout import NoImagesError
from data.paths import cache_dir
from data.pixels import Picture, decode_image, is_nearly_black
from data.prefetch import prefetched
from data.progress import progress_bar
from data.statistics import pixel_sums
from data.stores import ImageFile, Store, allocate
from data.visible import counted, say, visible, warn

DECODED_AHEAD = 256  # images that wait decoded in memory, at most
NUM_NAMED = 20  # files that cannot be read which are named one by one
DECODING = 3  # number of the way in which images are decoded; images decoded in another way are decoded anew


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
        images = stored(work, decoded.kept, cache, each)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{cache_dir()} cannot keep the decoded images ({reason}): make room there, or set XDG_CACHE_HOME"
        ) from None
    tell_unread(work.place, work.closed | decoded.damaged, limit)
    if isinstance(images, DecodedEachTime):
        num = counted(len(images), "image")
        say(f"{work.place}: {num}, decoded whenever they are used, {images.rate():,.0f} a second")
    labels = torch.zeros(len(images), dtype=torch.long)
    return Split(images, labels, names=decoded.kept, sums=read_sums(cache, len(images))), decoded


def stored(work: Undecoded, kept: list[str], folder: Path, each: bool) -> Store:
    """Return the images that could be read, from the file in a folder that they lie in, or to be decoded each time."""
    if each:
        return DecodedEachTime(work.decode, kept, work.image_size)
    return ImageFile(folder / "images.npy", len(kept))


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
        UserError: as for `readable`, or an image is gone when it is decoded a second time.
        OSError: the cache cannot be written, for example because the disk is full.
    """
    unfinished = cache.with_name(cache.name + UNFINISHED)
    for leftover in (unfinished, cache):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        shape = (len(work.names), 3, work.image_size, work.image_size)
        images = None if each else allocate(unfinished / "images.npy", shape)
        note, sums = go_through(work, limit, images)
        if images is not None:
            images.flush()
        if note.damaged:  # their names are in the fingerprint, which is to be that of the images without them
            note = replace(note, fingerprint=fingerprint_of(note.kept, stored(work, note.kept, unfinished, each)))
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


def go_through(work: Undecoded, limit: int, images: np.memmap | None) -> tuple[Decoded, np.ndarray]:
    """Decode all images, into the first rows of `images` if they are kept; return the note and the sums, see `decode`.

    The fingerprint is that of all names and of the images that could be read.
    """
    sizes: dict[str, tuple[int, int]] = {}
    damaged: dict[str, str] = {}
    sums = np.empty((len(work.names), 3, 2), np.int64)
    digest = hashlib.sha256(json.dumps(work.names).encode())
    for row, (name, picture) in enumerate(readable(work, limit, damaged)):
        pixels = np.ascontiguousarray(picture.pixels)
        if images is not None:
            images[row] = pixels
        digest.update(pixels.data)
        sums[row] = pixel_sums([torch.from_numpy(pixels[None])])
        sizes[name] = picture.size
    smallest, largest = [tuple(map(extreme, zip(*sizes.values(), strict=True))) for extreme in (min, max)]
    return Decoded(digest.hexdigest()[:16], list(sizes), damaged, smallest, largest), sums[: len(sizes)]


def readable(work: Undecoded, limit: int, damaged: dict[str, str]) -> Iterator[tuple[str, Picture]]:
    """Yield the names and images of those that can be read, in order; the others join `damaged`, with the reason.

    They are decoded in parallel: Pillow decodes outside the interpreter lock.

    Raises:
        UserError: more than `limit` images are damaged or closed, or all are damaged; one could not be read; or the
            values of the 16-bit images use too little of their range.
    """
    root, deepest = work.place, 0
    pictures = prefetched(work.decode, work.names, DECODED_AHEAD)
    bar = progress_bar(f"decoding {root.name}", len(work.names), "images", items=pictures)
    for name, picture in zip(work.names, bar, strict=True):
        if isinstance(picture, Exception):
            damaged[name] = reason_of(root / name, picture)
            if len(damaged) + len(work.closed) > limit:
                raise too_many_unread(root, limit, damaged | work.closed)
            continue
        deepest = max(deepest, picture.largest_of_16_bits)
        yield name, picture
    if len(damaged) == len(work.names):
        raise NoImagesError(f"{root} holds no image that can be read: name another folder with --data_dir")
    if is_nearly_black(deepest):
        raise UserError(
            f"{root}: its 16-bit images hold no value above {deepest:,} of 65,535, so they would be nearly black: "
            f"scale them to the whole range"
        )


def fingerprint_of(names: list[str], images: Store) -> str:
    """Return the hash of images and their names."""
    digest = hashlib.sha256(json.dumps(names).encode())
    with progress_bar("hashing", len(names), "images") as bar:
        for part in Split(images, torch.zeros(len(names))).parts():
            digest.update(part.numpy().data)
            bar.update(len(part))
    return digest.hexdigest()[:16]


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
    return message_of(error)


def too_many_unread(root: Path, limit: int, unread: dict[str, str]) -> UserError:
    """Return the error for a folder with more unreadable files than allowed."""
    first, reason = next(iter(unread.items()))
    return UserError(
        f"{root}: more than --max_corrupt_images={limit} files cannot be read, the first is {first}: "
        f"repair or remove them, or raise the limit ({' '.join(reason.split())})"
    )
