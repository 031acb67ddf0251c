"""What a run's folder keeps so that its network can be used elsewhere: of its images, and of a frozen network."""

import math
import os
import shutil
from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from analysis.record import run_folder
from data.dataset import DatasetInfo
from data.files import read_json, refusing_damage, replace_file, write_json

RESIZING = "central square, bicubic"  # how a picture of any size becomes one of image_size, see data/pixels.py
BLOBS = "blobs"  # folder of files in Hugging Face's cache, which are called by their content
LARGEST_SIDE = 100_000  # pixels


def keep_info(folder: Path, info: DatasetInfo) -> None:
    """Write into a run's folder what is needed to use its network without its images."""
    kind = "multi-label classification" if info.several_labels else "classification"
    task = kind if info.classes else "none"  # that the labels are for
    facts = {"task": task, "channels": len(info.mean), "resizing": RESIZING}
    write_json(folder / run_folder.DATA, {**asdict(info), **facts})


def keep_backbone(folder: Path, weights: Path, may_copy: bool) -> None:
    """Keep the weights of a frozen network in a run's folder, unless they are there.

    A file that nobody overwrites, as those in Hugging Face's cache, gets a further name there, a hard link, which takes
    no more room.

    Args:
        folder: of the run.
        weights: their file.
        may_copy: whether other files are copied, and those that cannot be linked.
    """
    real = Path(os.path.realpath(weights))
    kept = folder / f"{run_folder.BACKBONE}{weights.suffix}"
    if kept.exists():
        return
    if real.parent.name == BLOBS or not may_copy:
        with suppress(OSError):
            os.link(real, kept)
            return
    if may_copy:
        replace_file(kept, lambda unfinished: shutil.copyfile(weights, unfinished))


def saved_backbone(folder: Path) -> Path | None:
    """Return the file of a frozen network's weights that a run's folder keeps; None without one."""
    return next((path for path in sorted(folder.glob(f"{run_folder.BACKBONE}.*")) if path.is_file()), None)


def saved_info(folder: Path) -> DatasetInfo | None:
    """Return the facts about its images that a run's folder keeps; None for a run older than this file.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / run_folder.DATA
    if not path.exists():
        return None
    content = read_json(path)
    with refusing_damage(path, "restore it, or remove it and give the run's images with --data_dir"):
        asked = [field.name for field in fields(DatasetInfo) if field.name in content or field.default is MISSING]
        read = {name: content[name] for name in asked}
        values: dict[str, Any] = {name: tuple(it) if isinstance(it, list) else it for name, it in read.items()}
        info = DatasetInfo(**values)
        check(info)
    return info


def check(info: DatasetInfo) -> None:
    """Check the facts that a file held, those which a model is built with.

    Raises:
        TypeError, ValueError: they describe no images.
    """
    for side, least in ((info.image_size, 1), (info.stored_size, 0)):
        if type(side) is not int or not least <= side <= LARGEST_SIDE:
            raise ValueError(f"image_size {info.image_size!r}, stored_size {info.stored_size!r}")
    if not all(type(value) is float and math.isfinite(value) for value in (*info.mean, *info.std)):
        raise ValueError(f"mean {info.mean!r}, std {info.std!r}")
    if len(info.mean) != len(info.std) or not info.std or min(info.std) <= 0:
        raise ValueError(f"mean {info.mean!r}, std {info.std!r}")
    if type(info.classes) is not tuple or not all(
        type(it) is str for it in (info.name, info.fingerprint, *info.classes)
    ):
        raise ValueError(f"classes {info.classes!r}")
    if type(info.several_labels) is not bool:
        raise ValueError(f"several_labels {info.several_labels!r}")
    if type(info.num_images) is not dict or not all(type(num) is int for num in info.num_images.values()):
        raise ValueError(f"num_images {info.num_images!r}")
