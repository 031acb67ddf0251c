"""A dataset that a CSV file lists: an image file a line, with its label and, if the columns are there, split and group.

The first line names the columns, of which only `path` must be there: `path,label,split,group`, in any order, separated
by commas, semicolons or tabs; other columns are left alone. Paths are relative to the file's folder.

Where an image may have several labels, or none, there is a column for each in place of `label`, called `label:NAME`: 1
where the label applies, 0 where it does not.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data import decoding
from data.dataset import Dataset, Source, Split, class_name
from data.errors import UserError, in_one_line
from data.folder import IMAGE_SIZE, describe_sizes
from data.folder_layout import split_named

COLUMNS = ("path", "label", "split", "group")
LABEL = "label:"  # what stands before the name of a label that applies, 1, or does not, 0
SEPARATORS = ",;\t"
EXAMPLE = f"its first line is to name the columns, such as {','.join(COLUMNS)}"


class Row(NamedTuple):
    """A line of the file."""

    line: int
    path: str
    label: str  # "" where there are no labels; of several the values of their columns in order, such as "0110"
    split: str  # "train", "val" or "test"
    group: str  # "" where there are no groups


class Table(NamedTuple):
    """What a file lists."""

    labels: tuple[str, ...]  # of which an image may have several; none where it has one or no label
    rows: list[Row]


def load(data_dir: Path, image_size: int, max_corrupt_images: int, each: bool = False) -> Dataset:
    """Return the images that a CSV file lists, each cropped to its central square and resized (0 for 64).

    Args:
        data_dir: the file, or the folder in which it is the only one of its kind.
        image_size: in pixels.
        max_corrupt_images: that may be skipped.
        each: decode the images whenever they are used.

    Raises:
        UserError: the file is missing or not as the head of this module says, names an image that is not there or
            names one twice, lists no image to train on, or too many images cannot be read.
    """
    path = find_table(data_dir)
    several, rows = read_table(path)
    size = image_size or IMAGE_SIZE
    decoding.sweep_decoded()
    work = decoding.of_files(path.parent, existing(path, rows), size)
    by_name = dict(zip(work.names, rows, strict=True))
    everything, note = decoding.read(work, max_corrupt_images, each)
    kept = [by_name[name] for name in note.kept]
    classes = several or classes_of(kept)
    labels = several_labels(kept) if several else label_numbers(kept, classes)
    groups = group_numbers([row.group for row in kept])
    everything = everything._replace(labels=labels, groups=groups)
    splits: dict[str, Split] = {}
    for name in ("train", "val", "test"):
        if rows_of_split := [number for number, row in enumerate(kept) if row.split == name]:
            splits[name] = everything.select(torch.tensor(rows_of_split))
    if "train" not in splits:
        raise UserError(f"{path} lists no image to train on that can be read: give one the split train, or none")
    if not several:
        check_labels(path, kept)
    told = [note.fingerprint, [row[2:] for row in kept], *several]
    return Dataset(
        path.stem,
        classes,
        splits["train"],
        splits.get("test"),
        hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16],
        val=splits.get("val"),
        preparation=describe_sizes([note], size),
        is_reduced=max(note.largest) > size,
    )


def has_test_images(data_dir: Path) -> bool:
    """Return whether some images are to test with; True where `load` will refuse the file."""
    try:
        return any(row.split == "test" for row in read_table(find_table(data_dir)).rows)
    except UserError:
        return True


def find_table(data_dir: Path) -> Path:
    """Return the CSV file that `data_dir` is, or that is the only one in it.

    Raises:
        UserError: there is none, or there are several.
    """
    if not data_dir.is_dir():
        if not data_dir.is_file():
            raise UserError(f"{data_dir} is not there: name a CSV file, or its folder, with --data_dir")
        return data_dir
    found = sorted(path for path in data_dir.glob("*.csv") if path.is_file())
    if len(found) != 1:
        names = f"has {', '.join(path.name for path in found)}" if found else "holds no CSV file"
        raise UserError(f"{data_dir} {names}: name one with --data_dir={data_dir / 'images.csv'}")
    return found[0]


def read_table(path: Path) -> Table:
    """Return what a CSV file lists.

    Raises:
        UserError: it cannot be read, or is not as the head of this module says.
    """
    lines = read_lines(path)
    header = [column_name(text) for text in lines[0]] if lines else []
    if "path" not in header:
        raise UserError(f"{path} has no column path ({', '.join(header[:9]) or 'it is empty'}): {EXAMPLE}")
    columns = label_columns(path, header)
    if twice := [name for name in (*COLUMNS, *columns) if header.count(name) > 1]:
        raise UserError(f"{path} has two columns {twice[0]}: rename one")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        if len(line) != len(header):
            raise UserError(f"{path}: row {number} has {len(line)} values for {len(header)} columns: give one for each")
        cells = dict(zip(header, line, strict=True))
        split = split_named(cells["split"]) if cells.get("split") else "train"
        if not split:
            raise UserError(f"{path}: row {number} is of the split {cells['split']!r}: write train, val or test")
        for column in columns:
            if cells[column] not in ("0", "1"):
                fault = f"holds {cells[column]!r}" if cells[column] else "is empty"
                raise UserError(f"{path}: row {number}: the column {column} {fault}: write 1 or 0")
        label = "".join(cells[column] for column in columns) or class_name(cells.get("label", ""))
        rows.append(Row(number, cells["path"], label, split, cells.get("group", "")))
    return Table(tuple(column.removeprefix(LABEL) for column in columns), rows)


def read_lines(path: Path) -> list[list[str]]:
    """Return the cells of each line of a CSV file, stripped; the first line tells what separates them.

    Raises:
        UserError: it cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig")
        separator = max(SEPARATORS, key=text.partition("\n")[0].count)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        return [[cell.strip() for cell in line] for line in lines]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV ({in_one_line(error)}): save it anew, in UTF-8") from None


def column_name(text: str) -> str:
    """Return the name of a column as it is compared with others: small, but for the name of a label."""
    head, colon, name = text.strip().partition(":")
    is_label = f"{head.strip().lower()}{colon}" == LABEL
    return f"{LABEL}{class_name(name.strip())}" if is_label else text.strip().lower()


def label_columns(path: Path, header: Sequence[str]) -> list[str]:
    """Return the columns of the labels of which an image may have several; none where it has one or no label.

    Raises:
        UserError: there is one such column alone, one without a name, or a column `label` beside them.
    """
    columns = [name for name in header if name.startswith(LABEL)]
    if columns and "label" in header:
        raise UserError(f"{path}: row 1 has the columns label and {columns[0]}: leave one kind out")
    if LABEL in columns:
        raise UserError(f"{path}: row 1 has a column {LABEL} without a name: write {LABEL}hat, for example")
    if len(columns) == 1:
        raise UserError(f"{path}: row 1 has the column {columns[0]} alone: call it label, or give one for each label")
    return columns


def existing(path: Path, rows: Sequence[Row]) -> list[str]:
    """Return the image files that the rows of a CSV file name; as texts, since Paths take seconds for 50,000.

    Raises:
        UserError: one of them is not there, is named twice, or lies elsewhere than below the file's folder.
    """
    seen: dict[str, int] = {}
    start = os.path.join(path.parent, "")
    for row in rows:
        where = f"{path}: row {row.line}"
        path_here = as_here(start, row.path)
        file = os.path.join(start, os.path.normpath(path_here))
        if not os.path.isfile(file):
            raise UserError(f"{where} names {row.path!r}, which is no file: write its path from {path.parent}")
        if not file.startswith(start) or ".." in path_here.removeprefix(start).split("/"):
            raise UserError(f"{where} names {row.path}, which is not below {path.parent}: move the CSV file above it")
        if file in seen:
            raise UserError(f"{where} names {row.path}, as row {seen[file]} does: leave one of them out")
        seen[file] = row.line
    if not seen:
        raise UserError(f"{path} lists no image: {EXAMPLE}")
    return list(seen)


def as_here(folder: str, path: str) -> str:
    """Return a path as it is written here: with slashes where it comes from Windows, and no file is called so."""
    is_of_windows = "\\" in path and not os.path.exists(os.path.join(folder, path))
    return path.replace("\\", "/") if is_of_windows else path


def several_labels(rows: Sequence[Row]) -> Tensor:
    """Return the labels of each image, [N, C] float32, 1 where one applies and 0 where it does not."""
    digits = np.frombuffer("".join(row.label for row in rows).encode(), dtype=np.uint8) - ord("0")
    return torch.from_numpy(digits.reshape(len(rows), -1)).float()


def label_numbers(rows: Sequence[Row], classes: Sequence[str]) -> Tensor:
    """Return the place of each image's label among the classes, [N] int64; 0 where it is none of them."""
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers.get(row.label, 0) for row in rows])


def classes_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the labels of the images to train on, sorted, by their values where all are whole numbers; maybe none."""
    labels = {row.label for row in rows if row.split == "train"} - {""}
    are_numbers = all(label.isdecimal() and len(label) < 19 for label in labels)
    return tuple(sorted(labels, key=lambda label: (int(label), label) if are_numbers else (0, label)))


def check_labels(path: Path, rows: Sequence[Row]) -> None:
    """Check that each image has a label of which there are images to train on, or none has one.

    Raises:
        UserError: an image has none, or one of which there are no images to train on.
    """
    known = set(classes_of(rows)) or {""}
    for row in rows:
        if row.label not in known:
            fault = f"the label {row.label}, which no image to train on has" if row.label else "no label"
            raise UserError(f"{path}: row {row.line} has {fault}: correct it, or leave the row out")


def group_numbers(groups: Sequence[str]) -> Tensor | None:
    """Return a number [N] int64 for each image's group, a group of its own where it has none; None without groups."""
    if not any(groups):
        return None
    numbers: dict[object, int] = {}
    keys = [group or (position,) for position, group in enumerate(groups)]
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])


SOURCE = Source(load, has_test_images=has_test_images, is_decoded=True)
