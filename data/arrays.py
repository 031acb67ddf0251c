"""Images that lie in numpy files: `train.npz` and, where there are test images, `test.npz` in data_dir.

Both hold `images`, all of one size, uint8, as [N, H, W, 3], [N, 3, H, W] or, where they are grey, [N, H, W], and may
hold `labels`, whole numbers [N] from 0 on. `train.npz` may also hold `classes`, a name for each label; without it the
classes are called by their numbers. In place of an npz file each array may lie in a file of its own, such as
`train_images.npy`, `train_labels.npy`, `train_classes.npy` and `test_images.npy`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.dataset import Dataset, Source, Split, class_name
from data.errors import UserError, check_known, in_one_line, is_of_the_machine

TRAIN, TEST = "train.npz", "test.npz"
KEYS = {TRAIN: ("images", "labels", "classes"), TEST: ("images", "labels")}  # that may be in each file
LAYOUTS = "[N, H, W, 3], [N, 3, H, W] or [N, H, W]"

Arrays = dict[str, np.ndarray]


def load(data_dir: Path, image_size: int, max_corrupt_images: int) -> Dataset:
    """Return the images of `train.npz` and `test.npz`.

    Raises:
        UserError: a file is missing, damaged or not as the head of this module says, or the images have another size
            than `image_size`.
    """
    train_path, test_path = data_dir / TRAIN, data_dir / TEST
    content = read(train_path)
    images = images_of(content, train_path)
    if image_size not in (0, images.shape[-1]):
        side = images.shape[-1]
        told = f"--image_size / --eval_crop is {image_size} pixels, the side of the images in {train_path} is {side}"
        raise UserError(f"{told}: leave out --image_size")
    classes = classes_of(content, train_path)
    train = Split(images, labels_of(content, classes, train_path))
    test = None
    if has_test_images(data_dir):
        content = read(test_path)
        if ("labels" in content) != bool(classes):
            which = (test_path, train_path) if classes else (train_path, test_path)
            raise UserError(f"{which[0]} has no labels, but {which[1]} has: give labels in both files or in neither")
        test = Split(images_of(content, test_path), labels_of(content, classes, test_path))
        if test.images.shape[1:] != images.shape[1:]:
            sides = images.shape[-1], test.images.shape[-1]
            raise UserError(f"{test_path} has images of {sides[1]} pixels, {train_path} of {sides[0]}: resize them")
    return Dataset(data_dir.resolve().name, classes, train, test, fingerprint(classes, train, test))


def has_test_images(data_dir: Path) -> bool:
    """Return whether there are test images beside those to train on."""
    return (data_dir / TEST).is_file() or part_of(data_dir / TEST, "images").is_file()


def part_of(path: Path, key: str) -> Path:
    """Return the file of one array that may lie beside an npz file, in its place: train_images.npy for train.npz."""
    return path.with_name(f"{path.stem}_{key}.npy")


def save(data_dir: Path, classes: Sequence[str], train: Split, test: Split | None = None) -> None:
    """Write the files that `load` reads; their labels, too, where there are classes."""
    for name, split in {TRAIN: train, TEST: test}.items():
        if split is not None:
            content: dict[str, Any] = {"images": split.images.numpy()}
            if classes:
                content |= {"labels": split.labels.numpy(), "classes": np.array(classes)}
            np.savez(data_dir / name, **{key: content[key] for key in content.keys() & KEYS[name]})


def read(path: Path) -> Arrays:
    """Return the arrays of an npz file by name, or those of the npy files in its place.

    Raises:
        UserError: the file is missing or damaged, or has a name in it that is not known.
    """
    parts = {key: part_of(path, key) for key in KEYS[path.name] if part_of(path, key).is_file()}
    if not path.is_file() and "images" not in parts:
        known = f"{TRAIN} or {part_of(Path(TRAIN), 'images')}"
        raise UserError(f"{path} is not there: name the folder of your {known} with --data_dir")
    if path.is_file() and parts:
        raise UserError(f"{path} and {next(iter(parts.values()))} are both there: keep the one that is meant")
    if parts:
        return {key: load_file(part) for key, part in parts.items()}
    content = load_file(path)
    for key in content:
        check_known(f"{path}: {key}", key, KEYS[path.name])
    return content


def load_file(path: Path) -> Any:
    """Return what numpy reads from a file: an array, or arrays by name.

    Raises:
        UserError: it is damaged, or holds objects.
    """
    try:
        # Without pickle: unpickling an array of objects runs whatever code the file holds.
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray) != (path.suffix == ".npy"):
            raise ValueError("its content is not what its name says")
        if isinstance(found, np.ndarray):
            return found
        with found as file:
            return {key: np.asarray(file[key]) for key in file.files}  # bytes where one is no array
    except Exception as error:  # of zipfile, zlib and numpy: damaged files raise nearly anything
        if is_of_the_machine(error):
            raise
        reason = in_one_line(error)
        raise UserError(f"{path} cannot be read ({reason}): write it anew with numpy.save or savez") from None


def images_of(content: Arrays, path: Path) -> Tensor:
    """Return the images of a file as [N, 3, H, W] uint8, grey ones in three equal channels.

    Raises:
        UserError: there are none, or they have another type or shape.
    """
    if "images" not in content:
        raise UserError(f"{path} has no images: save them under that name, as {LAYOUTS}")
    images = content["images"]
    if images.dtype != np.uint8:
        raise UserError(f"{path}: its images are {images.dtype}, not uint8: scale them to 0..255 and convert them")
    if images.ndim == 3:
        channels_first = np.broadcast_to(images[:, None], (len(images), 3, *images.shape[1:]))
    elif images.ndim == 4 and images.shape[3] == 3:
        channels_first = images.transpose(0, 3, 1, 2)
    else:
        channels_first = images
    if channels_first.ndim != 4 or channels_first.shape[1] != 3:
        raise UserError(f"{path}: its images have the shape {list(images.shape)}: give {LAYOUTS}")
    num, _, height, width = channels_first.shape
    if not num or not height or height != width:
        raise UserError(f"{path} has {num} images of {width}x{height} pixels: give square ones, at least one")
    return torch.from_numpy(np.ascontiguousarray(channels_first))


def classes_of(content: Arrays, path: Path) -> tuple[str, ...]:
    """Return the names of the classes: those in the training file, else the labels' numbers; none without labels.

    Raises:
        UserError: the names are not texts, two are alike, or there are no labels to them.
    """
    if "labels" not in content:
        if "classes" in content:
            raise UserError(f"{path} has classes, but no labels: save labels, or leave out the classes")
        return ()
    if "classes" not in content:
        labels = whole_numbers(content["labels"], path)
        greatest = int(labels.max(initial=0))
        if greatest >= len(labels):
            raise UserError(f"{path} has the label {greatest} for {len(labels)} images: count from 0, or save classes")
        return tuple(str(label) for label in range(greatest + 1))
    classes = content["classes"]
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise UserError(f"{path}: its classes are {classes.dtype} {list(classes.shape)}: give a text for each class")
    names = tuple(map(class_name, classes.tolist()))
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two of its classes have the same name: rename one")
    return names


def labels_of(content: Arrays, classes: Sequence[str], path: Path) -> Tensor:
    """Return the labels of a file as [N] int64; zeros where there are no classes.

    Raises:
        UserError: there are more or fewer labels than images, or one is out of range.
    """
    num_images = len(content["images"])
    if not classes:
        return torch.zeros(num_images, dtype=torch.long)
    labels = whole_numbers(content["labels"], path)
    if len(labels) != num_images:
        raise UserError(f"{path} has {num_images} images and {len(labels)} labels: give one for each image")
    for label in (labels.min(), labels.max()):
        if not 0 <= label < len(classes):
            raise UserError(f"{path}: label {label} is none of the {len(classes)} classes: number them from 0 on")
    return torch.from_numpy(labels.astype(np.int64))


def whole_numbers(labels: np.ndarray, path: Path) -> np.ndarray:
    """Return labels, which must be whole numbers.

    Raises:
        UserError: they are not whole numbers [N].
    """
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(f"{path}: its labels are {labels.dtype} {list(labels.shape)}: give whole numbers [N]")
    return labels


def fingerprint(classes: Sequence[str], *splits: Split | None) -> str:
    """Return a hash of all that the files hold, the same whenever and in whichever layout they were written."""
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    for split in splits:
        if split is not None:
            digest.update(json.dumps(list(split.images.shape)).encode())
            digest.update(split.images.numpy().data)
            digest.update(split.labels.numpy().data)
    return digest.hexdigest()[:16]


SOURCE = Source(load, has_test_images=has_test_images)
