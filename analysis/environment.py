"""Where and with what a run is carried out, so that it can be repeated."""

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

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "wandb", "numpy")


def describe_environment(arguments: Sequence[str], device: torch.device, num_processes: int) -> dict[str, Any]:
    """Command, commit, package versions and hardware."""
    return {
        "command": shlex.join(["python", "train.py", *arguments]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": device_name(device),
        "num_processes": num_processes,
        "cpu_count": os.cpu_count(),
        "host": platform.node(),
        "pid": os.getpid(),
    }


def commit() -> str:
    """The source's commit, with "-dirty" where it has been changed since; empty outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        root = Path(__file__).parents[1]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with the number of threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory used so far: the GPU's, or this process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
