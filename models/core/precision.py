"""Which precisions a device computes in."""

import torch

from data.internals import cpu_has_bf16
from models.core.settings import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether a device has hardware for bf16, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bf16()


def precision_on(device: torch.device, trained_in: Precision) -> Precision:
    """Return the precision to evaluate a network in: that of its training, or fp32 where a device would emulate it.

    Args:
        device: that it is evaluated on.
        trained_in: the setting `mixed_precision`.
    """
    is_fast = has_fast_bf16(device) if trained_in == "bf16" else device.type != "cpu"
    return trained_in if is_fast else "no"


def autocast_on(device: torch.device, trained_in: Precision) -> torch.autocast:
    """Return the context in which a network that was trained in a precision is evaluated on a device."""
    dtype = DTYPES.get(precision_on(device, trained_in))
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
