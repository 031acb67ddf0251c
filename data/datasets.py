"""The datasets of the suite, one line each."""

from pathlib import Path

from data import cifar10, digits, faces, folder
from data.dataset import DatasetInfo, Source, Split, make_splits, pixel_statistics
from data.errors import UserError, suggestion
from data.paths import default_data_dir

DATASETS: dict[str, Source] = {
    "cifar10": cifar10.SOURCE,
    "digits": digits.SOURCE,
    "faces": faces.SOURCE,
    "folder": folder.SOURCE,
}


def find_dataset(name: str) -> Source:
    """Return the dataset of that name.

    Raises:
        UserError: there is none.
    """
    if name not in DATASETS:
        raise UserError(f"--dataset={name} is not known{suggestion(name, DATASETS)}; there are: {', '.join(DATASETS)}")
    return DATASETS[name]


def find_data_dir(data_dir: str) -> Path:
    """Return the folder that the setting `data_dir` names."""
    return Path(data_dir).expanduser() if data_dir else default_data_dir()


def has_test_images(name: str, data_dir: str) -> bool:
    """Return whether a dataset has test images, without reading one; one that is not known has some."""
    return name not in DATASETS or DATASETS[name].has_test_images(find_data_dir(data_dir))


def describe(name: str, image_size: int) -> DatasetInfo | None:
    """Return what is known of a dataset without reading its images; None where that is too little."""
    source = DATASETS.get(name)
    if source is None or source.classes is None:
        return None
    return DatasetInfo(name, image_size or source.image_size, source.classes, (0.0,) * 3, (1.0,) * 3, {}, "")


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
        What is known of it, and its splits: train; val unless `val_fraction` is 0; test where it has test images.

    Raises:
        UserError: an unknown dataset, missing or damaged files, or a split without images.
    """
    dataset = find_dataset(name).load(find_data_dir(data_dir), image_size, max_corrupt_images)
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
