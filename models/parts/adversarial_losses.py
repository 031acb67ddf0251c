"""The losses of generative adversarial networks, as functions of the discriminator's scores."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class AdversarialLoss(NamedTuple):
    """A kind of adversarial loss: three functions from scores [B] to losses [B].

    A score is what the discriminator gives to an image; the higher it is, the more real the image looks. The second
    argument of the discriminator's losses is the share of the target that label smoothing moves to the other label.
    """

    real: Callable[[Tensor, float], Tensor]  # the discriminator's loss on real images
    fake: Callable[[Tensor, float], Tensor]  # the discriminator's loss on generated images
    generator: Callable[[Tensor], Tensor]  # the generator's loss on its images


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
    """Return the mean over the batch of |gradient|^2, where the gradient is that of an image's score in its pixels.

    This is the penalty R1 of Mescheder et al. 2018, https://arxiv.org/abs/1801.04406.

    Args:
        scores: [B], computed from `images`.
        images: [B, 3, H, W] that require gradients.

    Returns:
        A scalar, through which gradients flow to the discriminator's weights.
    """
    [gradient] = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean()
