"""The content of run folders, and an index of it, so that thousands are listed without reading each again.

The index is one SQLite file in the user's cache folder, not beside the runs: their disk may be read-only, or shared by
several machines.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from analysis.read.folders import SWEEP_FILES, find_run_folders
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json
from data.metrics import Curve, is_epoch, is_finite, thinned
from data.paths import cache_dir

INDEX = "runs.sqlite"
VERSION = 7  # of the index's tables
PARTS = (run_folder.SETTINGS, run_folder.ENVIRONMENT, run_folder.SUMMARY)
LARGEST = 10**300  # whole numbers from here on count as none
SECONDS_TO_WAIT = 10.0  # while another process writes the index

Content = TypeVar("Content")
Rows = Sequence[Mapping[str, Any]]  # that a run has logged


class RunParts(NamedTuple):
    """Content of a run's JSON files; {} for a file that is missing or broken."""

    settings: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]


class Index:
    """The index of what was read of run folders before. Without a usable file, everything is read again, more slowly.

    Attributes:
        connection: to the file; None where that cannot be used.
        fresh: rows for the file, written at the end.
    """

    def __init__(self) -> None:
        self.connection: sqlite3.Connection | None = None
        self.fresh: list[tuple[bytes, str, str, str]] = []

    def __enter__(self) -> Self:
        with self.doing_without():
            path = cache_dir() / INDEX
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = connect(path)
        return self

    def __exit__(self, *error: object) -> None:
        self.write("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", self.fresh)
        if self.connection:
            self.connection.close()

    @contextmanager
    def doing_without(self) -> Iterator[None]:
        """Return a context after whose errors the index goes on without its file."""
        try:
            yield
        except (UserError, OSError, sqlite3.OperationalError):  # no home, a full disk, or another writes for too long
            self.connection = None
        except sqlite3.DatabaseError:  # the file is broken: the next reader makes a new one
            self.connection = None
            (cache_dir() / INDEX).unlink(missing_ok=True)

    def cached(self, folder: Path, kind: str, names: Sequence[str], read: Callable[[Path, Any], Any]) -> Any:
        """Return some content of a run: from the index, unless the run's files have changed since they were read.

        Args:
            folder: the run's.
            kind: name of the content in the index.
            names: the files that it is read from.
            read: reads it from the folder; it is given the outdated content of the index, or None.
        """
        path, stamp, known = key_of(folder), stamp_of(folder, names), None
        for known_stamp, content in self.select("stamp, content", "(path, kind) = (?, ?)", path, kind):
            known = json.loads(content)
            if known_stamp == stamp:
                return known
        found = read(folder, known)
        self.fresh.append((path, kind, stamp, json.dumps(found)))
        return found

    def forget_others(self, root: Path, folders: Iterable[Path]) -> None:
        """Delete the runs under `root` that are none of `folders`."""
        bounds = key_of(root) + b"/", key_of(root) + b"0"  # what sorts between the two begins with the first
        paths = {path for (path,) in self.select("path", "path BETWEEN ? AND ?", *bounds)}
        gone = paths - {key_of(folder) for folder in folders}
        self.write("DELETE FROM runs WHERE path = ?", [(path,) for path in gone])

    def select(self, columns: str, condition: str, *values: str | bytes) -> list[tuple]:
        """Return columns of all rows of the file that meet a condition; no rows where the file cannot be used."""
        with self.doing_without():
            if self.connection:
                return self.connection.execute(f"SELECT {columns} FROM runs WHERE {condition}", values).fetchall()
        return []

    def write(self, statement: str, rows: Sequence[tuple]) -> None:
        """Carry out a statement for each of some rows."""
        if self.connection and rows:
            with suppress(sqlite3.Error), self.connection:  # another process may write for too long
                self.connection.executemany(statement, rows)


def connect(path: Path) -> sqlite3.Connection:
    """Open the index; a new one, and one of an older version, gets empty tables."""
    connection = sqlite3.connect(path, timeout=SECONDS_TO_WAIT)
    with connection:
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            connection.execute("DROP TABLE IF EXISTS runs")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (path BLOB, kind TEXT, stamp TEXT, content, PRIMARY KEY (path, kind))"
        )
    return connection


def read_parts(root: Path, folders: Sequence[Path]) -> list[RunParts]:
    """Return the content of each run's JSON files, and drop runs that are no longer there from the index.

    Args:
        root: the runs folder.
        folders: all run folders under it.
    """

    def read(folder: Path, known: Any) -> list[dict[str, Any]]:
        return [read_object(folder / name) for name in PARTS]

    with Index() as index:
        index.forget_others(root, folders)
        return [RunParts(*index.cached(folder, "parts", PARTS, read)) for folder in folders]


def read_curves(folders: Sequence[Path], metric: str) -> list[Curve]:
    """Return a metric's finite values over the epochs, for each of the run folders; very long ones are thinned out."""

    def add(curve: list[Any], rows: Rows) -> list[Any]:
        return thinned(curve + curve_of(rows, metric))

    return [[(epoch, value) for epoch, value in curve] for curve in read_logs(folders, f"curve {metric!a}", add)]


def read_names(folders: Sequence[Path]) -> list[set[str]]:
    """Return the names of the numbers that each of the runs has logged in an epoch."""

    def add(names: list[str], rows: Rows) -> list[str]:
        epochs = [row for row in rows if is_finite(row.get("epoch"))]
        fresh = set[str]().union(*epochs).difference(names)
        return names + sorted(name for name in fresh if any(is_finite(row.get(name)) for row in epochs))

    return [set(names) for names in read_logs(folders, "names", add)]


def read_logs(folders: Sequence[Path], kind: str, add: Callable[[list[Any], Rows], list[Any]]) -> list[list[Any]]:
    """Return what `add` makes of each run's log; of a log that has grown, only the new rows are read.

    Args:
        folders: the runs' folders.
        kind: name under which the index keeps it.
        add: takes what is known so far, and further rows; returns both together.
    """

    def read(folder: Path, known: Any) -> list[Any]:
        size, last, found = known or (0, "", [])
        log = run_folder.LogReader(folder, size, last.encode())
        if not log.goes_on():
            found = []
        for rows in readable_rows(log):
            found = add(found, rows)
        return [log.size, log.last.decode(), found]

    with Index() as index:
        return [index.cached(folder, kind, (run_folder.METRICS,), read)[2] for folder in folders]


def curve_of(rows: Rows, metric: str) -> Curve:
    """Return the points of the epochs that have a finite value of a metric.

    A closing evaluation is none: it is logged after the last epoch, and is of the kept weights, as the summary says.
    """
    points: Iterator[tuple[Any, Any]] = ((row.get("epoch"), row.get(metric)) for row in rows if is_epoch(row))
    return [(epoch, value) for epoch, value in points if is_finite(epoch) and is_finite(value)]


def key_of(folder: Path) -> bytes:
    """Return the key of a folder in the index; bytes, since names of folders need not be valid text."""
    return os.fsencode(folder.absolute())


def stamp_of(folder: Path, names: Sequence[str]) -> str:
    """Return the times, sizes and inodes of files in a folder, as text that changes whenever one of the files does."""
    stamps = []
    for name in names:
        try:
            status = os.stat(f"{folder}/{name}")
            stamps.append(f"{status.st_mtime_ns},{status.st_size},{status.st_ino}")
        except OSError:
            stamps.append("none")
    return ";".join(stamps)


class Stamps(NamedTuple):
    """Texts that change whenever something under a folder goes on; empty without runs.

    Attributes:
        runs: of runs and sweeps.
        studies: of the sweeps' databases, which their agents' signs of life change every 10 seconds.
    """

    runs: str
    studies: str


def stamps_of_all(root: Path) -> Stamps:
    """Return the stamps of the runs and the sweeps under a folder."""
    folders = find_run_folders(root).runs
    parents = dict.fromkeys(run.parent for run in folders)
    stamps = [stamp_of(folder, (*PARTS, run_folder.METRICS, run_folder.GENERATION)) for folder in folders]
    stamps += [stamp_of(folder, sorted(SWEEP_FILES - {run_folder.STUDY})) for folder in parents]
    studies = [stamp_of(folder, [run_folder.STUDY]) for folder in parents]
    return Stamps("\n".join([*map(str, folders), *stamps]), "\n".join(studies))


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what a run logged, one dict a log call, as far as it can be read."""
    for rows in readable_rows(run_folder.LogReader(folder)):
        yield from map(without_giants, rows)


def readable_rows(log: run_folder.LogReader) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a log, some at a time, as far as it can be read."""
    with suppress(OSError, MemoryError):
        yield from log


def read_object(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; {} where it cannot be read."""
    return without_giants(readable(path, read_json) or {})


def without_giants(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with None for each whole number that is too large for a float, and so for arithmetic."""
    giants = [key for key, value in content.items() if type(value) is int and not -LARGEST < value < LARGEST]
    return {**content, **dict.fromkeys(giants)} if giants else content


def readable(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """Return what `read` makes of a file; None where it is no file, as a pipe is none, or cannot be read."""
    try:
        return read(path) if path.is_file() else None
    except (OSError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep, too large
        return None
