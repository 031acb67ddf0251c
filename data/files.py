"""Files on disk: written whole or not at all, by one process at a time, and read even where a kill cut them short."""

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import socket
import stat
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from data.errors import UserError
from data.paths import cache_dir
from data.visible import say

UNFINISHED = ".unfinished"  # the end of a temporary name
SECONDS_TO_SWEEP = 3600  # age from which a temporary file of another machine is removed if nobody holds its lock
SECONDS_OF_SCRATCH = 30 * 24 * 3600.0  # after which nobody needs a scratch folder of another machine


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
    sweep_unfinished(path.parent)  # first, since it may make the room that is needed
    try:
        write_beside(path, write)
    except OSError as error:
        is_known = error.filename is not None and not str(error.filename).endswith(UNFINISHED)  # as to the user
        if error.errno and not is_known:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name beside a path, and rename it to that path."""
    descriptor, unfinished = open_unfinished(path)
    try:
        write(unfinished)
        sync(unfinished)
        unfinished.replace(path)
        with suppress(OSError):  # a file system that cannot
            sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
        os.close(descriptor)


def open_unfinished(path: Path) -> tuple[int, Path]:
    """Make a temporary file beside a path; return its descriptor, which holds the lock on it, and its path.

    The lock dies with its writer, so that others can tell a dead one's file.
    """
    while True:
        unfinished = path.with_name(f".{path.name[:50]}.{machine()}-{secrets.token_hex(8)}{UNFINISHED}")
        # O_EXCL follows nobody's link.
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # else it was swept before it was locked
            return descriptor, unfinished
        os.close(descriptor)


@cache
def machine() -> str:
    """Return a name of this machine since its last start, of 8 letters and digits."""
    return hashlib.sha256(f"{socket.gethostname()} {boot_id()}".encode()).hexdigest()[:8]


def boot_id() -> str:
    """Return what no other machine has, nor this one after its next start; empty where the system does not tell it."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def is_special(path: Path) -> bool:
    """Return whether a path leads to a device, a pipe or a socket.

    Raises:
        OSError: it is a pipe from which nobody reads; to open it would last for ever.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
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


def sweep_unfinished(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers are dead."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and entry.name.endswith(UNFINISHED):
                with suppress(OSError):
                    sweep(entry)


def sweep(entry: os.DirEntry[str]) -> None:
    """Remove a temporary file whose writer is dead; else raise OSError.

    Other machines do not see each other's locks on all file systems: what one of them wrote has to be an hour old.
    """
    is_fresh = entry.stat(follow_symlinks=False).st_mtime > time.time() - SECONDS_TO_SWEEP
    if is_fresh and f".{machine()}-" not in entry.name:
        return
    remove_abandoned(entry.path, os.O_RDWR | os.O_NONBLOCK, os.unlink)


def remove_abandoned(path: str, how_to_open: int, remove: Callable[[str], None]) -> None:
    """Remove a file or folder if no process holds the lock on it; else raise OSError."""
    descriptor = os.open(path, how_to_open | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path)
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for a while, and remove it in the end; what processes that were killed have left is removed, too.

    Raises:
        OSError: it cannot be made.
    """
    root = cache_dir() / "scratch"
    root.mkdir(parents=True, exist_ok=True)
    own = f"{machine()}-"
    for left in os.scandir(root):
        with suppress(OSError):  # of another machine, whose lock on a folder is not seen on NFS, only what is old
            if left.name.startswith(own) or left.stat().st_mtime < time.time() - SECONDS_OF_SCRATCH:
                remove_abandoned(left.path, os.O_RDONLY | os.O_DIRECTORY, shutil.rmtree)
    folder = tempfile.mkdtemp(prefix=own, dir=root)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
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
        say(notice)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def refusing_damage(path: Path, remedy: str) -> Iterator[None]:
    """Turn the errors of code that uses what a JSON file held, or the files of a folder, into one that names it.

    Raises:
        UserError: there was such an error.
    """
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = textwrap.shorten(f"{type(error).__name__} {error}", 100, placeholder="...")
        raise UserError(f"{path} is damaged ({reason}): {remedy}") from None


@contextmanager
def naming_file(path: str) -> Iterator[None]:
    """Have the errors of a file that is open already name it: the system names a file only as it is opened."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


def check_can_be_made(folder: Path, remedy: str) -> None:
    """Refuse, without making anything, a folder that cannot be made or written, before long work whose result it gets.

    Raises:
        UserError: what is there of its path is a file, or may not be written.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        reason = os.strerror(errno.EACCES if there.is_dir() else errno.ENOTDIR)
        is_writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except OSError as error:
        is_writable, reason = False, str(error.strerror)
    if not is_writable:
        raise UserError(f"{folder} cannot be written ({reason}): {remedy}")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file with one key a line; NaN and infinity, for which JSON has no form, become null."""
    text = json.dumps(only_finite(content), indent=1, allow_nan=False) + "\n"
    replace_file(path, lambda unfinished: unfinished.write_text(text, "utf-8"))


def write_figure(path: Path, figure: Any, dpi: int = 100) -> None:
    """Write a figure of matplotlib in the format that the ending of the path names; as PNG where it has none.

    Raises:
        UserError: there is no such format, or the file cannot be written.
    """

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            figure.savefig(file, dpi=dpi, format=path.suffix.removeprefix(".") or "png")

    try:
        replace_file(path, write)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be written ({reason}): name a picture in a folder, such as x.png") from None


def only_finite(content: Any) -> Any:
    """Return what a JSON file is to hold, with None in place of every number that is not finite."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: only_finite(value) for key, value in content.items()}
    return [only_finite(value) for value in content] if isinstance(content, list | tuple) else content


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; an empty dict where the file is missing, cut short or no JSON object."""
    if not path.is_file():  # reading a pipe or a device could take for ever
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # ValueError: not JSON, or no text
        return {}
    return content if isinstance(content, dict) else {}
