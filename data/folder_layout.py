"""How image files lie in a folder: its splits, its classes, their files, and what is left out."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data.dataset import class_name
from data.errors import UserError
from data.visible import listed, visible

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"]
)
SPLITS = {  # names of their folders, in any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
IGNORED = ("@eaDir", "__MACOSX")  # thumbnails of a file server; what macOS adds to archives
NUM_NAMED = 5  # class folders without images, and other kinds of files, that are named


class NoImagesError(UserError):
    """The folder is missing, or holds no image."""


@dataclass(frozen=True)
class Listing:
    """The images of one split."""

    root: Path
    files: list[str]  # sorted; no Paths, which take seconds to make for 100,000 files
    classes: tuple[str, ...]  # sorted; none if the images lie in `root` itself
    labels: list[int]  # of each file; zeros where there are no classes
    unreadable: list[str]  # images that may not be opened
    left_out: Counter[str]  # reason -> number


@dataclass
class Scan:
    """A walk through folders, which follows links and counts what it leaves out.

    Attributes:
        left_out: what is left out, with its number.
        unreadable: image files that may not be opened.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    def level(self, folder: Path) -> tuple[list[str], list[Path]]:
        """Return the image files and the folders in a folder, sorted."""
        files, folders = [], []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            self.left_out["folders that may not be read"] += 1
            return [], []
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith(".") or entry.name in IGNORED:
                if suffix in SUFFIXES or is_folder(entry):
                    self.left_out[entry.name if entry.name in IGNORED else "hidden files and folders"] += 1
            elif is_folder(entry):
                folders.append(folder / entry.name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                self.left_out["dangling links"] += 1
            elif suffix not in SUFFIXES or not entry.is_file():
                self.left_out[f"{suffix} files" if suffix else "files without a suffix"] += 1
            elif os.access(entry.path, os.R_OK):
                files.append(entry.path)
            else:
                self.unreadable.append(entry.path)
        return files, folders

    def below(self, folder: Path) -> list[str]:
        """Return all image files below a folder."""
        files: list[str] = []
        waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
        while waiting:
            folder, above = waiting.pop()  # `above`: device and inode of the folders that lead to it
            try:
                status = folder.stat()
            except OSError:  # a path that is too long, say
                self.left_out["folders that may not be read"] += 1
                continue
            here = (status.st_dev, status.st_ino)
            if here in above:
                self.left_out["links to a folder above them"] += 1
                continue
            images, folders = self.level(folder)
            files += images
            waiting += [(inner, above | {here}) for inner in folders]
        return files


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; False for a link that leads round in a circle."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def find_splits(data_dir: Path) -> dict[str, Path]:
    """Return the folders of the splits by "train", "val" and "test"; none if all images are to train on.

    Raises:
        UserError: two folders are one split by their names, or there are held-out images, but none to train on.
    """
    found: dict[str, Path] = {}
    for folder in Scan().level(data_dir)[1]:
        split = split_named(folder.name)
        if split in found:
            raise UserError(f"{found[split]} and {folder} are both the split {split} by their names: merge or rename")
        if split:
            found[split] = folder
    if found and "train" not in found:
        [name, folder] = next(iter(found.items()))
        raise UserError(
            f"{folder} is the split {name} by its name, but there is no folder train beside it: move the images to "
            f"train on into {data_dir / 'train'}, or, if {folder.name} is a class, rename it"
        )
    return found


def split_named(name: str) -> str:
    """Return the split whose folder has this name; "" if it is the name of none."""
    return next((split for split, names in SPLITS.items() if name.casefold() in names), "")


def refuse_classes_beside_splits(data_dir: Path, splits: dict[str, Path]) -> Counter[str]:
    """Return what lies beside the folders of the splits and is left out.

    Raises:
        UserError: there are folders of images beside them, which might be classes.
    """
    beside = Scan()
    loose, folders = beside.level(data_dir)
    for folder in folders:
        if folder not in splits.values() and Scan().below(folder):
            train = splits["train"]
            raise UserError(
                f"{train} is the split train by its name, but {folder} beside it holds images, too: move {folder.name} "
                f"elsewhere, or, if both are classes, move all class folders into one new folder train"
            )
    if loose:
        beside.left_out["images beside the splits"] += len(loose)
    return beside.left_out


def list_images(root: Path) -> Listing:
    """Return the images below `root` with their classes.

    Raises:
        UserError: `root` is no folder, holds no image, or holds images beside class folders; two class folders have
            one name; or the class folders hold only folders of images.
    """
    if not root.is_dir():
        table = ", or give --dataset=csv for a table of images" if root.is_file() else ""
        raise NoImagesError(f"{root} is not a folder: name the folder of your images with --data_dir{table}")
    scan = Scan()
    loose, folders = scan.level(root)
    by_class: dict[str, list[str]] = {}
    empty: list[str] = []
    for folder in folders:
        paths, name = scan.below(folder), class_name(folder.name)
        if not paths:
            empty.append(name)
        elif name in by_class:
            raise UserError(f"{root} has two class folders called {name}, spelled in other bytes: merge them")
        else:
            by_class[name] = paths
    if empty:
        scan.left_out[f"class folders without images: {listed(empty, NUM_NAMED)}"] = len(empty)
    classes = tuple(sorted(by_class))
    if loose and classes:
        raise UserError(f"{loose[0]} lies beside class folders such as {classes[0]}: move loose images into one")
    labelled = [(path, label) for label, name in enumerate(classes) for path in by_class[name]]
    labelled = sorted(labelled, key=lambda pair: pair[0].split(os.sep)) or [(path, 0) for path in loose]
    if not labelled:
        if scan.unreadable:
            scan.left_out["images that may not be opened"] = len(scan.unreadable)
        told = f"; {left_out_line(scan.left_out)}" if scan.left_out else ""
        raise NoImagesError(
            f"{root} holds no images ({' '.join(sorted(SUFFIXES))}): name another with --data_dir{told}"
        )
    files, labels = (list(column) for column in zip(*labelled, strict=True))
    if classes:
        refuse_parent_folder(root, files)
    return Listing(root, files, classes, labels, scan.unreadable, scan.left_out)


def refuse_parent_folder(root: Path, files: list[str]) -> None:
    """Refuse class folders that hold no image themselves, but several folders of images, or splits.

    Raises:
        UserError: `root` is a folder above the images that were meant.
    """
    inner: dict[str, set[str]] = {}  # class folder -> folders of images in it
    for path in files:
        name, *rest = Path(path).relative_to(root).parts
        if len(rest) == 1:
            return
        inner.setdefault(name, set()).add(rest[0])
    for name, folders in inner.items():
        if len(folders) > 1 or split_named(next(iter(folders))):
            raise UserError(
                f"{root / name} would be a class, but holds only folders of images such as {min(folders)}: name "
                f"{root / name} with --data_dir, or move the images of each class up into its folder"
            )


def left_out_line(left_out: Counter[str]) -> str:
    """Return what is left out and how many of each, in one line: kinds of files first, the frequent ones by name."""
    kinds = Counter({reason: num for reason, num in left_out.items() if reason.startswith(".")})
    parts = kinds.most_common(NUM_NAMED)
    if others := kinds.total() - sum(num for _, num in parts):
        parts.append(("files of other kinds", others))
    parts += sorted((reason, num) for reason, num in left_out.items() if reason not in kinds)
    return "left out: " + "; ".join(f"{visible(reason)} ({num:,})" for reason, num in parts)
