"""The table of all datasets, and the functions that look one up in it and load it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from data import arrays, cifar10, csv_table, digits, faces, folder, hugging_face, torchvision_sets
from data.dataset import Dataset, DatasetInfo, Source, Split, pixel_statistics
from data.errors import UserError, check_known
from data.paths import default_data_dir, expanded
from data.splitting import Splitting, class_counts, describe_holding_out

DATASETS: dict[str, Source] = {
    "arrays": arrays.SOURCE,
    "cifar10": cifar10.SOURCE,
    "csv": csv_table.SOURCE,
    "digits": digits.SOURCE,
    "faces": faces.SOURCE,
    "folder": folder.SOURCE,
}
# What stands before the slash of other names -> function of what stands behind it.
FAMILIES: dict[str, Callable[[str], Source]] = {
    "hf": hugging_face.source,
    "torchvision": torchvision_sets.source,
}


def find_dataset(name: str) -> Source:
    """Return the dataset of that name, such as "cifar10" or "torchvision/mnist".

    Raises:
        UserError: there is no dataset of that name.
    """
    family, slash, rest = name.partition("/")
    if slash and family in FAMILIES:
        return FAMILIES[family](rest)
    check_known(f"--dataset={name}", name, [*DATASETS, *(f"{family}/NAME" for family in FAMILIES)])
    return DATASETS[name]


def find_data_dir(data_dir: str) -> Path:
    """Return the folder that the setting `data_dir` names; an empty setting names the default folder."""
    return expanded(data_dir) if data_dir else default_data_dir()


def has_test_images(name: str, data_dir: str) -> bool:
    """Return whether a dataset has test images, without reading any; True for an unknown name, reported elsewhere."""
    try:
        return find_dataset(name).has_test_images(find_data_dir(data_dir))
    except UserError:
        return True


def describe(name: str, image_size: int, eval_crop: float = 1.0) -> DatasetInfo | None:
    """Return the facts about a dataset that are known without reading its images.

    Image counts and fingerprint are left empty, and mean and deviation are placeholders. Return None if the classes
    are known only after reading the dataset, or if there is no dataset of that name.
    """
    try:
        source = find_dataset(name)
    except UserError:  # reported elsewhere
        return None
    if source.classes is None:
        return None
    side = image_size or round(source.image_size * eval_crop)
    return unread(name, side, source.classes)


def describe_undecoded(name: str, image_size: int, eval_crop: float) -> DatasetInfo | None:
    """Return facts of the size of a dataset's images, with two made-up classes if only its files tell them.

    Return None if its images are not decoded, so that it is quickly read.

    Raises:
        UserError: there is no dataset of that name.
    """
    source = find_dataset(name)
    if not source.is_decoded:
        return None
    side = image_size or round((source.image_size or folder.IMAGE_SIZE) * eval_crop)
    classes = ("0", "1") if source.classes is None else source.classes
    return unread(name, side, classes)


def unread(name: str, side: int, classes: tuple[str, ...]) -> DatasetInfo:
    """Return the facts about images that were not read: no counts, no fingerprint, a made-up mean and deviation."""
    return DatasetInfo(name, side, classes, mean=(0.0,) * 3, std=(1.0,) * 3, num_images={}, fingerprint="")


def load_dataset(
    name: str, data_dir: str, kept_size: int, max_corrupt_images: int, decode: str, label_column: str
) -> Dataset:
    """Load the dataset of a name, at `kept_size` pixels or, for 0, its own; the other arguments are settings.

    Raises:
        UserError: the dataset is not known, or files are missing or damaged.
    """
    source = find_dataset(name)
    check_label_column(name, label_column)
    if decode == "each" and not source.is_decoded:
        raise UserError(f"--decode=each: the images of {name} are no files that are decoded: leave it out")
    each = (True,) if decode == "each" else ()
    column = {"label_column": label_column} if label_column else {}
    return source.load(find_data_dir(data_dir), kept_size, max_corrupt_images, *each, **column)


def check_label_column(name: str, label_column: str) -> None:
    """Check that a column of labels is chosen only for a dataset that lets one choose; the arguments are settings.

    Raises:
        UserError: there is no dataset of that name, or it has no columns.
    """
    if label_column and not find_dataset(name).has_columns:
        remedy = "call that column label" if name == "csv" else "leave it out"
        raise UserError(f"--label_column={label_column} is for hf/NAME alone, and --dataset is {name}: {remedy}")


def facts_about(
    dataset: Dataset, splits: Mapping[str, Split], how: Splitting, normalisation: str, image_size: int, eval_crop: float
) -> DatasetInfo:
    """Return the facts about a dataset that was divided into splits; the last three arguments are settings."""
    sizes = class_counts([splits[name] for name in ("train", "val") if name in splits], len(dataset.classes))
    mean, std = pixel_statistics(normalisation, splits["train"])
    stored_size = splits["train"].image_shape[-1]
    side = image_size or round(stored_size * eval_crop)
    return DatasetInfo(
        name=dataset.name,
        image_size=side,
        classes=dataset.classes,
        mean=mean,
        std=std,
        num_images={name: len(split.labels) for name, split in splits.items()},
        fingerprint=dataset.fingerprint,
        class_sizes=(min(sizes, default=0), max(sizes, default=0)),
        has_own_val=dataset.val is not None,
        preparation=dataset.preparation,
        is_reduced=dataset.is_reduced,
        class_counts=class_counts([splits["train"]], len(dataset.classes)),
        stored_size=stored_size if side < stored_size else 0,
        held_out=describe_holding_out(how, splits),
        several_labels=dataset.train.labels.ndim > 1,
    )


def check_each_varies(dataset: Dataset, data_dir: str) -> None:
    """Check that each of several labels applies to some of the images to train on, and not to all of them.

    Raises:
        UserError: there is nothing to learn of one.
    """
    labels = dataset.train.labels
    if labels.ndim == 1:
        return
    for name, total in zip(dataset.classes, labels.sum(0).tolist(), strict=True):
        if total in (0, len(labels)):
            always = f"{total > 0:d} in all {len(labels):,} images to train on"
            raise UserError(f"{find_data_dir(data_dir)}: the column {csv_table.LABEL}{name} is {always}: leave it out")
