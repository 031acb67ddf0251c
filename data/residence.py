"""Where the images of a split are kept while a model is trained on them, and how much memory there is for them."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil
import torch

CGROUPS = Path("/proc/self/cgroup")  # of Linux: where containers and batch systems note their limits
ROOT = Path("/sys/fs/cgroup")
GIB = 2**30


class Residence(NamedTuple):
    """Where images are kept: on the device, or where they are stored, in main memory or in a file; and why."""

    on_device: bool
    reason: str


def choose_residence(num_bytes: int, device: torch.device, setting: str, num_processes: int = 1) -> Residence:
    """Return where images are kept.

    Args:
        num_bytes: that they take, those of all splits together.
        device: of the batches.
        setting: "device", "host" for where they are stored, or "auto" for the device if they take at most half of its
            free memory, else where they are stored.
        num_processes: that keep images; on a CPU they share the memory.
    """
    if setting != "auto":
        return Residence(setting == "device", f"by --resident={setting}")
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory() // num_processes
    taken = f"{num_bytes / GIB:.2g} of the {free / GIB:.1f} GiB that are free"
    if num_bytes <= free / 2:
        return Residence(True, f"kept in memory of the device {device.type}, where they take {taken}")
    return Residence(False, f"read batch by batch from where they are stored, as they would take {taken}")


def free_memory() -> int:
    """Return the bytes of main memory that this process may still take, within the limit of its container or job."""
    limits = [int(text) for text in limit_texts() if text.isdigit()]  # "max" where there is none
    own = psutil.Process().memory_info().rss
    return max(0, min([psutil.virtual_memory().available, *(limit - own for limit in limits)]))


def limit_texts() -> list[str]:
    """Return what the files say that hold the limits of this process's control groups, of either version.

    The limits of all groups above count as well. Of these, a container sees its own as the root, though the path may be
    that on the host.
    """
    texts = []
    for line in CGROUPS.read_text("utf-8").splitlines() if CGROUPS.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (ROOT / "memory", "memory.limit_in_bytes") if controllers else (ROOT, "memory.max")
        own = PurePosixPath(path.strip("/"))
        files = [root / group / name for group in (own, *own.parents)]
        texts += [file.read_text("utf-8").strip() for file in files if file.is_file()]
    return texts
