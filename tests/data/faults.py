"""Errors of the disk, the memory and the device, which tell nothing of the file that was being read."""

import errno

import torch

FAULTS_OF_THE_MACHINE = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    OSError(errno.ESTALE, "Stale file handle"),
    PermissionError(errno.EACCES, "Permission denied"),
]
