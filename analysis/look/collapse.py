"""Whether a GAN still learns: how much its samples vary, and whether its discriminator leaves it anything to learn."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_WATCHED = 256  # images whose variety is measured
SIDE = 16  # pixels that they are reduced to, so that noise passes for no variety
LEAST_VARIETY = 0.5  # of samples, as a share of that of real images
MOST_TOLD_APART = 0.99  # share of the images of an epoch


def variety(samples: Tensor, real: Tensor) -> float:
    """How far samples are from their nearest neighbours among them, as a share of the same of real images.

    It is 1 where samples differ as real images do, and 0 where each has a double: a few modes are as much of a
    collapse as one. At 16x16 pixels, as a person squints.

    Args:
        samples: [N, 3, H, W] in [0, 1].
        real: as many real images.
    """
    return (nearest_distance(samples) / nearest_distance(real).clamp(min=1e-6)).item()


def nearest_distance(images: Tensor) -> Tensor:
    """Distance of each image [N, 3, H, W] to the one most like it, the mean over them: a scalar."""
    pixels = F.adaptive_avg_pool2d(images.float(), SIDE).flatten(1)
    exact = "donot_use_mm_for_euclid_dist"  # else doubles are not at a distance of 0
    distances = torch.cdist(pixels, pixels, compute_mode=exact).fill_diagonal_(torch.inf)
    return distances.min(dim=1).values.mean()


def signs_of_collapse(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a summary says of a GAN's training; empty for other models.

    Args:
        rows: logged metrics of the run.

    Returns:
        discriminator_saturated: whether in the last epoch it told real from generated images nearly always.
        sample_variety: of the last epoch, see `variety`.
        mode_collapse: whether that is too little.
        warning: both in words, with the epoch since when they hold; none where all is well.
    """
    epochs = [row for row in rows if "train/discriminate/told_apart" in row]
    if not epochs:
        return {}
    varieties = [next(value for key, value in row.items() if key.endswith("/sample_variety")) for row in epochs]
    told_apart = [row["train/discriminate/told_apart"] for row in epochs]
    saturated = lasting([share > MOST_TOLD_APART for share in told_apart])
    collapsed = lasting([value < LEAST_VARIETY for value in varieties])
    warnings = []
    if saturated:
        warnings.append(
            f"discriminator saturated since epoch {epochs[-saturated]['epoch']}: "
            f"it tells {told_apart[-1]:.1%} of real and generated images apart"
        )
    if collapsed:
        since = f"since epoch {epochs[-collapsed]['epoch']}"
        from_the_start = collapsed == len(epochs)  # then it may have learnt too little yet
        warnings.append(
            f"{'mode collapse, or an untrained generator' if from_the_start else 'mode collapse'} {since}: "
            f"samples vary {varieties[-1]:.2f} times as much as real images"
        )
    signs = {
        "discriminator_saturated": bool(saturated),
        "sample_variety": varieties[-1],
        "mode_collapse": bool(collapsed),
    }
    return {**signs, "warning": "; ".join(warnings)} if warnings else signs


def lasting(flags: Sequence[bool]) -> int:
    """How many flags at the end are all true."""
    return next((i for i, flag in enumerate(reversed(flags)) if not flag), len(flags))
