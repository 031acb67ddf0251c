"""What runs have predicted of the images that were held out, by the tables in their folders."""

import csv
import statistics
from collections.abc import Collection, Iterator
from pathlib import Path

from analysis.record import run_folder


def right_by_image(folders: Collection[Path], split: str) -> dict[str, float]:
    """Return image -> share of some runs that have classified it rightly, by the predictions in their folders.

    Args:
        folders: of runs with different seeds.
        split: "val" or "test".

    Returns:
        The images that all of the runs have predicted; {} where a run has no predictions.
    """
    found: list[dict[str, bool]] = []
    for folder in folders:
        try:
            rows = [row for row in rows_of(folder) if row.get("split") == split]
            found.append({row["file"]: row["true"] == row["predicted"] for row in rows})
        except (OSError, KeyError, csv.Error, UnicodeError):
            return {}
    shared = set.intersection(*map(set, found)) if found else set()
    return {image: statistics.fmean(run[image] for run in found) for image in sorted(shared)}


def held_out_files(folder: Path) -> set[str]:
    """Return the images that a run was not trained on, validation and test images, as its dataset names them."""
    try:
        return {row["file"] for row in rows_of(folder)}
    except (OSError, KeyError, csv.Error, UnicodeError):
        return set()


def rows_of(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of the table of predictions in a run's folder, by column.

    Raises:
        OSError: it has none.
    """
    with (folder / run_folder.PREDICTIONS).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield from csv.DictReader(file)
