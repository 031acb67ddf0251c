"""A dataset made of image files in a folder, of any size and in any format that Pillow reads.

With labels, each class has a folder: `ROOT/CLASS/*.jpg`. Without labels, the images lie in one folder: `ROOT/*.jpg`.
If there are test images, `ROOT/train` and `ROOT/test` are each laid out in that way.

The images are decoded once, in parallel, and kept as a uint8 array in the cache folder; later runs map that array into
memory.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from data.dataset import Dataset, Source, Split
from data.errors import UserError
from data.paths import cache_dir

IMAGE_SIZE = 64  # pixels, if no other size is asked for
SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff"])


class NoImagesError(UserError):
    """The folder is missing, or holds no image."""


def load(data_dir: Path, image_size: int, max_corrupt_images: int) -> Dataset:
    """Return the images of a folder, each cropped to its central square and resized to `image_size` (0 for 64).

    Raises:
        UserError: there are no images, images lie beside class folders, the test images have other classes than the
            training images, or more than `max_corrupt_images` files of a split cannot be read.
    """
    size = image_size or IMAGE_SIZE
    has_splits = (data_dir / "train").is_dir()
    train_root = data_dir / "train" if has_splits else data_dir
    if has_splits and (data_dir / "val").is_dir():
        raise UserError(f"{data_dir / 'val'} would not be used: rename it to test, or move its images into train")
    train_files, classes = list_images(train_root)
    train, fingerprint = read_split(train_root, train_files, classes, size, max_corrupt_images)
    test = None
    if has_test_images(data_dir):
        test_files, test_classes = list_images(data_dir / "test")
        if classes and not test_classes:
            raise UserError(f"{data_dir / 'test'} has no class folders, but {train_root} has: sort its images so")
        if unknown := sorted(set(test_classes) - set(classes)):
            raise UserError(f"{data_dir / 'test' / unknown[0]} is a class that {train_root} lacks: add or remove it")
        test, test_fingerprint = read_split(data_dir / "test", test_files, classes, size, max_corrupt_images)
        fingerprint += "-" + test_fingerprint
    return Dataset(data_dir.resolve().name, classes, train, test, fingerprint)


def has_test_images(data_dir: Path) -> bool:
    """Return whether there are test images as well as training images."""
    return (data_dir / "train").is_dir() and (data_dir / "test").is_dir()


def list_images(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the image files below `root`, sorted, and the names of its class folders.

    There are no class names if the images lie in `root` itself.

    Raises:
        UserError: `root` is no folder, holds no image, or holds images beside class folders.
    """
    if not root.is_dir():
        raise NoImagesError(f"{root} is not a folder: name the folder of your images with --data_dir")
    loose = [path for path in root.iterdir() if is_image(path, root)]
    by_class = {
        folder.name: [path for path in folder.rglob("*") if is_image(path, folder)]
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    }
    classes = tuple(sorted(name for name, paths in by_class.items() if paths))
    if loose and classes:
        raise UserError(f"{loose[0]} lies beside class folders such as {classes[0]}: move loose images into one")
    files = sorted(loose) or sorted(path for name in classes for path in by_class[name])
    if not files:
        raise NoImagesError(f"{root} holds no images ({' '.join(sorted(SUFFIXES))}): name another with --data_dir")
    return files, classes


def is_image(path: Path, root: Path) -> bool:
    """Return whether a path is an image file, by its suffix, and not hidden below `root`."""
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def read_split(
    root: Path, files: list[Path], classes: tuple[str, ...], image_size: int, max_corrupt_images: int
) -> tuple[Split, str]:
    """Return the images of `files` with their labels, and a hash of the images.

    The files are decoded unless an earlier run left them in the cache.

    Raises:
        UserError: more than `max_corrupt_images` files cannot be read, or none can.
    """
    names = [path.relative_to(root).as_posix() for path in files]
    stats = [path.stat() for path in files]
    listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)]
    key = hashlib.sha256(json.dumps([str(root.resolve()), listing, image_size]).encode()).hexdigest()[:16]
    cache = cache_dir() / "decoded" / key
    if not cache.is_dir():
        decode(root, names, image_size, max_corrupt_images, cache)
    fingerprint, kept = json.loads((cache / "files.json").read_text())
    readable = set(kept)
    if len(names) - len(kept) > max_corrupt_images:
        raise too_many_corrupt(root, max_corrupt_images, next(name for name in names if name not in readable))
    # Copy-on-write: pixels are read only when they are used, and torch gets the writable array that it insists on.
    images = torch.from_numpy(np.load(cache / "images.npy", mmap_mode="c"))
    number = {name: label for label, name in enumerate(classes)}
    labels = [number[name.split("/")[0]] if classes else 0 for name in kept]
    return Split(images, torch.tensor(labels)), fingerprint


def too_many_corrupt(root: Path, limit: int, first: str) -> UserError:
    """Return the error for a folder with more unreadable files than allowed."""
    return UserError(
        f"{root}: more than --max_corrupt_images={limit} files cannot be read, the first is {first}: "
        f"repair or remove them, or raise the limit"
    )


def decode(root: Path, names: list[str], image_size: int, max_corrupt_images: int, cache: Path) -> None:
    """Decode all files and write the result to the folder `cache`.

    images.npy holds the images, [N, 3, H, W] uint8; files.json holds their hash and the names of the N files that
    could be read.

    Raises:
        UserError: more than `max_corrupt_images` files cannot be read, or none can.
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=cache.name, dir=cache.parent))
    try:
        shape = (len(names), 3, image_size, image_size)
        images = np.lib.format.open_memmap(unfinished / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        kept: list[str] = []
        corrupt: list[str] = []
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
            decoded = pool.map(lambda name: decode_image(root / name, image_size), names)
            bar = tqdm(decoded, f"decoding {root.name}", len(names), unit=" images", disable=None)
            for name, pixels in zip(names, bar, strict=True):
                if isinstance(pixels, Exception):
                    corrupt.append(name)
                    print(f"{root / name} cannot be read and is skipped: {pixels}", file=sys.stderr)
                    if len(corrupt) > max_corrupt_images:
                        pool.shutdown(cancel_futures=True)
                        raise too_many_corrupt(root, max_corrupt_images, corrupt[0])
                else:
                    images[len(kept)] = pixels
                    kept.append(name)
        if not kept:
            raise NoImagesError(f"{root} holds no image that can be read: name another folder with --data_dir")
        digest = hashlib.sha256(json.dumps(kept).encode())
        for pixels in images[: len(kept)]:
            digest.update(pixels)
        images.flush()
        if corrupt:
            np.save(unfinished / "images.npy", images[: len(kept)].copy())
        (unfinished / "files.json").write_text(json.dumps([digest.hexdigest()[:16], kept]))
        try:
            unfinished.rename(cache)
        except OSError:
            if not cache.is_dir():  # if it is there, another process was quicker and its result is the same
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def decode_image(path: Path, image_size: int) -> np.ndarray | Exception:
    """Return the central square of an image at the given size, [3, H, W] uint8, or the error if it cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (image_size, image_size))  # lets JPEG decode at a fraction of its size
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16-bit grey, which `convert` would clip
                upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
            square = ImageOps.fit(upright.convert("RGB"), (image_size, image_size))
            return np.asarray(square).transpose(2, 0, 1)
    except Exception as error:  # for a damaged file Pillow raises nearly any error, struct.error for one
        return error


SOURCE = Source(load, has_test_images=has_test_images)
