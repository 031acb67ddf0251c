"""Faults of the machine, told from faults of a trial's settings by how its process ended and by its last words."""

import re
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

from data.errors import NO_GPU_MEMORY

LEAST_FREE_BYTES = 2**20  # with less, a program can have failed without even a line of output
FULL = "its disk is full"
OUT_OF_MEMORY = "the machine was out of memory"
PATTERNS = {
    FULL: r"\[Errno (28|122)\]|No space left on device|Disk quota exceeded|database or disk is full",
    "its disk does not answer": r"\[Errno (5|30|107|112|116|121)\]|Input/output error|Read-only file system|"
    r"Stale file handle|Transport endpoint is not connected",
    "its GPU is lost or taken": r"no CUDA-capable device is detected|No CUDA GPUs are available|GPU is lost|"
    r"fallen off the bus|device\(s\) is/are busy|uncorrectable (NVLink|ECC) error|CUDA unknown error|"
    r"system not yet initialized|CUDA driver initialization failed",
    "the port of accelerate launch is taken: give it --main_process_port 0": r"EADDRINUSE|Address already in use",
    "too many files are open": r"\[Errno 2[34]\]|Too many open files",
    OUT_OF_MEMORY: r"\[Errno 12\]|Cannot allocate memory|^MemoryError\b|DefaultCPUAllocator: (can't|not enough)",
}
OTHERS_HOLD_MEMORY = "other programs hold its GPU's memory"
TAKES_TOO_MUCH = re.compile(
    "|".join([r"\b(CUDA|HIP)( error:)? out of memory|DefaultCPUAllocator: (can't|not enough)", *NO_GPU_MEMORY])
)
GIBIBYTES = {"MiB": 2**-10, "GiB": 1.0}
SIZE = r"([\d.]+) (MiB|GiB)"
GPU_MEMORY = re.compile(
    rf"out of memory\. Tried to allocate {SIZE}.*?total capacity of {SIZE}.*?this process has {SIZE}", re.DOTALL
)


class Fault(NamedTuple):
    """Why a run failed though its settings may be as good as any.

    Attributes:
        reason: in a user's words.
        may_recur: whether the settings may be the cause after all: if it comes again and again, they are.
    """

    reason: str
    may_recur: bool


def fault_of(code: int, output: str, folder: Path, num_killed: int) -> Fault | None:
    """Return what was wrong with the machine as a run failed; None if nothing was.

    Args:
        code: exit code of the run's process, negative for a signal.
        output: the last lines of its output.
        folder: where it wrote.
        num_killed: processes that the system has killed for lack of memory while the run was under way.
    """
    killed_by = -code if code < 0 else code - 128  # a shell adds 128
    if killed_by == signal.SIGKILL and num_killed:
        return Fault(OUT_OF_MEMORY, True)
    if killed_by == signal.SIGBUS:
        return Fault(f"{FULL}, or a file was cut short under it (SIGBUS)", True)
    for reason, pattern in PATTERNS.items():
        if re.search(pattern, output, re.MULTILINE):
            return Fault(reason, reason == OUT_OF_MEMORY)
    if lacks_memory_to_others(output):
        return Fault(OTHERS_HOLD_MEMORY, True)
    return Fault(FULL, False) if code > 0 and free_bytes(folder) < LEAST_FREE_BYTES else None


def is_short_of_memory(fault: Fault | None, words: str) -> bool:
    """Return whether a run failed for lack of memory, whoever holds it.

    Args:
        fault: what was wrong with the machine.
        words: the run's own reason, and the last lines of its output.
    """
    is_of_machine = fault is not None and fault.reason in (OUT_OF_MEMORY, OTHERS_HOLD_MEMORY)
    return is_of_machine or bool(TAKES_TOO_MUCH.search(words))


def takes_too_much(fault: Fault | None, words: str) -> bool:
    """Return whether a run itself asked for more memory than there is, so that smaller batches may help it."""
    is_of_others = fault is not None and fault.reason == OTHERS_HOLD_MEMORY
    return not is_of_others and bool(TAKES_TOO_MUCH.search(words))


def lacks_memory_to_others(output: str) -> bool:
    """Return whether PyTorch says that a run ran out of a GPU's memory that would do if it had the GPU to itself."""
    found = GPU_MEMORY.search(output)
    if found is None:
        return False
    sizes = found.groups()
    asked, total, own = (float(sizes[i]) * GIBIBYTES[sizes[i + 1]] for i in (0, 2, 4))
    return own + asked < 0.9 * total


def free_bytes(folder: Path) -> int:
    """Return how much can still be written on the disk that holds a folder."""
    return shutil.disk_usage(folder).free


def num_killed_for_memory() -> int:
    """Return how many processes the system has killed for lack of memory since it started; 0 where it does not say."""
    try:
        words = Path("/proc/vmstat").read_text(encoding="utf-8").split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError):
        return 0
