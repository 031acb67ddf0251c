"""What a closer look at a model finds, to be logged."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A small table of figures: names of the columns, and rows of values."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def save(self, path: Path) -> None:
        """Write the table as a CSV file."""
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.columns, *self.rows])


class Analysis(NamedTuple):
    """What a closer look at a model has found, to be logged under its names."""

    metrics: Mapping[str, float] = {}
    images: Mapping[str, Path] = {}  # pictures on disk
    tables: Mapping[str, Table] = {}
