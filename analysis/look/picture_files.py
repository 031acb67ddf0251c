"""Image files that are named to a program: single ones, all below a folder, those that a CSV file lists."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.dataset import class_name
from data.errors import UserError, suggestion
from data.folder_layout import Scan, left_out_line
from data.visible import visible, warn

PATH_COLUMNS = ("path", "file", "filename", "filepath", "image", "image_path")  # of a CSV file, in any case
CLASS_COLUMNS = ("class", "label", "true")
NO_CLASS = -1


@dataclass(frozen=True)
class PictureFile:
    """An image file.

    Attributes:
        path: where it is.
        true: its class, as a place among the classes; NO_CLASS if that is not known.
        row: what a CSV file says of it, by column.
    """

    path: Path
    true: int = NO_CLASS
    row: Mapping[str, str] = field(default_factory=dict)


def find_pictures(paths: Sequence[Path], classes: Sequence[str], column: str = "") -> list[PictureFile]:
    """Return the image files that paths name.

    A folder stands for all image files below it, in the order of a dataset made of it; one that lies in a folder called
    as a class is of that class. A CSV file names them in a column, relative to its own folder, and maybe their classes.

    Args:
        paths: of images, folders and CSV files.
        classes: names of the classes that are known.
        column: of paths in a CSV file; empty for the one that is called so, or the only one.

    Raises:
        UserError: a path that is not there, a folder without images, a table without paths; or no path at all.
    """
    found: list[PictureFile] = []
    for path in paths:
        if path.is_dir():
            found += below(path, classes)
        elif path.suffix.lower() == ".csv":
            found += listed(path, classes, column)
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
    paths = sorted(scan.below(folder))
    scan.left_out["images that may not be opened"] += len(scan.unreadable)
    left_out = +scan.left_out  # without zeros
    told = left_out_line(left_out) if left_out else ""
    if not paths:
        raise UserError(f"{folder} holds no images: name another folder{told and '; ' + told}")
    if told:
        warn(f"{visible(folder)}: {told}")
    known = {name: place for place, name in enumerate(classes)}
    return [PictureFile(path, true_class(path.relative_to(folder), known)) for path in paths]


def true_class(path: Path, known: Mapping[str, int]) -> int:
    """Return the class of the uppermost folder of a path that is called as one; NO_CLASS if none is."""
    return next((known[name] for part in path.parts[:-1] if (name := class_name(part)) in known), NO_CLASS)


def listed(path: Path, classes: Sequence[str], column: str) -> list[PictureFile]:
    """Return the image files that a CSV file lists.

    Raises:
        UserError: it cannot be read, has no such column, or lists nothing.
    """
    rows = list(read_rows(path))
    if not rows:
        raise UserError(f"{path} lists no images: give a row with the names of the columns, then one for each image")
    column = choose_column(path, list(rows[0]), column)
    name_of_class = next((name for name in rows[0] if name.casefold() in CLASS_COLUMNS and name != column), "")
    known = {name: place for place, name in enumerate(classes)}
    found = []
    for number, row in enumerate(rows, 1):
        if not row[column]:
            raise UserError(f"{path}: row {number} names no file in the column {column}: fill it in, or remove the row")
        label = known.get(class_name(row[name_of_class]), NO_CLASS) if name_of_class else NO_CLASS
        found.append(PictureFile(path.parent / row[column], label, row))
    num_unknown = sum(bool(one.row[name_of_class]) and one.true == NO_CLASS for one in found) if name_of_class else 0
    if num_unknown:
        warn(f"{path}: the column {name_of_class} holds no class of the run in {num_unknown:,} of {len(found):,} rows")
    return found


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file by the names of the columns; a cell that is missing is empty.

    Raises:
        UserError: it is no text, or a row has more cells than the first one.
    """
    if not path.is_file():  # reading a pipe could take for ever
        raise UserError(f"{path} is no file: name a CSV file with a column of paths")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.DictReader(file, restval=""), 1):
                if None in row:
                    raise UserError(f"{path}: row {number} has more cells than there are columns: quote its commas")
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV in UTF-8 ({error}): save it as that") from None


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
