"""Datasets that another library holds, image by image: decoded once, as image files are."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data import decoding
from data.dataset import Dataset, Split
from data.decoding import Decoded, Undecoded
from data.folder import describe_sizes
from data.pixels import Picture, picture_of, turn_upright


class Part(NamedTuple):
    """The images of a split that another library holds."""

    rows: Any  # of which `rows[number][column]` is an image of Pillow
    column: int | str
    labels: Tensor  # [N] int64; zeros where there are none
    identity: Sequence[object]  # what tells these images from all others, for JSON


def load_parts(
    place: Path,
    classes: tuple[str, ...],
    parts: Mapping[str, Part],
    image_size: int,
    max_corrupt_images: int,
    each: bool,
) -> Dataset:
    """Return the images that another library holds, each cropped to its central square and resized.

    Args:
        place: of the images, for messages; its last part becomes the dataset's name.
        classes: by label.
        parts: the splits, "train" and maybe "val" and "test".
        image_size: in pixels.
        max_corrupt_images: of a split, that may be skipped.
        each: decode the images whenever they are used.

    Raises:
        UserError: more images of a split cannot be read.
    """
    decoding.sweep_decoded()
    splits: dict[str, Split] = {}
    notes: dict[str, Decoded] = {}
    for name, part in parts.items():
        names = [str(number) for number in range(len(part.labels))]
        work = Undecoded(place / name, names, part.identity, image_size, decoder(part, image_size))
        split, notes[name] = decoding.read(work, max_corrupt_images, each)
        kept = torch.tensor([int(number) for number in notes[name].kept])
        splits[name] = split._replace(labels=part.labels[kept], names=())
    told = {name: (note.fingerprint, splits[name].labels.tolist()) for name, note in notes.items()}
    return Dataset(
        place.name,
        classes,
        splits["train"],
        splits.get("test"),
        hashlib.sha256(json.dumps([classes, told], sort_keys=True).encode()).hexdigest()[:16],
        val=splits.get("val"),
        preparation=describe_sizes(list(notes.values()), image_size),
        is_reduced=max(max(note.largest) for note in notes.values()) > image_size,
    )


def decoder(part: Part, image_size: int) -> Callable[[str], Picture | Exception]:
    """Return the function that decodes an image of a part by its number."""

    def decode(number: str) -> Picture | Exception:
        try:
            image = part.rows[int(number)][part.column]
            turn_upright(image)
            return picture_of(image, image_size)
        except Exception as error:  # whatever the library and Pillow raise of a damaged file
            return error

    return decode
