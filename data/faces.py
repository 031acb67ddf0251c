"""Anime faces at 64x64 pixels: an unlabelled folder of images."""

import dataclasses
from pathlib import Path

from data import folder
from data.dataset import Dataset, Source
from data.errors import UserError
from data.folder_layout import NoImagesError


def load(data_dir: Path, image_size: int, max_corrupt_images: int, each: bool = False) -> Dataset:
    """Return the images of the folder `data_dir`/faces or, if there is no such folder, of `data_dir` itself.

    Raises:
        UserError: as for `folder.load`; if there are no images, it also tells where to get the faces.
    """
    try:
        dataset = folder.load(find_root(data_dir), image_size or 64, max_corrupt_images, each)
    except NoImagesError as error:
        raise UserError(
            f"{error}; for the anime faces, unpack e.g. Kaggle's splcher/animefacedataset into {data_dir / 'faces'}"
        ) from None
    return dataclasses.replace(dataset, name="faces")


def has_test_images(data_dir: Path) -> bool:
    """Return whether there are test images as well as training images."""
    return folder.has_test_images(find_root(data_dir))


def find_root(data_dir: Path) -> Path:
    """Return the folder that holds the faces: `data_dir`/faces if it exists, else `data_dir`."""
    return data_dir / "faces" if (data_dir / "faces").is_dir() else data_dir


SOURCE = Source(load, 64, (), has_test_images, is_decoded=True)
