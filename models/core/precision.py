"""Which precisions a device computes in."""

from collections.abc import Callable

import torch

from data.internals import cpu_has_bf16
from models.core.settings import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether a device has hardware for bf16, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bf16()


IS_FAST: dict[str, Callable[[torch.device], bool]] = {
    "no": lambda device: True,
    "bf16": has_fast_bf16,
    "fp16": lambda device: device.type != "cpu",
}


def precision_on(device: torch.device, trained_in: Precision) -> Precision:
    """Return the precision to evaluate a network in: that of its training, or fp32 where a device would emulate it.

    Args:
        device: that it is evaluated on.
        trained_in: the setting `mixed_precision`.
    """
    return trained_in if IS_FAST[trained_in](device) else "no"


def autocast_on(device: torch.device, trained_in: Precision) -> torch.autocast:
    """Return the context in which a network that was trained in a precision is evaluated on a device."""
    dtype = DTYPES.get(precision_on(device, trained_in))
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
