"""How many runs there are at a time, and which GPUs or how many cores each has."""

import os
from collections.abc import Mapping

import torch

from data.errors import UserError
from models.core.processes import num_cores

MOST_WORKERS = 1000
GPU = "CUDA_VISIBLE_DEVICES"
TRUE = ("1", "true", "t", "yes", "y", "on")  # as accelerate reads it


def assign_devices(num_workers: int | None, devices: str | None) -> list[Mapping[str, str]]:
    """Return the environment variables of each worker's runs, which name its GPUs or its share of the cores.

    Args:
        num_workers: runs at a time; None for one for each device.
        devices: GPUs by index or UUID, dealt out in turn; `0+1,2+3` gives each run two. None for all there are.

    Raises:
        UserError: there is no such GPU.
    """
    if devices is None:
        num_workers = num_workers or 1
        # A single run may use every GPU; several runs share them out.
        groups = [str(i) for i in range(torch.cuda.device_count())] if num_workers > 1 else []
    else:
        groups = devices.split(",")
        num_workers = num_workers or len(groups)
    if num_workers > MOST_WORKERS:
        raise UserError(f"--workers={num_workers} are too many for one machine: give at most {MOST_WORKERS}")
    if not groups:  # a single run may be several processes, which are told their threads by what launches them
        return [{} if torch.cuda.device_count() else threads(num_workers)] * num_workers
    own = [groups[i % len(groups)] for i in range(num_workers)]
    return [{GPU: visible(group), **threads(num_workers * len(group.split("+")))} for group in own]


def has_gpu(device: Mapping[str, str]) -> bool:
    """Return whether runs with these environment variables have a GPU, whether or not they name it."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
    return GPU in device or (torch.cuda.device_count() > 0 and not on_cpu)


def visible(group: str) -> str:
    """Return CUDA_VISIBLE_DEVICES for some of the GPUs that this process sees, by index or UUID, such as `0+1`."""
    own = os.environ.get(GPU, "")
    num_visible = torch.cuda.device_count()
    names = own.split(",")[:num_visible] if own else [str(i) for i in range(num_visible)]
    chosen = []
    for device in group.split("+"):
        if device.isdecimal() and int(device) < len(names):
            chosen.append(names[int(device)])
        elif device.startswith(("GPU-", "MIG-")):
            chosen.append(device)
        else:  # CUDA would not complain, and the run would use the CPU
            raise UserError(f"--devices={device}: there are {len(names)} GPUs, counted from 0")
    return ",".join(chosen)


def threads(num_processes: int) -> Mapping[str, str]:
    """Return the environment variable that gives each process its share of the cores, unless the user has set it."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, num_cores() // num_processes))}
