"""Run folders on disk, and an index of their content, so that thousands are listed without reading each again.

The index is one SQLite file in the user's cache folder, not beside the runs: their disk may be read-only, or shared by
several machines.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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
OF_BEGUN = frozenset((*PARTS, run_folder.METRICS, run_folder.CHECKPOINT))  # some of a run's files, once it has begun
SWEEP_FILES = frozenset((run_folder.SWEEP_FILE, run_folder.STUDY, run_folder.FINAL_RESULT, run_folder.BEST_RECIPE))

Content = TypeVar("Content")
Rows = Sequence[Mapping[str, Any]]  # that a run has logged


class RunParts(NamedTuple):
    """Content of a run's JSON files; {} for a file that is missing or broken."""

    settings: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]


class Found(NamedTuple):
    """What there is under a runs folder."""

    runs: list[Path]  # folders of runs: those that hold settings
    others: list[Path]  # folders that hold neither a run nor a sweep, nor are a trial's that has not begun yet


class Held(NamedTuple):
    """What a folder holds."""

    files: set[str]  # names of all that is no folder
    folders: list[Path]
    links: list[Path]  # that lead to folders


def find_run_folders(root: Path) -> Found:
    """Return all run folders under a folder, at any depth, each once.

    Links are followed last, and those among the sweeps before the others, so that a link to a trial, or to a whole
    sweep, does not take the place of the trial itself.
    """
    seen: set[tuple[int, int]] = set()
    found, links = walk(root, seen)
    while links:
        links.sort(key=lambda link: (link.parent.name != run_folder.SWEEPS, link))
        inner, further = walk(links.pop(0), seen)
        found.runs.extend(inner.runs)
        found.others.extend(inner.others)
        links += further
    return Found(sorted(found.runs), sorted(found.others))


def walk(top: Path, seen: set[tuple[int, int]]) -> tuple[Found, list[Path]]:
    """Look through a folder and all folders in it, at any depth, without following links.

    Args:
        top: the folder.
        seen: device and inode of each folder that has been looked through, which are left out; those of this call are
            added.

    Returns:
        The runs and the other folders that were found, and the links to folders, for the caller to follow.
    """
    walked: dict[Path, Held] = {}
    to_walk = [top]
    while to_walk:
        folder = to_walk.pop()
        if held := look_into(folder, seen):
            walked[folder] = held
            to_walk += held.folders
    runs = [folder for folder, held in walked.items() if run_folder.SETTINGS in held.files]
    # Folders with links are useful, too: what is wrong with those that the links lead to is said of these.
    useful = {*runs, *(folder for folder, held in walked.items() if held.links or held.files & SWEEP_FILES)}
    for folder, held in reversed(walked.items()):  # from the innermost outwards
        if not useful.isdisjoint(held.folders):
            useful.add(folder)
    parents = useful.difference(runs)  # what else there is in a run is its own
    sweeps = {folder for folder, held in walked.items() if held.files & SWEEP_FILES}
    begun = {folder for folder, held in walked.items() if held.files & OF_BEGUN or folder.parent not in sweeps}
    others = [folder for folder in begun - useful if folder == top or folder.parent in parents]
    return Found(runs, others), [link for held in walked.values() for link in held.links]


def look_into(folder: Path, seen: set[tuple[int, int]]) -> Held | None:
    """Return what a folder holds; None for one that has been walked already.

    The folders within a run are left out, but for a run that is called as the folder of the sweeps is.

    Args:
        folder: where to look.
        seen: device and inode of each folder that has been walked; this one joins them.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            kinds = {entry.name: (entry.is_dir(), entry.is_symlink()) for entry in entries}
    except OSError:  # not ours to read, or deleted since
        return Held(set(), [], [])
    if (status.st_dev, status.st_ino) in seen:
        return None
    seen.add((status.st_dev, status.st_ino))
    files = {name for name, (is_folder, _) in kinds.items() if not is_folder}
    if run_folder.SETTINGS in files and folder.name != run_folder.SWEEPS:
        return Held(files, [], [])
    inner = {folder / name: is_link for name, (is_folder, is_link) in kinds.items() if is_folder and name[0] != "."}
    return Held(files, [one for one in inner if not inner[one]], [one for one in inner if inner[one]])


def read_parts(root: Path, folders: Sequence[Path]) -> list[RunParts]:
    """Return the content of each run's JSON files, and drop runs that are no longer there from the index.

    Args:
        root: the runs folder.
        folders: all run folders under it.
    """

    def read(run: Path, known: str) -> str:
        return json.dumps([read_object(run / name) for name in PARTS])

    def read_and_forget(index: sqlite3.Connection | None) -> list[str]:
        if index:
            forget_others(index, root, folders)
        return read_through(index, folders, "parts", PARTS, read)

    return [RunParts(*json.loads(content)) for content in with_index(read_and_forget)]


def read_curves(folders: Sequence[Path], metric: str) -> list[Curve]:
    """Return a metric's finite values over the epochs, for each of the run folders; very long ones are thinned out."""

    def add(curve: list[Any], rows: Rows) -> list[Any]:
        curve += curve_of(rows, metric)
        return thinned(curve)

    return [[(epoch, value) for epoch, value in curve] for curve in read_logs(folders, f"curve {metric!a}", add)]


def read_names(folders: Sequence[Path]) -> list[set[str]]:
    """Return the names of the numbers that each of the runs has logged in an epoch."""

    def add(names: list[str], rows: Rows) -> list[str]:
        epochs = [row for row in rows if is_finite(row.get("epoch"))]
        fresh = set[str]().union(*epochs).difference(names)
        return names + sorted(name for name in fresh if any(is_finite(row.get(name)) for row in epochs))

    return [set(names) for names in read_logs(folders, "names", add)]


def read_logs(folders: Sequence[Path], kind: str, add: Callable[[list[Any], Rows], list[Any]]) -> list[list[Any]]:
    """Return what there is to know of each run's log; of one that has grown, only what is new is read.

    Args:
        folders: the runs' folders.
        kind: name of that in the index.
        add: returns what is known so far with what further rows add to it.
    """

    def read(run: Path, known: str) -> str:
        size, last, found = json.loads(known) if known else (0, "", [])
        log = run_folder.LogReader(run, size, last.encode())
        if not log.goes_on():
            found = []
        for rows in readable_rows(log):
            found = add(found, rows)
        return json.dumps([log.size, log.last.decode(), found])

    names = (run_folder.METRICS,)
    return [json.loads(content)[2] for content in with_index(lambda i: read_through(i, folders, kind, names, read))]


def curve_of(rows: Rows, metric: str) -> Curve:
    """Return the points of the epochs that have a finite value of a metric.

    A closing evaluation is none: it is logged after the last epoch, and is of the kept weights, as the summary says.
    """
    points: Iterator[tuple[Any, Any]] = ((row.get("epoch"), row.get(metric)) for row in rows if is_epoch(row))
    return [(epoch, value) for epoch, value in points if is_finite(epoch) and is_finite(value)]


def read_through(
    index: sqlite3.Connection | None,
    folders: Sequence[Path],
    kind: str,
    names: Sequence[str],
    read: Callable[[Path, str], str],
) -> list[str]:
    """Return some content of each run: from the index, unless the run's files have changed since they were read.

    Args:
        index: the open index; None to read every run and note nothing down.
        folders: the runs' folders.
        kind: name of the content in the index.
        names: the files that it is read from.
        read: reads it from a run's folder; it is told what the index has of it, which is no longer true, or "".
    """
    contents, fresh = [], []
    for folder in folders:
        path, stamp = key_of(folder), stamp_of(folder, names)
        known = index and index.execute("SELECT stamp, content FROM runs WHERE (path, kind) = (?, ?)", (path, kind))
        known_stamp, content = (known and known.fetchone()) or ("", "")
        if stamp != known_stamp:
            content = read(folder, content)
            fresh.append((path, kind, stamp, content))
        contents.append(content)
    if index and fresh:
        with suppress(sqlite3.Error), index:  # another process may write for too long
            index.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", fresh)
    return contents


def forget_others(index: sqlite3.Connection, root: Path, folders: Iterable[Path]) -> None:
    """Delete the runs under `root` that are none of `folders` from the index."""
    under_root = (key_of(root) + b"/", key_of(root) + b"0")  # what sorts between the two begins with the first
    paths = {path for (path,) in index.execute("SELECT path FROM runs WHERE path BETWEEN ? AND ?", under_root)}
    if gone := paths - {key_of(folder) for folder in folders}:
        with suppress(sqlite3.Error), index:
            index.executemany("DELETE FROM runs WHERE path = ?", [(path,) for path in gone])


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


def stamp_of_all(root: Path) -> str:
    """Return a text that changes whenever the runs or the sweeps under a folder go on."""
    folders = find_run_folders(root).runs
    stamps = [stamp_of(folder, (*PARTS, run_folder.METRICS, run_folder.GENERATION)) for folder in folders]
    stamps += [stamp_of(folder, sorted(SWEEP_FILES)) for folder in dict.fromkeys(run.parent for run in folders)]
    return "\n".join([*map(str, folders), *stamps])


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


def with_index(work: Callable[[sqlite3.Connection | None], Content]) -> Content:
    """Return what `work` returns for the open index, or for None where none can be opened, which only takes longer."""
    try:
        path = cache_dir() / INDEX
    except UserError:  # there is no home
        return work(None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(connect(path)) as index:
            return work(index)
    except (sqlite3.OperationalError, OSError):  # a full or read-only disk, or another process writes for too long
        return work(None)
    except sqlite3.DatabaseError:  # the file is broken: the next reader makes a new one
        path.unlink(missing_ok=True)
        return work(None)


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
