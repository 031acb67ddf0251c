"""How many runs there are at a time, and which GPUs or how many cores each has."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import torch

from data.cores import num_cores
from data.errors import UserError
from data.visible import counted

MOST_WORKERS = 1000
GPU = "CUDA_VISIBLE_DEVICES"
ASK_COUNT = (sys.executable, "-c", "import torch; print(torch.cuda.device_count())")
SECONDS_TO_ASK = 60.0
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
        groups = [str(i) for i in range(num_gpus())] if num_workers > 1 else []
    else:
        groups = devices.split(",")
        num_workers = num_workers or len(groups)
    if num_workers > MOST_WORKERS:
        raise UserError(f"--workers={num_workers} are too many for one machine: give at most {MOST_WORKERS}")
    if not groups:  # a single run may be several processes, which are told their threads by what launches them
        return [{} if num_gpus() else threads(num_workers)] * num_workers
    own = [groups[i % len(groups)] for i in range(num_workers)]
    return [{GPU: visible_devices(group), **threads(num_workers * len(group.split("+")))} for group in own]


def has_gpu(device: Mapping[str, str]) -> bool:
    """Return whether runs with these environment variables have a GPU, whether or not they name it."""
    return GPU in device or num_gpus() > 0


def num_gpus() -> int:
    """Return how many GPUs runs may use: none where the environment has accelerate leave them alone."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
    return 0 if on_cpu else torch.cuda.device_count()


def visible_devices(group: str) -> str:
    """Return CUDA_VISIBLE_DEVICES for some of the GPUs that this process sees, by index or UUID, such as `0+1`."""
    own = os.environ.get(GPU, "")
    num_visible = num_gpus()
    names = own.split(",")[:num_visible] if own else [str(i) for i in range(num_visible)]
    chosen = []
    for device in group.split("+"):
        if device.isdecimal() and int(device) < len(names):
            chosen.append(names[int(device)])
        elif num_visible and device.startswith(("GPU-", "MIG-")) and (device in names or is_seen(device)):
            chosen.append(device)
        else:  # CUDA would not complain, and the run would use the CPU
            remedy = f"give numbers from 0 to {len(names) - 1}" if names else "leave --devices out to use the CPU"
            raise UserError(f"--devices={device}: runs have {counted(len(names), 'GPU')} here: {remedy}")
    return ",".join(chosen)


def is_seen(uuid: str) -> bool:
    """Return whether CUDA sees a GPU of a UUID or its beginning, or cannot be asked."""
    return asked(ASK_COUNT, {GPU: uuid}) != 0


def asked(question: Sequence[str], device: Mapping[str, str]) -> int | None:
    """Return the number that a program prints on a device, by its environment variables; None where it prints none.

    What is asked of CUDA is asked in a process of its own, as the one that asks goes on to hold memory of the GPU.
    """
    environment = {**os.environ, **device}
    try:
        done = subprocess.run(question, env=environment, capture_output=True, text=True, timeout=SECONDS_TO_ASK)
        return int(done.stdout)
    except (ValueError, OSError, subprocess.TimeoutExpired):
        return None


def threads(num_processes: int) -> Mapping[str, str]:
    """Return the environment variable that gives each process its share of the cores, unless the user has set it."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, num_cores() // num_processes))}
