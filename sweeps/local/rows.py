"""The rows of the table of results, as rows.yaml has them, and the steps of which each consists."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from analysis.read.recipe import flags
from analysis.record import run_folder
from data.errors import UserError, suggestion
from data.files import refusing_damage
from data.paths import CHECKOUT, default_data_dir
from data.yaml_file import read_yaml_file
from models.resolve import config_values, validate
from sweeps.local.final_runs import FIRST_SEED, final_settings

FILE = Path(__file__).with_name("rows.yaml")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: of the row and, with a seed, of its runs; of the sweep, where it is one.
        settings: what train.py is told besides the seed.
        sweep: the sweep file that tunes the settings, from the checkout; None where they are given.
        seeds: at most so many runs; 0 for no limit.
        then: words of a command after each run, in which {run} stands for the run's folder.
        after: name of the row that has to be trained before; "" for none.
        note: what the table says of it.
    """

    name: str
    settings: Mapping[str, Any]
    sweep: Path | None = None
    seeds: int = 0
    then: tuple[str, ...] = ()
    after: str = ""
    note: str = ""


@dataclass(frozen=True)
class Step:
    """A command of a row.

    Attributes:
        row: the row's name.
        name: its own, that of its output's folder.
        words: the command; "python" stands for the one that this program runs under.
        after: names of the steps, and of the rows, that have to be done before.
        takes_all: whether it divides all the workers' devices among runs of its own.
        trains: whether it is a run of train.py.
        seeds: final runs that it trains of a sweep.
    """

    row: str
    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    takes_all: bool = False
    trains: bool = False
    seeds: int = 0


def read_rows(runs_dir: Path, told: Mapping[str, Any], path: Path | None = None) -> list[Row]:
    """Return the rows in a file, in their order.

    Args:
        runs_dir: the folder of all runs.
        told: settings for every row, which win over its own.
        path: the file; None for the committed one.

    Raises:
        UserError: the file is damaged, or settings are wrong.
    """
    path = path or FILE
    with refusing_damage(path, "it holds no rows of the table, take it out of git again"):
        content = read_yaml_file(path)
        rows = [row_of(name, entry, runs_dir, told) for name, entry in content.items()]
        if missing := {row.after for row in rows if row.after} - {row.name for row in rows}:
            raise ValueError(f"there is no row {', '.join(missing)}")
    return rows


def row_of(name: str, entry: Mapping[str, Any], runs_dir: Path, told: Mapping[str, Any]) -> Row:
    """Return the row that an entry of the file describes."""
    places = {"runs": runs_dir, "data": default_data_dir()}
    own = {key: it.format_map(places) if isinstance(it, str) else it for key, it in entry.get("settings", {}).items()}
    config = config_values(str(CHECKOUT / own.pop("config"))) if "config" in own else {}
    settings = {**config, **own, **told}
    if "sweep" not in entry:
        settings = {**final_settings(settings), **settings}
        validate(settings, {})
    return Row(
        name,
        settings,
        sweep=Path("sweeps", entry["sweep"]) if "sweep" in entry else None,
        seeds=int(entry.get("seeds", 0)),
        then=tuple(shlex.split(entry.get("then", ""))),
        after=entry.get("after", ""),
        note=entry.get("note", ""),
    )


def chosen(rows: Sequence[Row], patterns: str) -> list[Row]:
    """Return the rows whose names fit one of some patterns, such as `*_recipe,mlp`; those that they need are not added.

    Raises:
        UserError: a pattern fits none.
    """
    found: dict[str, Row] = {}
    for pattern in patterns.split(","):
        fitting = {row.name: row for row in rows if fnmatch(row.name, pattern)}
        if not fitting:
            names = [row.name for row in rows]
            raise UserError(f"--rows={pattern} is none{suggestion(pattern, names)}; there are: {', '.join(names)}")
        found |= fitting
    return list(found.values())


def steps_of(rows: Sequence[Row], seeds: int, workers: Sequence[str]) -> list[Step]:
    """Return the steps of some rows: the first run of each, then the second of each and so on; sweeps come last.

    Args:
        rows: the rows.
        seeds: number of runs of each.
        workers: the words that tell the agent of its workers and their devices.
    """
    steps: list[Step] = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for row in rows:
            if row.sweep is None and seed - FIRST_SEED < (row.seeds or seeds):
                steps += run_of(row, seed)
    for row in rows:
        if row.sweep is not None:
            steps += search_of(row, seeds, workers)
    return steps


def run_of(row: Row, seed: int) -> Iterator[Step]:
    """Return the steps of one run of a row: its training, and the command after it."""
    name = f"{row.name}{run_folder.SEED_SUFFIX}{seed}"
    words = ("python", "train.py", *flags({**row.settings, "seed": seed}), f"--run_id={name}")
    yield Step(row.name, name, words, (row.after,) if row.after else (), trains=True)
    if row.then:
        yield Step(row.name, f"{name}-then", tuple(word.replace("{run}", name) for word in row.then), (name,))


def search_of(row: Row, seeds: int, workers: Sequence[str]) -> Iterator[Step]:
    """Return the steps of a sweep: the search, and the final runs."""
    search = f"{row.name}-search"
    yield Step(row.name, search, ("python", "sweeps/agent.py", str(row.sweep), *workers), takes_all=True)
    words = ("python", "sweeps/final.py", row.name, f"--seeds={seeds}", *workers)
    yield Step(row.name, f"{row.name}-final", words, (search,), takes_all=True, seeds=seeds)


def command_of(step: Step) -> list[str]:
    """Return the words that start a step under this Python."""
    return [sys.executable if word == "python" else word for word in step.words]
