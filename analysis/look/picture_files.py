"""Image files that are named to a program: single ones, all below a folder, those that a CSV file lists."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from data.csv_table import LABEL, as_here, column_name, read_lines
from data.dataset import DatasetInfo, class_name
from data.errors import UserError, suggestion
from data.folder_layout import Scan, left_out_line, split_named
from data.visible import visible, warn

PATH_COLUMNS = ("path", "file", "filename", "filepath", "image", "image_path")  # of a CSV file, in any case
CLASS_COLUMNS = ("true", "label", "class")  # the first that is there tells the truth
PREDICTED = "probability"  # beside it `class` is what a network has predicted

Row = dict[str, str]  # of a CSV file, by column
Truth = int | tuple[int, ...] | None  # place among the classes; of several labels, 1 or 0 each; None if not known


@dataclass(frozen=True)
class PictureFile:
    """An image file.

    Attributes:
        path: where it is.
        true: its class or labels.
        row: what a CSV file says of it, by column.
    """

    path: Path
    true: Truth = None
    row: Mapping[str, str] = field(default_factory=dict)


def find_pictures(paths: Sequence[Path], info: DatasetInfo, column: str = "") -> list[PictureFile]:
    """Return the image files that paths name.

    A folder stands for all image files below it, in the order of a dataset made of it; one that lies in a folder called
    as a class is of that class; folders of splits, such as train/CLASS, are passed over. A CSV file names them in a
    column, relative to its own folder, and maybe their classes or labels.

    Args:
        paths: of images, folders and CSV files.
        info: whose classes are known.
        column: of paths in a CSV file; empty for the one that is called so, or the only one.

    Raises:
        UserError: a path that is not there, a folder without images, a table without paths; or no path at all.
    """
    found: list[PictureFile] = []
    for path in paths:
        if path.is_dir():
            found += below(path, () if info.several_labels else info.classes)
        elif path.suffix.lower() == ".csv":
            found += listed(path, info, column)
        elif path.exists() or path.is_symlink():
            found.append(PictureFile(path))
        else:
            raise UserError(f"{path} is not there: name image files, folders of them, or a CSV file of their paths")
    return found


def below(folder: Path, classes: Sequence[str]) -> list[PictureFile]:
    """Return the image files below a folder.

    Raises:
        UserError: there are none.
    """
    scan = Scan()
    paths = sorted(map(Path, scan.below(folder)))
    scan.left_out["images that may not be opened"] += len(scan.unreadable)
    left_out = +scan.left_out  # without zeros
    told = left_out_line(left_out) if left_out else ""
    if not paths:
        raise UserError(f"{folder} holds no images: name another folder{told and '; ' + told}")
    if told:
        warn(f"{visible(folder)}: {told}")
    known = {name: place for place, name in enumerate(classes)}
    inner = [path.relative_to(folder) for path in paths]
    first = 1 if are_splits(inner, known) else 0
    truths = [true_class(path.parts[first:], known) for path in inner]
    return [PictureFile(path, truth) for path, truth in zip(paths, truths, strict=True)]


def are_splits(paths: Sequence[Path], known: Mapping[str, int]) -> bool:
    """Return whether the folders that paths begin with are all called as splits, and hold folders called as classes."""
    within = [path.parts for path in paths if len(path.parts) > 1]  # images beside the folders are of no split
    all_named = all(split_named(name) for name in {parts[0] for parts in within})
    return all_named and any(true_class(parts[1:], known) is not None for parts in within)


def true_class(parts: Sequence[str], known: Mapping[str, int]) -> int | None:
    """Return the class of the uppermost folder of a path, in parts, that is called as one; None if none is."""
    return next((known[name] for part in parts[:-1] if (name := class_name(part)) in known), None)


def listed(path: Path, info: DatasetInfo, column: str) -> list[PictureFile]:
    """Return the image files that a CSV file lists.

    Raises:
        UserError: it cannot be read, has no such column, or lists nothing; or labels are not told as they are to be.
    """
    rows = list(read_rows(path))
    if not rows:
        raise UserError(f"{path} lists no images: give a row with the names of the columns, then one for each image")
    column = choose_column(path, list(rows[0]), column)
    truths = (labels_of_rows if info.several_labels else classes_of_rows)(path, rows, info.classes, column)
    found = []
    for number, (row, truth) in enumerate(zip(rows, truths, strict=True), 1):
        if not row[column]:
            raise UserError(f"{path}: row {number} names no file in the column {column}: fill it in, or remove the row")
        found.append(PictureFile(path.parent / as_here(str(path.parent), row[column]), truth, row))
    return found


def classes_of_rows(path: Path, rows: Sequence[Row], classes: Sequence[str], column: str) -> list[Truth]:
    """Return the class that each row of a CSV file tells in its column of classes, if it has one beside `column`."""
    names = {name.casefold(): name for name in rows[0] if name != column}
    if PREDICTED in names:
        names.pop("class", None)
    name_of_class = next((names[name] for name in CLASS_COLUMNS if name in names), None)
    if name_of_class is None:
        return [None] * len(rows)
    known = {name: place for place, name in enumerate(classes)}
    found: list[Truth] = [known.get(class_name(row[name_of_class])) for row in rows]
    num_unknown = sum(bool(row[name_of_class]) and one is None for row, one in zip(rows, found, strict=True))
    if num_unknown:
        warn(f"{path}: the column {name_of_class} holds no class of the run in {num_unknown:,} of {len(found):,} rows")
    return found


def labels_of_rows(path: Path, rows: Sequence[Row], classes: Sequence[str], column: str) -> list[Truth]:
    """Return the labels that each row of a CSV file tells, 1 or 0 in a column for each, where it has such columns.

    Raises:
        UserError: a label of the run has none, though another one has; or a row holds another value.
    """
    columns = {column_name(name): name for name in rows[0] if name != column}
    wanted = [f"{LABEL}{name}" for name in classes]
    lacking = [name for name in wanted if name not in columns]
    if len(lacking) == len(wanted):
        return [None] * len(rows)
    if lacking:
        raise UserError(f"{path} lacks the column {lacking[0]}, a label of the run: add it, or leave all of them out")
    found: list[Truth] = []
    for number, row in enumerate(rows, 1):
        for name in wanted:
            if row[columns[name]] not in ("0", "1"):
                value = row[columns[name]]
                raise UserError(f"{path}: row {number}: the column {name} holds {value!r}: write 1 or 0")
        found.append(tuple(int(row[columns[name]]) for name in wanted))
    return found


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file by the names of the columns; a cell that is missing is empty.

    Raises:
        UserError: it cannot be read, or a row has more cells than the first one.
    """
    if not path.is_file():  # reading a pipe could take for ever
        raise UserError(f"{path} is no file: name a CSV file with a column of paths")
    header, *lines = [line for line in read_lines(path) if line] or [[]]
    for number, line in enumerate(lines, 1):
        if len(line) > len(header):
            raise UserError(f"{path}: row {number} has more cells than there are columns: quote cells with separators")
        yield dict(zip_longest(header, line, fillvalue=""))


def choose_column(path: Path, columns: Sequence[str], column: str) -> str:
    """Return the column of paths of a CSV file.

    Raises:
        UserError: there is no such column, or none that is called as one of paths.
    """
    there_are = f"there are: {', '.join(columns)}"
    if column:
        if column not in columns:
            raise UserError(f"--column={column} is not in {path}{suggestion(column, columns)}; {there_are}")
        return column
    named = [name for name in columns if name.casefold() in PATH_COLUMNS] or (columns if len(columns) == 1 else [])
    if not named:
        raise UserError(
            f"{path} has no column called {PATH_COLUMNS[0]}: name that of the paths with --column; {there_are}"
        )
    return named[0]
