"""Where and with what a run is carried out, so that it can be repeated."""

import hashlib
import os
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from data.paths import CHECKOUT
from data.visible import counted

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "wandb", "numpy", "scikit-learn", "pillow")
SOURCE = ("analysis", "data", "models")  # folders of the checkout that train.py imports


def describe_environment(arguments: Sequence[str], device: torch.device, num_processes: int) -> dict[str, Any]:
    """Return command, commit, package versions and hardware.

    The commit ends in "-dirty" where the source has been changed since.
    """
    commit, changes = git("describe", "--always", "--abbrev=40", "--exclude=*"), uncommitted_changes()
    return {
        "command": shlex.join(["python", "train.py", *arguments]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": f"{commit}-dirty" if changes else commit,
        "changes": changes,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed_version(name))},
        "device": device_name(device),
        "num_processes": num_processes,
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "host": platform.node(),
        "pid": os.getpid(),
    }


def installed_version(package: str) -> str:
    """Return the version of a package; nothing if it is not installed, as W&B's client where runs are not tracked."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def git(*arguments: str) -> str:
    """Return what git prints about the source; nothing outside a checkout."""
    try:
        found = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, timeout=10)
        return found.stdout.decode(errors="replace").strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def uncommitted_changes() -> str:
    """Return a hash of the changes to the source that are in no commit, new files among them; nothing without any."""
    changes = git("diff", "HEAD")
    listed = git("ls-files", "--others", "--exclude-standard", "-z", "--", *(f"{name}/*.py" for name in SOURCE))
    if new := listed.strip("\0"):
        changes += new + git("hash-object", "--", *new.split("\0"))
    return hashlib.sha256(changes.encode()).hexdigest()[:12] if changes else ""


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {counted(torch.get_num_threads(), 'thread')}"


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: the GPU's, or on a CPU this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
