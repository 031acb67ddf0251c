"""Which precisions a device computes in."""

import torch

from data.internals import cpu_has_bf16


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether a device has hardware for bf16, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bf16()
