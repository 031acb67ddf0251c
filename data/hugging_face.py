"""Datasets in the form of HuggingFace's library `datasets`, `--dataset=hf/NAME[@CONFIG][:SPLIT]`.

NAME is a folder in data_dir, as `save_to_disk` or any other program writes them, or else a dataset of the hub. CONFIG
is one of its configurations, where it has several. SPLIT is what is trained on, `train` if it is left out; the other
splits are known by their names, such as `validation`.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from data.collection import Part, load_parts
from data.dataset import Dataset, Source, class_name
from data.errors import UserError, in_one_line
from data.folder import IMAGE_SIZE
from data.folder_layout import split_named
from data.internals import datasets_fingerprint
from data.visible import warn

HIDDEN = -1  # the number of a class that is kept secret, as of test images that a competition judges by


def source(name: str) -> Source:
    """Return the dataset of this name, `NAME[@CONFIG][:SPLIT]`.

    Raises:
        UserError: the name is empty.
    """
    name, _, split = name.partition(":")
    if not name:
        raise UserError("--dataset=hf/ names no dataset: write hf/NAME, such as hf/beans, or hf/NAME:SPLIT")

    def load(
        data_dir: Path, image_size: int, max_corrupt_images: int, each: bool = False, label_column: str = ""
    ) -> Dataset:
        classes, parts = open_parts(name, split or "train", data_dir, label_column)
        return load_parts(Path("hf", name), classes, parts, image_size or IMAGE_SIZE, max_corrupt_images, each)

    # Only reading it tells whether there are test images; if not, the run says so.
    return Source(load, is_decoded=True, has_columns=True)


def open_parts(
    name: str, trained_on: str, data_dir: Path, label_column: str
) -> tuple[tuple[str, ...], dict[str, Part]]:
    """Return the classes of a dataset in HuggingFace's form, and its splits with their labels.

    Args:
        name: of the dataset.
        trained_on: name of the split that is trained on.
        data_dir: folder that it may lie in.
        label_column: as the setting of that name.

    Raises:
        UserError: the library or the dataset is missing, it has no such split or two that mean the same, not one column
            of images, none or several that may hold the labels, or an image without one label.
    """
    told = f"--dataset=hf/{name}"
    splits = open_splits(name, data_dir)
    if trained_on not in splits:
        raise UserError(f"{told}:{trained_on}: there is no such split; there are: {', '.join(map(str, splits))}")
    held_out = dict[str, str]()
    for key in splits:
        meant = split_named(str(key))
        if meant and key != trained_on and (other := held_out.setdefault(meant, key)) != key:
            raise UserError(f"{told} has both {other} and {key}, which mean the same: remove one")
    chosen = {"train": trained_on}
    chosen |= {key: held_out[key] for key in ("val", "test") if key in held_out}
    images, labels = find_columns(told, splits[trained_on].features, label_column)
    for split, key in list(chosen.items()):
        if lacking := [column for column in (images, labels) if column and column not in splits[key].features]:
            warn(f"{told}: {chosen.pop(split)} is left out: it has no column {lacking[0]}")
    identities = {key: identity_of(splits[key], images) for key in chosen.values()}
    splits = {key: as_pictures(splits[key], images) for key in chosen.values()}
    for split in [split for split, key in chosen.items() if split != "train" and hides_labels(splits[key], labels)]:
        warn(f"{told}: {chosen.pop(split)} is left out: its labels are hidden, all of them are {HIDDEN}")
    for key in chosen.values():
        check_labels(f"{told}: {key}", labels, splits[key][labels] if labels else ())
    classes = classes_of(splits[trained_on], labels)
    numbers = {label: number for number, label in enumerate(classes)}
    parts = {}
    for split, key in chosen.items():
        theirs = splits[key]
        names = [text_of(theirs, labels, value) for value in theirs[labels]] if labels else []
        if unknown := set(names) - set(classes):
            raise UserError(f"{told}: {key} has the label {min(unknown)}, which {trained_on} lacks: remove its images")
        own = torch.tensor([numbers[label] for label in names]) if labels else torch.zeros(len(theirs)).long()
        parts[split] = Part(theirs, images, own, ("hf", name, key, *identities[key]))
    return classes, parts


def open_splits(told: str, data_dir: Path) -> dict[str, Any]:
    """Return the splits of a dataset, NAME or NAME@CONFIG, each a `datasets.Dataset`.

    Raises:
        UserError: the library is not installed, or there is no such dataset or configuration.
    """
    try:
        import datasets  # optional
        from huggingface_hub.utils import logging as hub_logging
    except ImportError:
        raise UserError("--dataset=hf/NAME needs the library datasets: pip install datasets") from None
    hub_logging.set_verbosity_error()  # it tells every try to reach the hub
    name, _, configuration = (told, "", "") if (data_dir / told).is_dir() else told.partition("@")
    local = data_dir / name
    is_saved = (local / "dataset_dict.json").is_file() or (local / "state.json").is_file()
    if is_saved and configuration:
        raise UserError(f"--dataset=hf/{told}: {local} has no configurations: leave @{configuration} out")
    try:
        if is_saved:
            found = datasets.load_from_disk(str(local), keep_in_memory=False)
        else:
            place = str(local) if local.is_dir() else name
            found = datasets.load_dataset(place, configuration or None, keep_in_memory=False)
    except Exception as error:  # of the library, the hub and the network
        raise UserError(
            f"--dataset=hf/{told} could not be loaded ({in_one_line(error)}): name a folder in {data_dir}, or, with a "
            f"network, a dataset of the hub; one of its configurations as NAME@CONFIG"
        ) from None
    return dict(found) if isinstance(found, dict) else {"train": found}


def find_columns(told: str, features: Any, label_column: str) -> tuple[str, str]:
    """Return the columns of the images and of the labels, "" where there are no labels.

    Raises:
        UserError: there is not one column of images, none that is called `label_column`, or several of labels of which
            none was chosen.
    """
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1:
        raise UserError(
            f"{told} has {len(images)} columns of images, of {', '.join(features)}: keep one, by cast_column or "
            f"select_columns of the library datasets"
        )
    if label_column:
        others = [name for name in features if name != images[0]]
        if label_column not in others:
            there_are = f"there are: {', '.join(others)}" if others else "leave it out"
            raise UserError(f"--label_column={label_column}: {told} has no such column of labels; {there_are}")
        return images[0], label_column
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if "label" in features:
        return images[0], "label"
    if len(labels) > 1:
        remedy = f"choose one, as by --label_column={labels[0]}"
        raise UserError(f"{told} has several columns of labels ({', '.join(labels)}): {remedy}")
    return images[0], labels[0] if labels else ""


def identity_of(theirs: Any, column: str) -> tuple[object, ...]:
    """Return what tells the images of a split from all others, for JSON.

    The library's fingerprint tells how a table was made, and stays the same where other images lay at the same paths.
    So the files count as well: those of the table and, where it holds paths in place of images, those of the images.
    """
    tables = [os.path.realpath(file["filename"]) for file in theirs.cache_files]
    outside = []
    for chunk in theirs.data.column(column).chunks:
        outside += chunk.field("path").filter(chunk.field("bytes").is_null()).drop_null().to_pylist()
    return datasets_fingerprint(theirs), [(path, *size_and_time(path)) for path in (*tables, *outside)]


def size_and_time(path: str) -> tuple[int, int]:
    """Return the size of a file in bytes and the time of its last change in ns; zeros where it is none, as a URL."""
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def as_pictures(theirs: Any, column: str) -> Any:
    """Return a split whose images are Pillow's and whose labels are Python's, in whatever format it was saved."""
    import datasets

    return theirs.with_format(None).cast_column(column, datasets.Image(mode=theirs.features[column].mode))


def hides_labels(theirs: Any, column: str) -> bool:
    """Return whether all images of a split have, in place of a class, the number that hides it."""
    has_names = bool(column) and hasattr(theirs.features[column], "names")
    return has_names and len(theirs) > 0 and all(value == HIDDEN for value in theirs[column])


def check_labels(told: str, column: str, values: Iterable[Any]) -> None:
    """Check that every image has one label.

    Raises:
        UserError: one has none, or several.
    """
    for row, value in enumerate(values):
        if value is None:
            raise UserError(f"{told} has no {column} in row {row}: remove the row, by filter of the library datasets")
        if not isinstance(value, str | int | float):
            raise UserError(f"{told} has {value!r} for a {column} in row {row}: give --dataset=csv for several labels")


def text_of(theirs: Any, column: str, value: Any) -> str:
    """Return the name of the class that a value of the column of labels stands for."""
    names = getattr(theirs.features[column], "names", None)
    return class_name(names[value] if names and value is not None and value >= 0 else str(value))


def classes_of(theirs: Any, column: str) -> tuple[str, ...]:
    """Return the names of the classes: those that the column tells, else its values, sorted; none without a column."""
    if not column:
        return ()
    if names := getattr(theirs.features[column], "names", None):
        return tuple(map(class_name, names))
    values = set(theirs[column])
    return tuple(class_name(str(value)) for value in sorted(values, key=lambda value: (str(type(value)), value)))
