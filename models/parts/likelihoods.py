"""The reconstruction terms and the KL of models with latent variables, computed for each image.

They are in nats, but for the squared error, which has a scale of its own, see `SquaredError`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import UserError
from models.core.settings import PositiveFloat, PositiveInt
from models.parts.sampling import SamplingSettings

NUM_LEVELS = 256  # values of an 8-bit pixel
BLACK = {"unit": 0.0, "symmetric": -1.0}  # normalisation -> value of black; white is 1 in both


@dataclass(frozen=True, kw_only=True)
class PixelSettings(SamplingSettings):
    """The settings of all models that reconstruct pixels."""

    epochs: PositiveInt = 30
    lr: PositiveFloat = 1e-3
    normalisation: Literal["unit", "symmetric"] = "unit"
    """Scale of the pixel values. unit: from 0 to 1, and the decoder ends in a sigmoid; symmetric: from -1 to 1, and it
    ends in a tanh."""
    likelihood: Literal["squared_error", "gaussian", "gaussian_learned", "bernoulli", "discretised_logistic"] = (
        "squared_error"
    )
    """Distribution of a pixel around the decoder's output. squared_error: the plain sum, as for a Gaussian of variance
    1/2 without its constant; gaussian: the fixed noise_deviation; gaussian_learned: one learned deviation,
    https://arxiv.org/abs/2006.13202; bernoulli: pixels in [0, 1] are probabilities; discretised_logistic: a probability
    for each of the 256 levels, with one learned scale, https://arxiv.org/abs/1606.04934."""
    noise_deviation: PositiveFloat = 0.1
    """Standard deviation of a pixel, as a share of the difference between black and white: fixed for gaussian, the
    initial value for gaussian_learned and discretised_logistic."""
    beta = 0.0  # weight of the KL; a setting of the models that have one


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the KL divergence of N(mean, exp(log_variance)) from N(0, 1) for each latent unit.

    Args:
        mean: [..., Z], the posterior mean.
        log_variance: [..., Z], the logarithm of the posterior variance (not of the standard deviation).

    Returns:
        [..., Z] nats; the sum over Z is an image's KL.

    Source: Kingma & Welling 2014, appendix B, https://arxiv.org/abs/1312.6114
    """
    assert mean.shape == log_variance.shape
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


def squared_error(mean: Tensor, images: Tensor) -> Tensor:
    """Return the squared error, summed over each image: [..., 3, H, W] -> [...].

    Here and in the functions below, the leading dimensions of the arguments may differ: they are broadcast.
    """
    return sum_pixels((mean - images).square())


def gaussian_nll(mean: Tensor, log_variance: Tensor, images: Tensor) -> Tensor:
    """Return -log of the density N(images; mean, exp(log_variance)): [..., 3, H, W] -> [...] nats."""
    return sum_pixels(((mean - images).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)) / 2)


def bernoulli_nll(logits: Tensor, images: Tensor) -> Tensor:
    """Return the cross-entropy of images whose pixels, in [0, 1], are probabilities: [..., 3, H, W] -> [...] nats."""
    return sum_pixels(F.softplus(logits) - images * logits)


def discretised_logistic_nll(mean: Tensor, log_scale: Tensor, images: Tensor, black: float) -> Tensor:
    """Return -log of the probability of each image under a logistic distribution cut into 256 levels.

    The probability of a level is the logistic's mass from half a level below it to half a level above it. Black also
    gets all the mass below it, and white all the mass above it, so that the 256 probabilities sum to 1.

    Args:
        mean: [..., 3, H, W], the mean of the logistic.
        log_scale: the logarithm of its scale.
        images: [..., 3, H, W] in [black, 1]; each value is one of the 256 levels.
        black: the lowest level; the highest is 1.

    Returns:
        [...] nats.

    Source: Kingma et al. 2016, https://arxiv.org/abs/1606.04934; Salimans et al. 2017, https://arxiv.org/abs/1701.05517
    """
    level = (1 - black) / (NUM_LEVELS - 1)
    inverse_scale = (-log_scale).exp()
    centred = images - mean
    below = F.logsigmoid((centred + level / 2) * inverse_scale)  # log of the mass below the level's upper end
    above = F.logsigmoid((level / 2 - centred) * inverse_scale)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which loses no digits by cancellation.
    between = below + above + torch.log(-torch.expm1(-level * inverse_scale))
    is_black, is_white = images < black + level / 2, images > 1 - level / 2
    return -sum_pixels(torch.where(is_black, below, torch.where(is_white, above, between)))


def sum_pixels(values: Tensor) -> Tensor:
    """Sum the values of each image: [..., 3, H, W] -> [...]."""
    return values.flatten(-3).sum(-1)


class Likelihood(nn.Module, ABC):
    """A distribution of images given the decoder's output, which is [..., 3, H, W] before a sigmoid or tanh."""

    def __init__(self, settings: PixelSettings) -> None:
        super().__init__()
        self.squash = {"unit": torch.sigmoid, "symmetric": torch.tanh}[settings.normalisation]
        self.black = BLACK[settings.normalisation]
        self.deviation = settings.noise_deviation * (1 - self.black)
        self.beta = settings.beta

    @abstractmethod
    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        """Return -log p(image | output) of each image, [...] nats; of `SquaredError` on a scale of its own.

        It is computed in float32 even in mixed precision, because it sums many values.
        """

    def mean(self, output: Tensor) -> Tensor:  # [..., 3, H, W] -> [..., 3, H, W], normalised as the images
        return self.squash(output.float())

    def level_nll(self, reconstruction: Tensor, num_pixels: int) -> Tensor | None:
        """Return -log of the probability of each 8-bit image, or an upper bound on it.

        Args:
            reconstruction: [B], as `forward` returns it.
            num_pixels: numbers in an image, 3 H W.

        Returns:
            [B] nats; None if the likelihood gives no probability to the 256 levels of a pixel.
        """
        return None

    def bits_per_dimension(self, reconstruction: Tensor, latent_nats: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the metric bits_per_dimension [B]; none if the likelihood gives no probability to 8-bit images.

        Args:
            reconstruction: [B], as `forward` returns it.
            latent_nats: [B], what it takes to tell the latents or codes of each image.
            images: [B, 3, H, W], for their size.
        """
        num_pixels = math.prod(images.shape[1:])
        level_nll = self.level_nll(reconstruction, num_pixels)
        if level_nll is None:
            return {}
        return {"bits_per_dimension": (level_nll + latent_nats) / (num_pixels * math.log(2))}

    def dequantised(self, density_nll: Tensor, log_variance: Tensor, num_pixels: int) -> Tensor:
        """Return an upper bound on -log of the probability of 8-bit images, from their Gaussian density.

        The bound is the mean of -log density over uniform noise as wide as the gap between two levels, minus the log of
        that width for each pixel. Such noise adds width^2 / 12 to the mean of every squared error.

        Source: Theis et al. 2016, section 3.1, https://arxiv.org/abs/1511.01844

        Args:
            density_nll: [B] nats, -log of the density.
            log_variance: scalar, the logarithm of the Gaussian's variance.
            num_pixels: numbers in an image, 3 H W.

        Returns:
            [B] nats.
        """
        width = (1 - self.black) / (NUM_LEVELS - 1)
        return density_nll + num_pixels * (width**2 / 24 * (-log_variance).exp() - math.log(width))


class SquaredError(Likelihood):
    """The squared error.

    In a loss of squared error + beta * KL, it is beta times the nats of a Gaussian of variance beta / 2, up to a
    constant.
    """

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        return squared_error(self.mean(output), images)

    def level_nll(self, reconstruction: Tensor, num_pixels: int) -> Tensor | None:
        if not self.beta:
            return None
        log_variance = torch.tensor(math.log(self.beta / 2))
        density = reconstruction / self.beta + num_pixels * math.log(math.pi * self.beta) / 2
        return self.dequantised(density, log_variance, num_pixels)


class Gaussian(Likelihood):
    """A Gaussian with the same variance for all pixels, fixed or learned."""

    def __init__(self, settings: PixelSettings) -> None:
        super().__init__(settings)
        self.log_variance = nn.Parameter(
            torch.tensor(2 * math.log(self.deviation)), requires_grad=settings.likelihood == "gaussian_learned"
        )

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        return gaussian_nll(self.mean(output), self.log_variance, images)

    def level_nll(self, reconstruction: Tensor, num_pixels: int) -> Tensor | None:
        return self.dequantised(reconstruction, self.log_variance, num_pixels)


class Bernoulli(Likelihood):
    """A Bernoulli distribution: each pixel counts as the probability of white, so grey levels have no probability.

    Raises:
        UserError: the normalisation does not keep pixels in [0, 1].
    """

    def __init__(self, settings: PixelSettings) -> None:
        super().__init__(settings)
        if self.black:
            raise UserError(
                f"--likelihood=bernoulli takes pixels for probabilities, and "
                f"--normalisation={settings.normalisation} makes them negative: give unit"
            )

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        return bernoulli_nll(output.float(), images)


class DiscretisedLogistic(Likelihood):
    """A logistic distribution cut into the 256 levels of a pixel, with one learned scale for all pixels."""

    def __init__(self, settings: PixelSettings) -> None:
        super().__init__(settings)
        scale = self.deviation * math.sqrt(3) / math.pi
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        return discretised_logistic_nll(self.mean(output), self.log_scale, images, self.black)

    def level_nll(self, reconstruction: Tensor, num_pixels: int) -> Tensor | None:
        return reconstruction


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "squared_error": SquaredError,
    "gaussian": Gaussian,
    "gaussian_learned": Gaussian,
    "bernoulli": Bernoulli,
    "discretised_logistic": DiscretisedLogistic,
}
