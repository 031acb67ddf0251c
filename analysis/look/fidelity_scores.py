"""How near samples come to real images, from the features of both: functions of [N, D] arrays, computed in float64.

The Frechet distance compares two Gaussians, kernel MMD the features themselves. Precision and density say whether
samples look real, recall and coverage whether they vary as much as real images. The Inception Score depends on what a
classifier makes of the samples, not on real images.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEIGHBOURS = 5  # the fifth nearest is on the ball round an image; Naeem et al. 2020, section 5
NUM_PARTS = 10  # parts of the images over which the Inception Score is averaged; Salimans et al. 2016
ROWS_AT_ONCE = 1024  # of a table of distances, which has a column for each image of the other set


class Gaussian(NamedTuple):
    """Mean and covariance of the features of some images, in float64: all that the Frechet distance depends on."""

    mean: Tensor  # [D]
    covariance: Tensor  # [D, D]


def fit_gaussian(features: Tensor) -> Gaussian:
    """Return the mean and the unbiased covariance of features [N, D]."""
    rows = features.double()
    return Gaussian(rows.mean(dim=0), rows.T.cov().view(rows.shape[1], -1))


def square_root(covariance: Tensor) -> Tensor:
    """Return the symmetric root of a covariance [D, D]; 2,048 features take a CPU core 4 s."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def frechet_distance(real: Gaussian, fake: Gaussian, real_root: Tensor) -> float:
    """Return the squared Frechet distance of two Gaussians: FID, Heusel et al. 2017, https://arxiv.org/abs/1706.08500.

    The product of the two covariances has the same eigenvalues as root(real) fake root(real), which is symmetric: so no
    root of an unsymmetric matrix is needed, and singular covariances are no special case.

    Args:
        real: of the features of real images.
        fake: of the features of samples.
        real_root: `square_root(real.covariance)`, which is worth keeping.
    """
    shift = (real.mean - fake.mean).square().sum()
    spread = real.covariance.trace() + fake.covariance.trace()
    common = torch.linalg.eigvalsh(real_root @ fake.covariance @ real_root).clamp(min=0).sqrt().sum()
    return (shift + spread - 2 * common).item()


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the unbiased squared MMD with the kernel (x.y / D + 1)^3: KID, Binkowski et al. 2018, arXiv 1801.01401.

    It is over all pairs, where the paper averages over random subsets of a thousand: the same expectation, less noise.
    An unbiased estimate of 0 may be below 0.

    Args:
        real: features [N, D] of at least two images.
        fake: features [M, D] of at least two samples.
    """

    def mean_kernel(rows: Tensor, columns: Tensor) -> float:
        kernels = ((part @ columns.T / columns.shape[1] + 1) ** 3 for part in rows.split(ROWS_AT_ONCE))
        total = sum(kernel.sum().item() for kernel in kernels)
        if rows is not columns:
            return total / (len(rows) * len(columns))
        own = ((rows.square().sum(dim=1) / rows.shape[1] + 1) ** 3).sum().item()  # of an image with itself
        return (total - own) / (len(rows) * (len(rows) - 1))

    real, fake = real.double(), fake.double()
    return mean_kernel(real, real) + mean_kernel(fake, fake) - 2 * mean_kernel(real, fake)


def manifold_scores(real: Tensor, fake: Tensor, num_neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """Return precision, recall, density and coverage, by balls round images.

    The ball round an image reaches to its kth nearest neighbour in its own set.

    Sources: Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991, for the first two; Naeem et al. 2020,
    https://arxiv.org/abs/2002.09797, for the others.

    Args:
        real: features [N, D] of N > k images.
        fake: features [M, D] of M > k samples.
        num_neighbours: k.

    Returns:
        precision: share of the samples that lie in a ball of any real image.
        recall: share of the real images that lie in a ball of any sample.
        density: balls of real images that a sample lies in, on average, over k; above 1 where samples crowd.
        coverage: share of the balls of real images that hold any sample.
    """
    real, fake = real.double(), fake.double()
    real_radii, fake_radii = (radii(rows, num_neighbours) for rows in (real, fake))
    num_balls = torch.zeros(len(fake), dtype=torch.long, device=fake.device)  # of real images, that each sample is in
    num_recalled = num_covered = 0
    for rows, radius in zip(real.split(ROWS_AT_ONCE), real_radii.split(ROWS_AT_ONCE), strict=True):
        distances = torch.cdist(rows, fake)
        is_inside = distances < radius.unsqueeze(1)
        num_balls += is_inside.sum(dim=0)
        num_covered += int(is_inside.any(dim=1).sum())
        num_recalled += int((distances < fake_radii).any(dim=1).sum())
    return {
        "precision": (num_balls > 0).double().mean().item(),
        "recall": num_recalled / len(real),
        "density": num_balls.double().mean().item() / num_neighbours,
        "coverage": num_covered / len(real),
    }


def radii(features: Tensor, num_neighbours: int) -> Tensor:
    """Return the distance of each row of features [N, D] to its `num_neighbours`th nearest other row: [N]."""
    parts = (torch.cdist(rows, features) for rows in features.split(ROWS_AT_ONCE))
    return torch.cat([part.kthvalue(num_neighbours + 1, dim=1).values for part in parts])


def inception_score(probabilities: Tensor) -> float:
    """Return the exponential of the mean KL of class probabilities [N, K] from their mean, averaged over ten parts.

    The parts are even: their sizes differ by one image at most. Fewer than ten images are a part each.

    Source: Salimans et al. 2016, https://arxiv.org/abs/1606.03498, with the bounds of the authors' code
    """
    num, scores = len(probabilities), []
    num_parts = min(NUM_PARTS, num)
    for k in range(num_parts):
        part = probabilities[k * num // num_parts : (k + 1) * num // num_parts].double()
        log_ratio = (part.clamp(min=1e-300).log() - part.mean(dim=0).clamp(min=1e-300).log()) * part
        scores.append(log_ratio.sum(dim=1).mean().exp())
    return torch.stack(scores).mean().item()
