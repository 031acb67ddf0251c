"""The rows of the results table, as references.yaml has them: the notebook's figures and published ones."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from data.files import refusing_damage
from data.yaml_file import read_yaml_file

FILE = Path(__file__).parents[1] / "references.yaml"
RECIPES = Path(__file__).parents[2] / "sweeps" / "best"


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


@cache
def references() -> tuple[Reference, ...]:
    """Return the rows of the table, in their order.

    Raises:
        UserError: the file of them is damaged.
    """
    with refusing_damage(FILE, "it holds no rows of the table, take it out of git again"):
        rows = [
            Reference(**{**row, "public": tuple(Public(**figure) for figure in row.get("public", ()))})
            for row in read_yaml_file(FILE)
        ]
        for row in rows:
            texts = [text for key, text in row._asdict().items() if key not in ("settings", "public")]
            if not all(isinstance(text, str) for text in [*texts, *(text for figure in row.public for text in figure)]):
                raise TypeError(f"{str(row)[:100]} holds what is no text")
            if not isinstance(row.settings, dict):
                raise TypeError(f"the settings {str(row.settings)[:100]} are none")
        return tuple(rows)


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """Return the settings of each recipe in sweeps/best, by the name of its file.

    Raises:
        UserError: one of the files is damaged.
    """
    return {path.name: read_yaml_file(path) for path in sorted(RECIPES.glob("*.yaml"))}
