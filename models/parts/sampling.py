"""The settings and functions that all models share that can sample images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.core.settings import Count, PositiveInt, Settings

SCORES = ("fid", "kid", "precision", "recall", "density", "coverage", "inception_score")  # measured with fid_every


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """The settings of all models that can sample images."""

    fid_every: Count = 0
    """Epochs from one measurement of the samples, by FID and similar metrics, to the next; 0 for none. Unless best_by
    says otherwise, a GAN keeps the weights of the epoch with the best FID."""
    fid_images: PositiveInt = 2000
    """Samples in each measurement. They are compared with as many real images, from the validation split if there is
    one, else from the training split."""
    extractor: str = "inception"
    """Network whose features of samples and real images are compared: inception (the standard for FID), or the name of
    any network in timm."""


def balanced_labels(num: int, num_labels: int, seed: int) -> Tensor:
    """Return labels [num] in turn, so that all classes are equally frequent; the seed chooses the first one.

    For a model without labels, all are 0.
    """
    return (torch.arange(num) + seed) % max(1, num_labels)
