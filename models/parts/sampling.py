"""The settings and functions that all models share that can sample images."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.core.abilities import Classifies, Samples
from models.core.settings import Count, PositiveInt, Settings

SCORES = ("fid", "kid", "precision", "recall", "density", "coverage", "inception_score")  # measured with fid_every


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """The settings of all models that can sample images."""

    fid_every: Count = 0
    """Epochs from one measurement of the samples, by FID and similar metrics, to the next; 0 for none. Unless best_by
    says otherwise, a GAN keeps the weights of the epoch with the best FID."""
    fid_images: PositiveInt = 2000
    """Samples in each measurement. They are compared with as many real images, or all that there are, from the
    validation split if there is one, else from the training split; a conditional model draws the same classes."""
    extractor: str = "inception"
    """Network whose features of samples and real images are compared: inception (the standard for FID), or the name of
    any network in timm."""


def sample_metric_names(model: Any) -> list[str]:
    """Return the names of the metrics that a run logs of its model's own samples; none for a model that has none."""
    settings = model.settings
    if not isinstance(model, Samples) or not isinstance(settings, SamplingSettings):
        return []
    names = ["sample_variety"]
    if model.num_labels and isinstance(model, Classifies):
        names.append("generated_accuracy")
    if settings.fid_every:
        names += [f"{score}_{settings.extractor}_{settings.fid_images}" for score in SCORES]
    return names


def balanced_labels(num: int, num_labels: int, seed: int) -> Tensor:
    """Return labels [num] in turn, so that all classes are equally frequent; the seed chooses the first one.

    For a model without labels, all are 0.
    """
    return (torch.arange(num) + seed) % max(1, num_labels)
