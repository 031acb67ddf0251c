"""Run folders found on disk, and an index of what they hold, so that thousands are listed without reading each again.

The index is one SQLite file in the cache folder: runs may lie on a disk that is read-only, or that machines share.
"""

import json
import math
import os
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from analysis.record import run_folder
from data.paths import cache_dir

INDEX = "runs.sqlite"
VERSION = 5  # of the index's tables
PARTS = (run_folder.SETTINGS, run_folder.ENVIRONMENT, run_folder.SUMMARY)
SECONDS_TO_WAIT = 10.0  # for another process that writes the index
SWEEP_FILES = frozenset((run_folder.SWEEP_FILE, run_folder.STUDY, run_folder.FINAL_RESULT))


Content = TypeVar("Content")
Curve = list[tuple[float, float]]  # epochs and values


class RunParts(NamedTuple):
    """Content of a run's JSON files; {} for one that is missing or broken."""

    settings: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]


class Found(NamedTuple):
    """Folders under a runs folder."""

    runs: list[Path]  # that have settings
    num_others: int  # that have none, and in which no run lies


def find_run_folders(root: Path) -> Found:
    """All run folders under a folder, at any depth, through links, each once."""
    return walk(root, set())


def walk(folder: Path, seen: set[tuple[int, int]]) -> Found:
    """Run folders in and under a folder, but for those under folders that were `seen`."""
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            is_folder = {entry.name: entry.is_dir() for entry in entries}
    except OSError:  # not ours to read, or deleted since
        return Found([], 1)
    if (status.st_dev, status.st_ino) in seen:
        return Found([], 0)
    seen.add((status.st_dev, status.st_ino))
    if run_folder.SETTINGS in is_folder:
        return Found([folder], 0)
    inner = [walk(folder / name, seen) for name, is_one in sorted(is_folder.items()) if is_one and name[0] != "."]
    runs = [run for found in inner for run in found.runs]
    if runs or is_folder.keys() & SWEEP_FILES:
        return Found(runs, sum(found.num_others for found in inner))
    return Found([], 1)


def read_parts(root: Path, folders: Sequence[Path]) -> list[RunParts]:
    """What is in the JSON files of all the run folders under a folder; others that lay there are forgotten."""

    def read(run: Path) -> str:
        return json.dumps([read_object(run / name) for name in PARTS])

    def read_and_forget(index: sqlite3.Connection | None) -> list[Any]:
        if index:
            forget_others(index, root, folders)
        return read_through(index, folders, "parts", PARTS, read)

    return [RunParts(*json.loads(content)) for content in with_index(read_and_forget)]


def read_curves(folders: Sequence[Path], metric: str) -> list[Curve]:
    """A metric of each run over its epochs."""

    def read(run: Path) -> bytes:
        return array("d", chain.from_iterable(curve_of(read_rows(run), metric))).tobytes()

    names = (run_folder.METRICS,)
    contents = with_index(lambda index: read_through(index, folders, f"curve {metric}", names, read))
    flat = (array("d", content) for content in contents)
    return [list(zip(numbers[::2], numbers[1::2], strict=True)) for numbers in flat]


def curve_of(rows: Iterable[Mapping[str, Any]], metric: str) -> Curve:
    """A metric over the epochs, wherever it is finite."""
    points = [(row["epoch"], row[metric]) for row in rows if "epoch" in row and metric in row]
    return [point for point in points if all(isinstance(x, int | float) and math.isfinite(x) for x in point)]


def read_through(
    index: sqlite3.Connection | None,
    folders: Sequence[Path],
    kind: str,
    names: Sequence[str],
    read: Callable[[Path], str | bytes],
) -> list[Any]:
    """Something of each run, from the index where the run's files have not changed since it was read from them.

    Args:
        index: None for no index.
        folders: of the runs.
        kind: what is read, its key in the index.
        names: the files it is read from.
        read: reads it.
    """
    contents, fresh = [], []
    for folder in folders:
        path, stamp = key_of(folder), stamp_of(folder, names)
        known = index and index.execute("SELECT stamp, content FROM runs WHERE (path, kind) = (?, ?)", (path, kind))
        known_stamp, content = (known and known.fetchone()) or ("", "")
        if stamp != known_stamp:
            content = read(folder)
            fresh.append((path, kind, stamp, content))
        contents.append(content)
    if index and fresh:
        with suppress(sqlite3.Error), index:  # another process may write for too long
            index.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", fresh)
    return contents


def forget_others(index: sqlite3.Connection, root: Path, folders: Iterable[Path]) -> None:
    """Take what is known of folders that are no longer there out of the index."""
    under_root = (key_of(root) + b"/", key_of(root) + b"0")  # what sorts between begins with the former
    paths = {path for (path,) in index.execute("SELECT path FROM runs WHERE path BETWEEN ? AND ?", under_root)}
    if gone := paths - {key_of(folder) for folder in folders}:
        with suppress(sqlite3.Error), index:
            index.executemany("DELETE FROM runs WHERE path = ?", [(path,) for path in gone])


def key_of(folder: Path) -> bytes:
    """A folder in the index; names need be no text."""
    return os.fsencode(folder.absolute())


def stamp_of(folder: Path, names: Sequence[str]) -> str:
    """Times and sizes of files in a folder: changes whenever one of them does."""
    stamps = []
    for name in names:
        try:
            status = os.stat(f"{folder}/{name}")
            stamps.append(f"{status.st_mtime_ns},{status.st_size},{status.st_ino}")
        except OSError:
            stamps.append("none")
    return ";".join(stamps)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics, as far as they can be read."""
    try:
        return run_folder.read_metrics(folder)
    except OSError:
        return []


def read_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file; {} where it cannot be read."""
    try:
        return run_folder.read_json(path)
    except OSError:
        return {}


def with_index(work: Callable[[sqlite3.Connection | None], Content]) -> Content:
    """Do some work with the index, or without where there can be none, which costs time alone."""
    path = cache_dir() / INDEX
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(connect(path)) as index:
            return work(index)
    except (sqlite3.OperationalError, OSError):  # a full or read-only disk, or another process writes for too long
        return work(None)
    except sqlite3.DatabaseError:  # it is broken: the next one makes it anew
        path.unlink(missing_ok=True)
        return work(None)


def connect(path: Path) -> sqlite3.Connection:
    """Open the index, with its tables in it."""
    connection = sqlite3.connect(path, timeout=SECONDS_TO_WAIT)
    with connection:
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            connection.execute("DROP TABLE IF EXISTS runs")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (path BLOB, kind TEXT, stamp TEXT, content, PRIMARY KEY (path, kind))"
        )
    return connection
