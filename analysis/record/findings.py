"""What a closer look at a model finds, to be logged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A small table of figures: names of the columns, and rows of values."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Analysis(NamedTuple):
    """What a closer look at a model has found, to be logged under its names."""

    metrics: Mapping[str, float] = {}
    images: Mapping[str, Path] = {}  # pictures on disk
    tables: Mapping[str, Table] = {}
