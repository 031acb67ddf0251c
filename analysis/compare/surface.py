"""A smooth surface through the values of runs over their settings: Gaussian process regression.

Source: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, chapters 2 and 5,
http://gaussianprocess.org/gpml
"""

from typing import NamedTuple

import numpy as np

# Parameters are logarithms: variance of the surface, variance of the noise, and a length for each setting, over which
# the surface changes. Their priors are normal distributions with these means and deviations.
PRIOR = {"variance": (0.0, 1.5), "noise": (-3.0, 2.0), "length": (0.5, 1.5)}
BOUNDS = {"variance": (-6.0, 4.0), "noise": (-9.0, 1.0), "length": (-2.5, 5.0)}
# Of the optimizer; beyond this tolerance, shares of settings change by a hundredth of their errors.
STEPS = {"maxiter": 60, "ftol": 1e-5}


class Surface(NamedTuple):
    """A surface that has been fitted.

    Attributes:
        features: the settings of the runs that it was fitted to, [runs, columns].
        groups: which setting each column belongs to, [columns].
        parameters: variance, noise and lengths, as logarithms, [2 + settings].
        precision: inverse of the covariance of the runs' values, [runs, runs].
        weights: of the runs, in a prediction, [runs].
        mean: of the values.
        scale: standard deviation of the values.
    """

    features: np.ndarray
    groups: np.ndarray
    parameters: np.ndarray
    precision: np.ndarray
    weights: np.ndarray
    mean: float
    scale: float

    def covariance(self, features: np.ndarray) -> np.ndarray:
        """Return the covariances of the surface at some points, [points, columns], and at the runs, [points, runs]."""
        variance, lengths = np.exp(self.parameters[0]), np.exp(self.parameters[2:])[self.groups]
        return variance * np.exp(-squares(features / lengths, self.features / lengths) / 2)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the expected values at some points, [points, columns]."""
        return self.mean + self.scale * self.covariance(features) @ self.weights

    def deviations(self, features: np.ndarray) -> np.ndarray:
        """Return the standard deviations of the surface, without noise, at some points, [points, columns]."""
        covariance = self.covariance(features)
        spread = np.exp(self.parameters[0]) - np.einsum("ij,ij->i", covariance @ self.precision, covariance)
        return self.scale * np.sqrt(np.maximum(spread, 0))

    def mean_squared_rise(self, rises: np.ndarray, between: np.ndarray) -> float:
        """Return the expected square of what the surface rises by from a point to another, the mean over many pairs.

        The surface is not known but by its distribution, so that the expectation holds the variance of the rise, too:
        without it, the rise would come out too small where the surface is uncertain and thus flat.

        Args:
            rises: what the other point's covariances with the runs are above those of the point, [pairs, runs].
            between: covariance of each point with the other, [pairs].
        """
        change = np.outer(self.weights, self.weights) - self.precision  # of the mean's square, of the variance
        spread = 2 * float(np.exp(self.parameters[0]) - between.mean())
        return self.scale**2 * max(0.0, spread + float(((rises.T @ rises) * change).sum()) / len(rises))


def squares(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return the squared distances between points, [points, columns] and [others, columns], as [points, others]."""
    found = (here**2).sum(1)[:, None] + (there**2).sum(1) - 2 * here @ there.T
    return np.maximum(found, 0)


def fit(features: np.ndarray, groups: np.ndarray, values: np.ndarray, start: np.ndarray | None = None) -> Surface:
    """Fit a surface to the values of runs.

    Args:
        features: the settings of the runs as numbers of about the same range, [runs, columns].
        groups: which setting each column belongs to, [columns]: columns of one setting have one length.
        values: the values, [runs]; not all of them equal.
        start: parameters to begin with, as those of another surface; None for the means of the priors.
    """
    from scipy.optimize import minimize  # imported late: takes half a second

    num_settings = int(groups.max()) + 1
    kinds = ["variance", "noise", *["length"] * num_settings]
    means, deviations = np.array([PRIOR[kind] for kind in kinds]).T
    parts = [features[:, groups == i] for i in range(num_settings)]
    apart = np.stack([squares(part, part) for part in parts])  # [settings, runs, runs]
    mean, scale = float(values.mean()), float(values.std())
    targets = (values - mean) / scale

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative logarithm of the posterior density of parameters, and its gradient."""
        smooth, inverse, weights, half_determinant = solve(parameters, apart, targets)
        slopes = inverse - np.outer(weights, weights)  # [runs, runs]
        weighted = slopes * smooth
        lengths = np.exp(-2 * parameters[2:])
        gradient = np.array(
            [weighted.sum(), np.exp(parameters[1]) * np.trace(slopes), *lengths * np.tensordot(apart, weighted, 2)]
        )
        off = (parameters - means) / deviations
        total = targets @ weights / 2 + half_determinant + (off**2).sum() / 2
        return float(total), gradient / 2 + off / deviations

    bounds = [BOUNDS[kind] for kind in kinds]
    begin = means if start is None else start
    found = minimize(cost, begin, jac=True, method="L-BFGS-B", bounds=bounds, options=STEPS).x
    _, inverse, weights, _ = solve(found, apart, targets)
    return Surface(features, groups, found, inverse, weights, mean, scale)


def solve(
    parameters: np.ndarray, apart: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return what a fit needs to know of the covariance of the runs' values under some parameters.

    Args:
        parameters: variance, noise and lengths, as logarithms, [2 + settings].
        apart: squared distances of the runs in each setting, [settings, runs, runs].
        targets: the values, [runs].

    Returns:
        The covariance without the noise, [runs, runs], the inverse of that with the noise, [runs, runs], the inverse
        times the targets, [runs], and half the logarithm of the determinant.
    """
    from scipy.linalg.lapack import dpotri  # imported late: takes half a second

    smooth = np.exp(parameters[0] - np.tensordot(np.exp(-2 * parameters[2:]), apart, 1) / 2)
    factor = np.linalg.cholesky(smooth + np.exp(parameters[1]) * np.eye(len(targets)))
    lower, _ = dpotri(factor, lower=True)
    inverse = lower + np.tril(lower, -1).T
    return smooth, inverse, inverse @ targets, float(np.log(np.diag(factor)).sum())
