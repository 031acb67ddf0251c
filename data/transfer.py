"""Small tensors on their way from main memory to the device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of main memory on the device, for whose coming a GPU's program does not wait.

    From memory that is not page-locked, every copy would wait for all that the GPU has been told to do before.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
