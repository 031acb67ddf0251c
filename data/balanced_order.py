"""The order of training images with --sampling=balanced: all classes equally often."""

from collections.abc import Sequence

import torch
from torch import Tensor


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return random images, as many as there are, among which all classes are equally frequent, also in every stretch.

    The images of a class are repeated only after all of them, and so in an order of their own each time.

    Args:
        labels: [N] int64.
        generator: of the random numbers.

    Returns:
        [N] int64 indices.
    """
    members = places_by_class(labels.unique(return_inverse=True)[1])
    rounds = -(-len(labels) // len(members))
    classes = torch.rand(rounds, len(members), generator=generator).argsort(1).flatten()[: len(labels)]
    order = torch.empty_like(labels)
    for own, places in zip(members, places_by_class(classes, len(members)), strict=True):
        times = -(-len(places) // len(own))
        drawn = [own[torch.randperm(len(own), generator=generator)] for _ in range(times)]
        order[places] = torch.cat(drawn)[: len(places)] if drawn else own[:0]
    return order


def places_by_class(numbers: Tensor, num_classes: int = 0) -> Sequence[Tensor]:
    """Return where each class stands among numbers of classes [N], in order: one pass, however many classes."""
    return numbers.argsort(stable=True).split(numbers.bincount(minlength=num_classes).tolist())
