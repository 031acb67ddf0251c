"""A device of limited memory that only pretends to be one: a file in which its processes note what they hold."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WORDS = (
    "train.py: no memory (CUDA out of memory. Tried to allocate {asked:.2f} GiB. GPU 0 has a total capacity of "
    "{total:.2f} GiB of which {free:.2f} GiB is free. Process 7 has {others:.2f} GiB memory in use. Including "
    "non-PyTorch memory, this process has 0.10 GiB memory in use. Of the allocated memory ...): lower --batch_size"
)


def is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def held(path: Path, gib: float, asked: float) -> Iterator[None]:
    """Hold a device's memory; end the process as PyTorch does if there is not so much."""
    exchange(path, gib, asked)
    try:
        yield
    finally:
        exchange(path, gib, 0.0)


def exchange(path: Path, gib: float, asked: float) -> None:
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        holders = {pid: own for pid, own in json.loads(file.read() or "{}").items() if is_alive(pid)}
        holders.pop(str(os.getpid()), None)
        others = sum(holders.values())
        is_full = others + asked > gib
        if not is_full:
            holders[str(os.getpid())] = asked
        file.truncate(0)
        file.write(json.dumps(holders))
    if is_full:
        raise MemoryError(WORDS.format(asked=asked, total=gib, free=gib - others, others=others))
