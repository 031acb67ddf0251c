"""Losses of generative adversarial networks, as functions of the discriminator's scores."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class AdversarialLoss(NamedTuple):
    """Losses [B] of scores [B], which are high for what looks real; smoothing is of the label."""

    real: Callable[[Tensor, float], Tensor]  # the discriminator's, on real images
    fake: Callable[[Tensor, float], Tensor]  # the discriminator's, on generated images
    generator: Callable[[Tensor], Tensor]


LOSSES: Mapping[str, AdversarialLoss] = {
    "non_saturating": AdversarialLoss(
        lambda scores, smoothing: F.softplus(-scores) + smoothing * scores,
        lambda scores, smoothing: F.softplus(scores) - smoothing * scores,
        lambda scores: F.softplus(-scores),
    ),
    "hinge": AdversarialLoss(
        lambda scores, smoothing: F.relu(1 - scores),
        lambda scores, smoothing: F.relu(1 + scores),
        lambda scores: -scores,
    ),
}


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Squared norm of each score's gradient in its image, the mean over the batch: R1 of Mescheder et al. 2018.

    Args:
        scores: [B], computed from `images`.
        images: [B, 3, H, W] that require gradients.

    Returns:
        A scalar that can itself be differentiated.
    """
    [gradient] = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean()
