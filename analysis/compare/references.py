"""The rows of the results table, as references.yaml has them: the notebook's figures and published ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FILE = Path(__file__).parents[1] / "references.yaml"


class Public(NamedTuple):
    """A published figure."""

    figure: str
    what: str  # that it was reached with
    source: str  # address of the paper or the repository


class Reference(NamedTuple):
    """A row of the results table: a result belongs to it that has its model, dataset and settings."""

    title: str
    model: str
    metric: str = "test/accuracy"  # that is shown
    settings: Mapping[str, Any] = {}
    dataset: str = "cifar10"
    notebook: str = ""  # the notebook's figure
    notebook_time: str = ""  # the notebook's time of training, on a P100
    public: tuple[Public, ...] = ()


def read_references(path: Path) -> tuple[Reference, ...]:
    """Return the rows that a file of references has, in its order."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(
        Reference(**{**row, "public": tuple(Public(**figure) for figure in row.get("public", ()))}) for row in rows
    )


REFERENCES = read_references(FILE)
