"""How far a classifier's confidence is to be believed, and the temperature that mends it.

Guo et al. 2017, https://arxiv.org/abs/1706.04599.
"""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from analysis.look.split_predictions import Predictions
from models.parts.labelling import ONE_CLASS, Labelling

NUM_BINS = 15  # of confidence, as in Guo et al. 2017, https://arxiv.org/abs/1706.04599
UNCHANGED = 1.0  # the temperature that changes nothing
TEMPERATURES = (1e-3, 1e6)  # within which one is looked for; a CVAE's losses are large


class Calibration(NamedTuple):
    """How right a classifier is in each bin of its confidence."""

    confidence: np.ndarray  # [bins] mean confidence of each bin; NaN where it is empty
    accuracy: np.ndarray  # [bins]; NaN where it is empty
    share: np.ndarray  # [bins] share of all images

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap between confidence and accuracy, in [0, 1]."""
        return float(np.nansum(self.share * np.abs(self.confidence - self.accuracy)))


def calibrate(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS) -> Calibration:
    """Return accuracy against confidence in bins of equal width; Guo et al. 2017, https://arxiv.org/abs/1706.04599.

    Args:
        probabilities: [N, num_classes], rows sum to 1.
        labels: [N] true classes.
        num_bins: bins of (0, 1].
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        return Calibration(
            np.bincount(bins, confidence, num_bins) / count,
            np.bincount(bins, right, num_bins) / count,
            count / len(labels),
        )


def calibration_on(probabilities: Tensor, labels: Tensor, labelling: Labelling) -> Calibration:
    """Return how right probabilities [N, C] of labels are, by the confidence of each choice."""
    chances, chosen = labelling.choices(probabilities, labels)
    return calibrate(chances.numpy(), chosen.numpy())


def fit_temperature(logits: Tensor, labels: Tensor, labelling: Labelling = ONE_CLASS) -> float:
    """Return the number that logits [N, C] have to be divided by for the least cross-entropy with labels.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599. Without a mistake there is none, and `UNCHANGED` is returned: the
    surer all is said, the less the cross-entropy.
    """
    from scipy.optimize import minimize_scalar

    exact_logits = logits.double()
    if (labelling.right(exact_logits, labels) == 1).all():
        return UNCHANGED

    def loss(log_temperature: float) -> float:
        return labelling.losses(exact_logits / math.exp(log_temperature), labels).mean().item()

    return math.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x)


def calibration_of(predictions: Predictions) -> dict[str, float]:
    """Return the temperature fitted on a split, and the calibration error in [0, 1] on it before and after."""
    labels, labelling = predictions.labels, predictions.labelling
    temperature = fit_temperature(predictions.logits, labels, labelling)
    calibrated = labelling.probabilities(predictions.logits / temperature)
    return {
        "temperature": temperature,
        "ece": calibration_on(predictions.probabilities, labels, labelling).error,
        "ece_calibrated": calibration_on(calibrated, labels, labelling).error,
        "num_images": len(labels),
    }
