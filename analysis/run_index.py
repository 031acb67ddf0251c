"""Run folders found on disk, and an index of what they hold, so that thousands are listed without reading each again.

The index is one SQLite file in the cache folder: runs may lie on a disk that is read-only, or that machines share.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from analysis import run_folder
from data.paths import cache_dir

INDEX = "runs.sqlite"
VERSION = 1  # of the index's tables
PARTS = (run_folder.SETTINGS, run_folder.ENVIRONMENT, run_folder.SUMMARY)
SECONDS_TO_WAIT = 10.0  # for another process that writes the index
SWEEP_FILES = frozenset(("sweep.yaml", "study.db", "final.json"))


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


def read_all(root: Path, folders: Sequence[Path]) -> list[RunParts]:
    """What is in the JSON files of all run folders under a folder, from the index where they have not changed since."""
    prefix = f"{root.absolute()}{os.sep}"
    under_root = (prefix, prefix[:-1] + chr(ord(os.sep) + 1))  # what sorts between begins with the prefix
    contents, fresh = [], []
    with open_index() as index:
        rows = index.execute("SELECT * FROM runs WHERE path BETWEEN ? AND ?", under_root) if index else ()
        known = {path: (stamp, content) for path, stamp, content in rows}
        for folder in folders:
            path, stamp = str(folder.absolute()), stamp_of(folder)
            known_stamp, content = known.pop(path, ("", ""))
            if stamp != known_stamp:
                content = json.dumps([read_object(folder / name) for name in PARTS])
                fresh.append((path, stamp, content))
            contents.append(RunParts(*json.loads(content)))
        if index and (fresh or known):
            with suppress(sqlite3.Error), index:  # another process may hold it for too long
                index.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", fresh)
                index.executemany("DELETE FROM runs WHERE path = ?", [(gone,) for gone in known])
    return contents


def stamp_of(folder: Path) -> str:
    """Times and sizes of a run's JSON files: changes whenever one of them does."""
    stamps = []
    for name in PARTS:
        try:
            status = os.stat(f"{folder}/{name}")
            stamps.append(f"{status.st_mtime_ns},{status.st_size},{status.st_ino}")
        except OSError:
            stamps.append("none")
    return ";".join(stamps)


def read_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file; {} where it cannot be read."""
    try:
        return run_folder.read_json(path)
    except OSError:
        return {}


@contextmanager
def open_index() -> Iterator[sqlite3.Connection | None]:
    """The index; None where there can be none, which costs time alone. One that is broken is made anew."""
    path = cache_dir() / INDEX
    connection = None
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = connect(path)
            break
        except sqlite3.OperationalError:  # locked for too long, or a disk that is full
            break
        except sqlite3.DatabaseError:
            path.unlink(missing_ok=True)
        except OSError:
            break
    if connection is None:
        yield None
        return
    with closing(connection):
        yield connection


def connect(path: Path) -> sqlite3.Connection:
    """Open the index, with its tables in it."""
    connection = sqlite3.connect(path, timeout=SECONDS_TO_WAIT)
    with connection:
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            connection.execute("DROP TABLE IF EXISTS runs")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("CREATE TABLE IF NOT EXISTS runs (path TEXT PRIMARY KEY, stamp TEXT, content TEXT)")
    return connection
