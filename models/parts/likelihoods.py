"""Per-image reconstruction and KL terms of models with latent variables, in nats."""

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

NUM_LEVELS = 256  # of an 8-bit pixel
BLACK = {"unit": 0.0, "symmetric": -1.0}  # by normalisation; white is 1 in both


@dataclass(frozen=True, kw_only=True)
class PixelSettings(SamplingSettings):
    """What every model that reconstructs pixels can be told."""

    epochs: PositiveInt = 30
    lr: PositiveFloat = 1e-3
    normalisation: Literal["unit", "symmetric"] = "unit"
    """Pixel values and the decoder's output: [0, 1] out of a sigmoid, or [-1, 1] out of a tanh."""
    likelihood: Literal["squared_error", "gaussian", "gaussian_learned", "bernoulli", "discretised_logistic"] = (
        "squared_error"
    )
    """Distribution of a pixel round the decoder's output. squared_error is a plain sum, that of a Gaussian
    of variance 1/2 without its constant; gaussian_learned learns one variance, https://arxiv.org/abs/2006.13202;
    bernoulli takes [0, 1] for probabilities; discretised_logistic gives each of the 256 levels its probability, by
    one learned scale, https://arxiv.org/abs/1606.04934."""
    noise_deviation: PositiveFloat = 0.1
    """Standard deviation of a pixel where white is 1 above black: of gaussian for good, of others' at first."""


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each latent unit.

    Args:
        mean: [..., Z] posterior mean.
        log_variance: [..., Z] log of the posterior variance, not of its root.

    Returns:
        [..., Z] nats; their sum is an image's.

    Source: Kingma & Welling 2014, appendix B, https://arxiv.org/abs/1312.6114
    """
    assert mean.shape == log_variance.shape
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


def squared_error(mean: Tensor, images: Tensor) -> Tensor:
    """Squared error summed over an image: [..., 3, H, W] -> [...]; leading dimensions broadcast, here and below."""
    return sum_pixels((mean - images).square())


def gaussian_nll(mean: Tensor, log_variance: Tensor, images: Tensor) -> Tensor:
    """-log N(images; mean, exp(log_variance)), a density: [..., 3, H, W] -> [...] nats."""
    return sum_pixels(((mean - images).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)) / 2)


def bernoulli_nll(logits: Tensor, images: Tensor) -> Tensor:
    """Cross-entropy of pixels in [0, 1], taken for probabilities: [..., 3, H, W] -> [...] nats."""
    return sum_pixels(F.softplus(logits) - images * logits)


def discretised_logistic_nll(mean: Tensor, log_scale: Tensor, images: Tensor, black: float) -> Tensor:
    """-log of the probability of each pixel's level: a logistic's mass between half a level below and above it.

    Black has all the mass below it too and white all above, so that the 256 probabilities sum to 1.

    Args:
        mean: [..., 3, H, W] of the logistic.
        log_scale: log of its scale.
        images: [..., 3, H, W] in [black, 1], at one of 256 levels.
        black: lowest level; the highest is 1.

    Returns:
        [...] nats.

    Source: Kingma et al. 2016, https://arxiv.org/abs/1606.04934; Salimans et al. 2017, https://arxiv.org/abs/1701.05517
    """
    level = (1 - black) / (NUM_LEVELS - 1)
    inverse_scale = (-log_scale).exp()
    centred = images - mean
    below = F.logsigmoid((centred + level / 2) * inverse_scale)  # log of the mass below the level's upper end
    above = F.logsigmoid((level / 2 - centred) * inverse_scale)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which never cancels.
    between = below + above + torch.log(-torch.expm1(-level * inverse_scale))
    is_black, is_white = images < black + level / 2, images > 1 - level / 2
    return -sum_pixels(torch.where(is_black, below, torch.where(is_white, above, between)))


def sum_pixels(values: Tensor) -> Tensor:
    """Sum over an image: [..., 3, H, W] -> [...]."""
    return values.flatten(-3).sum(-1)


class Likelihood(nn.Module, ABC):
    """-log p(image | decoder's output), the output being [..., 3, H, W] before its sigmoid or tanh."""

    def __init__(self, settings: PixelSettings) -> None:
        super().__init__()
        self.squash = {"unit": torch.sigmoid, "symmetric": torch.tanh}[settings.normalisation]
        self.black = BLACK[settings.normalisation]
        self.deviation = settings.noise_deviation * (1 - self.black)

    @abstractmethod
    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        """Nats of each image, [...]; in float32 whatever the arithmetic of the network, since sums are long."""

    def mean(self, output: Tensor) -> Tensor:  # [..., 3, H, W] -> [..., 3, H, W], normalised as the images
        return self.squash(output.float())

    def level_nll(self, reconstruction: Tensor, num_pixels: int) -> Tensor | None:
        """-log of the probability of the 8-bit image, or a bound on it, of the [B] nats of `forward`.

        Args:
            reconstruction: [B] nats.
            num_pixels: numbers in an image, 3 H W.

        Returns:
            [B] nats; None where the likelihood says nothing of the 256 levels.
        """
        return None

    def dequantised(self, density_nll: Tensor, log_variance: Tensor, num_pixels: int) -> Tensor:
        """-log of a level's probability, bounded by a Gaussian density's mean over the level's width.

        A level is as wide as the gap to the next; uniform noise as wide adds width^2 / 12 to every squared error.

        Source: Theis et al. 2016, section 3.1, https://arxiv.org/abs/1511.01844
        """
        width = (1 - self.black) / (NUM_LEVELS - 1)
        return density_nll + num_pixels * (width**2 / 24 * (-log_variance).exp() - math.log(width))


class SquaredError(Likelihood):
    """Squared error; weighed against beta times a KL it is beta times the nats of Gaussians of variance beta / 2."""

    def __init__(self, settings: PixelSettings) -> None:
        super().__init__(settings)
        self.beta = getattr(settings, "beta", 0.0)  # a code book has no KL to weigh it against

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        return squared_error(self.mean(output), images)

    def level_nll(self, reconstruction: Tensor, num_pixels: int) -> Tensor | None:
        if not self.beta:
            return None
        log_variance = torch.tensor(math.log(self.beta / 2))
        density = reconstruction / self.beta + num_pixels * math.log(math.pi * self.beta) / 2
        return self.dequantised(density, log_variance, num_pixels)


class Gaussian(Likelihood):
    """Gaussian pixels of one variance, fixed or learned."""

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
    """Pixels as probabilities of white; it says nothing of levels between.

    Raises:
        UserError: pixels are not in [0, 1].
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
    """Probabilities of the 256 levels, by logistics of one learned scale."""

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
