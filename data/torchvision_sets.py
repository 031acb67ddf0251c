"""Datasets of torchvision, `--dataset=torchvision/NAME`: torchvision finds, downloads and reads their files.

They are where torchvision puts them: `data_dir/cifar-100-python`, `data_dir/MNIST/raw` and so on. Whether they are all
of them, it can often not tell: so they are downloaded and extracted elsewhere, and moved there once they are whole.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data.collection import Part, load_parts
from data.dataset import Dataset, Source, class_name
from data.errors import UserError, check_known, in_one_line
from data.files import UNFINISHED, locked
from data.folder import IMAGE_SIZE
from data.internals import torchvision_labels

FLAG = {"train": {"train": True}, "test": {"train": False}}
TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE = {name: {"split": name} for name in ("train", "val", "test")}


class Entry(NamedTuple):
    """A dataset of torchvision."""

    class_name: str  # in torchvision.datasets
    splits: Mapping[str, Mapping[str, Any]]  # name of each -> the arguments by which the class knows it
    files: str  # pattern of its files in data_dir
    archives: str  # pattern of those that torchvision downloads
    image_size: int = 0  # pixels; 0 where its images differ in size
    num_folders: int = 0  # one a class, where torchvision takes whatever folders are there for all that there are


ENTRIES = {
    "cifar100": Entry("CIFAR100", FLAG, "cifar-100-python/*", "cifar-100-python.tar.gz", 32),
    "country211": Entry(
        "Country211", {**TWO, "val": {"split": "valid"}}, "country211/**/*", "country211.tgz", num_folders=211
    ),
    "dtd": Entry("DTD", THREE, "dtd/**/*", "dtd/*.tar.gz"),
    "eurosat": Entry("EuroSAT", {"train": {}}, "eurosat/**/*", "eurosat/*.zip", 64, num_folders=10),
    "fashion_mnist": Entry("FashionMNIST", FLAG, "FashionMNIST/raw/*", "FashionMNIST/raw/*.gz", 28),
    "fgvc_aircraft": Entry("FGVCAircraft", THREE, "fgvc-aircraft-2013b/**/*", "fgvc-aircraft-2013b.tar.gz"),
    "flowers102": Entry("Flowers102", THREE, "flowers-102/**/*", "flowers-102/*.*"),
    "food101": Entry("Food101", TWO, "food-101/**/*", "food-101.tar.gz"),
    "gtsrb": Entry("GTSRB", TWO, "gtsrb/**/*", "gtsrb/*.zip", num_folders=43),
    "kmnist": Entry("KMNIST", FLAG, "KMNIST/raw/*", "KMNIST/raw/*.gz", 28),
    "mnist": Entry("MNIST", FLAG, "MNIST/raw/*", "MNIST/raw/*.gz", 28),
    "oxford_pets": Entry(
        "OxfordIIITPet", {**TWO, "train": {"split": "trainval"}}, "oxford-iiit-pet/**/*", "oxford-iiit-pet/*.tar.gz"
    ),
    "stl10": Entry("STL10", TWO, "stl10_binary/*", "stl10_binary.tar.gz", 96),
    "svhn": Entry("SVHN", TWO, "*_32x32.mat", "*_32x32.mat", 32),
}


def source(name: str) -> Source:
    """Return the dataset that torchvision has under this name.

    Raises:
        UserError: it is none of ENTRIES.
    """
    check_known(f"--dataset=torchvision/{name}", name, ENTRIES)
    entry = ENTRIES[name]

    def load(data_dir: Path, image_size: int, max_corrupt_images: int, each: bool = False) -> Dataset:
        return load_entry(name, data_dir, image_size or entry.image_size or IMAGE_SIZE, max_corrupt_images, each)

    return Source(load, entry.image_size, has_test_images=lambda data_dir: "test" in entry.splits, is_decoded=True)


def load_entry(name: str, data_dir: Path, image_size: int, max_corrupt_images: int, each: bool) -> Dataset:
    """Return a dataset of torchvision, decoded at a size.

    Raises:
        UserError: its files are not there and cannot be downloaded, classes are missing, or too many images cannot be
            read.
    """
    entry, root = ENTRIES[name], data_dir.resolve()
    parts: dict[str, Part] = {}
    classes: tuple[str, ...] = ()
    opened = {split: open_split(name, data_dir, arguments) for split, arguments in entry.splits.items()}
    stats = [(str(path), path.stat()) for path in sorted(root.glob(entry.files))]  # once: it may be 100,000 photographs
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    for split, theirs in opened.items():
        labels = torch.as_tensor(torchvision_labels(theirs)).long()
        if (num := len(labels.unique())) < entry.num_folders:
            raise UserError(
                f"{data_dir} holds images of {num} of the {entry.num_folders} classes of {name}: remove "
                f"{data_dir / Path(entry.files).parts[0]} and start again, which downloads it anew"
            )
        parts[split] = Part(theirs, 0, labels, ("torchvision", name, split, "upright", files))
        classes = classes or classes_of(theirs, int(labels.max()) + 1)
    return load_parts(Path("torchvision", name), classes, parts, image_size, max_corrupt_images, each)


def open_split(name: str, data_dir: Path, arguments: Mapping[str, Any]) -> Any:
    """Return torchvision's dataset of a split; where its files are not there, download them first.

    Raises:
        UserError: they cannot be downloaded or read.
    """
    from torchvision import datasets  # imported late: torchvision takes a second

    make = getattr(datasets, ENTRIES[name].class_name)
    try:
        with suppress(RuntimeError):  # so it says that they are not there
            return make(str(data_dir), **arguments)
        notice = f"another process downloads {name} into {data_dir}: waiting for it"
        with locked(data_dir / f".{name}.lock", notice):
            with suppress(RuntimeError):
                return make(str(data_dir), **arguments)
            download(name, data_dir, lambda folder: make(str(folder), **arguments, download=True))
            return make(str(data_dir), **arguments)
    except Exception as error:  # of urllib, tarfile, scipy and torchvision
        raise UserError(
            f"{data_dir} holds no {name} that can be read, and it could not be downloaded ({in_one_line(error)}): put "
            f"there, in place of what is there, the files that torchvision.datasets.{make.__name__} downloads, or "
            f"name their folder with --data_dir"
        ) from None


def download(name: str, data_dir: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` download files of a dataset into a folder, and move them to `data_dir` once all are there.

    Archives in `data_dir` are taken for what they are a download of; torchvision checks them.
    """
    unfinished = data_dir / (name + UNFINISHED)  # so that nobody meets a half of what is extracted
    shutil.rmtree(unfinished, ignore_errors=True)  # of a download that was killed
    try:
        unfinished.mkdir()
        for archive in data_dir.glob(ENTRIES[name].archives):
            link = unfinished / archive.relative_to(data_dir)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(archive.resolve())
        fill(unfinished)
        move_into(data_dir, unfinished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def move_into(folder: Path, source: Path) -> None:
    """Move what is in the folder `source` into another one, links apart: first the files, which replace others."""
    for path in sorted(source.iterdir(), key=Path.is_dir):
        place = folder / path.name
        if path.is_dir() and place.is_dir():
            move_into(place, path)
        elif not path.is_symlink():
            shutil.move(path, place)


def classes_of(theirs: Any, least: int) -> tuple[str, ...]:
    """Return the names of the classes of a dataset of torchvision; numbers where it does not tell them."""
    names = tuple(class_name(str(name)) for name in getattr(theirs, "classes", ()))
    return names if len(names) >= least and len(set(names)) == len(names) else tuple(map(str, range(least)))
