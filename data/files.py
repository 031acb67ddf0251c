"""Files on disk: written whole or not at all, by one process at a time, and read even where a kill cut them short."""

import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

UNFINISHED = ".unfinished"  # the end of a temporary name
SECONDS_TO_SWEEP = 3600  # age from which a temporary file is removed if its writer is dead


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name, and rename it to `path` once it is whole and on the disk.

    Any number of processes may write one file at once; the last one to end wins. A link is followed, and a device or a
    pipe, such as /dev/stdout, is written to and never replaced.

    Raises:
        OSError: the file could not be written; what was there before is kept.
    """
    if is_special(path):
        write(path)
        return
    path = Path(os.path.realpath(path))
    unfinished = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}{UNFINISHED}")
    # The lock dies with its writer, so that others can tell a dead one's file. O_EXCL follows nobody's link.
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write(unfinished)
        sync(unfinished)
        unfinished.replace(path)
        with suppress(OSError):  # a file system that cannot
            sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
        os.close(descriptor)
    sweep_unfinished(path)


def is_special(path: Path) -> bool:
    """Return whether a path leads to a device, a pipe or a socket.

    Raises:
        OSError: it is a pipe from which nobody reads; to open it would last for ever.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISFIFO(mode):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_unfinished(path: Path) -> None:
    """Remove what dead writers of a file left beside it: what is an hour old and held by no writer."""
    before = time.time() - SECONDS_TO_SWEEP
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            if entry.name.startswith(f".{path.name[:50]}.") and entry.name.endswith(UNFINISHED):
                with suppress(OSError):
                    sweep(entry, before)


def sweep(entry: os.DirEntry[str], before: float) -> None:
    """Remove a temporary file that was written before a time and whose writer is dead; else raise OSError."""
    if entry.stat(follow_symlinks=False).st_mtime > before:
        return
    descriptor = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(entry.path)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, notice: str) -> Iterator[None]:
    """Hold the lock on a file, which is made for it; if another process or thread holds it, print `notice` and wait.

    The system frees the lock when its holder dies. Several users may share it.

    Raises:
        OSError: the file cannot be made or opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, mode=0o666, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(notice, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file with one key a line."""
    replace_file(path, lambda unfinished: unfinished.write_text(json.dumps(content, indent=1) + "\n", "utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; an empty dict where the file is missing, cut short or no JSON object."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):  # ValueError: not JSON, or no text
        return {}
    return content if isinstance(content, dict) else {}
