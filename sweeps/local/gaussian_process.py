"""The Gaussian process that `bayes` searches with: Optuna's, with a prior of its own, told of squashed costs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.samplers import GPSampler

from data.internals import set_prior_of_numbers


def gaussian_process(seed: int) -> GPSampler:
    """Return Optuna's sampler by a Gaussian process, which takes lengthscales of half a range for likely.

    By Optuna's own prior a loss may well be linear over the whole range of a number, so that the first models expect
    the most at its ends. For lists of values, which are all as far apart, it stands as it is: by a short lengthscale,
    nothing would be learnt of a value from the trials of the others.
    """
    sampler = GPSampler(seed=seed, n_startup_trials=0)
    set_prior_of_numbers(sampler, gamma_log_density)
    return sampler


def gamma_log_density(lengthscales: Any) -> Any:
    """Return the logarithm of BoTorch's prior, but for a constant: a gamma distribution of shape 3 and rate 6.

    Balandat et al. 2020, https://arxiv.org/abs/1910.06403.

    Args:
        lengthscales: [P], in ranges; a tensor, as is the result.
    """
    return 2 * lengthscales.log() - 6 * lengthscales


def squashed(costs: Sequence[float]) -> list[float]:
    """Return costs on a scale that is linear near their median, and logarithmic far from it.

    A Gaussian process sees costs by their deviation: beside one that has exploded, the others would be all the same.
    The scale is the inverse hyperbolic sine, its unit the median distance from the median. Output warping, by another
    function: Cowen-Rivers et al. 2022, https://arxiv.org/abs/2012.03826.
    """
    distances = np.array(costs) - np.median(costs)
    sizes = np.abs(distances)
    unit = float(np.median(sizes)) or float((sizes / len(sizes)).sum()) or 1.0  # of half or more that are the same
    return [float(value) for value in np.arcsinh(distances / unit)]
