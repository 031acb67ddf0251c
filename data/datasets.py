"""The datasets of the suite: one line each, name -> function that loads it."""

from collections.abc import Callable
from pathlib import Path

from data import cifar10, digits, faces, folder
from data.dataset import Dataset, DatasetInfo, Split, make_splits, pixel_statistics
from data.errors import UserError, suggestion
from data.paths import default_data_dir

# Each takes data_dir, image_size (0 for its own) and max_corrupt_images, and may raise UserError.
DATASETS: dict[str, Callable[[Path, int, int], Dataset]] = {
    "cifar10": cifar10.load,
    "digits": digits.load,
    "faces": faces.load,
    "folder": folder.load,
}

# Side and classes that are known without reading an image, for a dry run: name -> (pixels, classes).
SHAPES: dict[str, tuple[int, tuple[str, ...]]] = {
    "cifar10": (32, cifar10.CLASSES),
    "digits": (32, digits.CLASSES),
    "faces": (64, ()),
}

# Whether a folder holds test images, for those datasets of which it is not known: others have some.
HAS_TEST_IMAGES: dict[str, Callable[[Path], bool]] = {
    "faces": faces.has_test_images,
    "folder": folder.has_test_images,
}


def has_test_images(name: str, data_dir: str) -> bool:
    """Whether a dataset has test images, without reading one."""
    return name not in HAS_TEST_IMAGES or HAS_TEST_IMAGES[name](find_data_dir(data_dir))


def find_data_dir(data_dir: str) -> Path:
    """The folder of the setting `data_dir`."""
    return Path(data_dir).expanduser() if data_dir else default_data_dir()


def describe(name: str, image_size: int) -> DatasetInfo | None:
    """What is known of a dataset without its images; None where that is nothing."""
    if name not in SHAPES:
        return None
    own_size, classes = SHAPES[name]
    return DatasetInfo(name, image_size or own_size, classes, (0.0,) * 3, (1.0,) * 3, {}, "")


def load_splits(
    name: str,
    data_dir: str,
    *,
    image_size: int,
    train_fraction: float,
    val_fraction: float,
    data_seed: int,
    normalisation: str,
    max_corrupt_images: int,
) -> tuple[DatasetInfo, dict[str, Split]]:
    """Load a dataset and split it; the arguments are the settings of those names.

    Returns:
        What is known of it, and its splits: train; val unless `val_fraction` is 0; test where it has one.

    Raises:
        UserError: an unknown dataset, missing or damaged files, or a split without images.
    """
    if name not in DATASETS:
        raise UserError(f"--dataset={name} is not known{suggestion(name, DATASETS)}; there are: {', '.join(DATASETS)}")
    dataset = DATASETS[name](find_data_dir(data_dir), image_size, max_corrupt_images)
    splits = make_splits(dataset, train_fraction, val_fraction, data_seed)
    mean, std = pixel_statistics(normalisation, splits["train"].images)
    info = DatasetInfo(
        name=dataset.name,
        image_size=splits["train"].images.shape[-1],
        classes=dataset.classes,
        mean=mean,
        std=std,
        num_images={name: len(split.labels) for name, split in splits.items()},
        fingerprint=dataset.fingerprint,
    )
    return info, splits
