"""What the models that make images of their own share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.core.settings import Count, PositiveInt, Settings


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """What every model that makes images of its own can be told."""

    fid_every: Count = 0
    """Epochs between two measurements of the samples by FID and the like; 0 for none. A GAN keeps the weights of the
    best one."""
    fid_images: PositiveInt = 2000
    """Samples of each measurement, and real images of the validation split, or else of the training images."""
    extractor: str = "inception"
    """Network whose features are compared: the standard Inception network, or any network of timm."""


def balanced_labels(num: int, num_labels: int, seed: int) -> Tensor:
    """Return labels [num] that take turns, starting at one that the seed chooses; zeros for a model without labels."""
    return (torch.arange(num) + seed) % max(1, num_labels)
