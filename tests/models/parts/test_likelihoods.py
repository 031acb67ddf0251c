"""KL and likelihoods against torch.distributions, scipy and hand arithmetic."""

import math

import pytest
import torch
from scipy.stats import logistic
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from data.errors import UserError
from models.parts.likelihoods import (
    BLACK,
    LIKELIHOODS,
    NUM_LEVELS,
    PixelSettings,
    bernoulli_nll,
    discretised_logistic_nll,
    gaussian_kl,
    gaussian_nll,
    squared_error,
)
from models.parts.variational import VariationalSettings

SHAPE = (5, 3, 8, 8)
NUM_PIXELS = 3 * 8 * 8


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def levels(normalisation):
    return torch.linspace(BLACK[normalisation], 1, NUM_LEVELS)


def image_levels(normalisation="unit", shape=SHAPE):
    return levels(normalisation)[torch.randint(NUM_LEVELS, shape)]


def likelihood(name, normalisation="unit", **settings):
    return LIKELIHOODS[name](PixelSettings(likelihood=name, normalisation=normalisation, **settings))


def test_the_kl_is_that_of_torch_distributions_unit_by_unit():
    mean, log_variance = 2 * torch.randn(6, 4), 2 * torch.randn(6, 4)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected, rtol=1e-5, atol=1e-5)


def test_the_kl_of_the_prior_to_itself_is_nothing():
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).abs().max() == 0


def test_squared_error_is_summed_over_each_image():
    mean, images = torch.rand(SHAPE), torch.rand(SHAPE)
    expected = [
        sum((a - b) ** 2 for a, b in zip(m, i, strict=True)) for m, i in zip(rows(mean), rows(images), strict=True)
    ]
    torch.testing.assert_close(squared_error(mean, images), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def rows(images):
    return images.flatten(1).tolist()


@pytest.mark.parametrize("log_variance", [-4.0, 0.0, 1.0])
def test_the_gaussian_is_that_of_torch_distributions(log_variance):
    mean, images = torch.rand(SHAPE), torch.rand(SHAPE)
    expected = -Independent(Normal(mean, math.exp(log_variance / 2)), 3).log_prob(images)
    actual = gaussian_nll(mean, torch.tensor(log_variance), images)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_squared_error_differs_from_a_gaussian_of_variance_a_half_by_a_constant():
    mean, images = torch.rand(SHAPE), torch.rand(SHAPE)
    expected = -Independent(Normal(mean, math.sqrt(0.5)), 3).log_prob(images) - NUM_PIXELS / 2 * math.log(math.pi)
    torch.testing.assert_close(squared_error(mean, images), expected, rtol=1e-5, atol=1e-5)


def test_the_bernoulli_is_that_of_torch_distributions():
    logits, images = 4 * torch.randn(SHAPE), torch.rand(SHAPE)
    expected = -Independent(Bernoulli(logits=logits, validate_args=False), 3).log_prob(images)
    torch.testing.assert_close(bernoulli_nll(logits, images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalisation", BLACK)
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0])
def test_the_discretised_logistic_is_the_difference_of_scipys_distribution_functions(normalisation, log_scale):
    black, images = BLACK[normalisation], image_levels(normalisation, (4, 3, 8, 8))
    # Not far out in the tails, where the difference of scipy's loses its digits.
    mean = (images + 2 * math.exp(log_scale) * torch.randn(images.shape)).clamp(black, 1).double()
    half = (1 - black) / 255 / 2
    spread = logistic(mean.numpy(), math.exp(log_scale))
    exact = images.double().numpy()
    upper, lower = spread.cdf(exact + half), spread.cdf(exact - half)
    upper[exact == 1], lower[exact == black] = 1, 0
    expected = -torch.from_numpy(upper - lower).log().flatten(1).sum(1)
    double = discretised_logistic_nll(mean, torch.tensor(log_scale).double(), images.double(), black)
    torch.testing.assert_close(double, expected, rtol=1e-5, atol=1e-5)
    single = discretised_logistic_nll(mean.float(), torch.tensor(log_scale), images, black)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("normalisation", BLACK)
@pytest.mark.parametrize("log_scale", [-9.0, -4.0, -1.0, 2.0])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_256_probabilities_of_a_pixel_sum_to_1(normalisation, log_scale, share):
    every = levels(normalisation).view(NUM_LEVELS, 1, 1, 1)
    mean = BLACK[normalisation] + share * (1 - BLACK[normalisation])
    nll = discretised_logistic_nll(torch.full((), mean), torch.tensor(log_scale), every, BLACK[normalisation])
    assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_a_level_far_from_the_mean_has_a_finite_likelihood_and_gradient():
    mean = torch.zeros(1, 3, 1, 1, requires_grad=True)
    nll = discretised_logistic_nll(mean, torch.tensor(-9.0), torch.full((1, 3, 1, 1), 0.5), 0.0)
    nll.backward()
    assert nll.isfinite().all()
    assert mean.grad.isfinite().all()
    assert (mean.grad < 0).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_leading_dimension_broadcasts(name):
    output, images = torch.randn(5, 4, 3, 8, 8), image_levels()
    expected = torch.stack([likelihood(name)(output[:, i], images) for i in range(4)], dim=1)
    torch.testing.assert_close(likelihood(name)(output, images.unsqueeze(1)), expected)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_nats_are_float32_whatever_the_network_computes_in(name):
    output, images = torch.randn(SHAPE).bfloat16(), image_levels()
    with torch.autocast("cpu", torch.bfloat16):
        nats = likelihood(name)(output, images)
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats, likelihood(name)(output.float(), images), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("normalisation", BLACK)
def test_means_are_in_the_range_of_the_pixels(normalisation):
    mean = likelihood("gaussian", normalisation).mean(100 * torch.randn(SHAPE))
    assert mean.min() == pytest.approx(BLACK[normalisation])
    assert mean.max() == pytest.approx(1)


@pytest.mark.parametrize("normalisation", BLACK)
def test_a_gaussians_bits_are_the_mean_density_over_the_width_of_a_level(normalisation):
    gaussian = likelihood("gaussian", normalisation, noise_deviation=0.004)  # as narrow as a level: the width matters
    output = torch.randn(1, 3, 4, 4)
    images = gaussian.mean(output)  # elsewhere the squared errors would be all that counts
    width = (1 - BLACK[normalisation]) / 255
    mean, deviation = images.double(), 0.004 * (1 - BLACK[normalisation])
    within = ((torch.arange(1000) + 0.5) / 1000 - 0.5) * width
    log_density = torch.stack([Normal(mean, deviation).log_prob(images + shift) for shift in within]).mean(0)
    expected = -(log_density + math.log(width)).sum()
    assert gaussian.level_nll(gaussian(output, images), 48).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("beta", [0.02, 1.0])
def test_squared_error_at_beta_has_the_bits_of_gaussians_of_half_that_variance(beta):
    output, images = torch.randn(SHAPE), image_levels()
    squared = LIKELIHOODS["squared_error"](VariationalSettings(beta=beta))
    gaussian = likelihood("gaussian", noise_deviation=math.sqrt(beta / 2))
    expected = gaussian.level_nll(gaussian(output, images), NUM_PIXELS)
    torch.testing.assert_close(squared.level_nll(squared(output, images), NUM_PIXELS), expected)


@pytest.mark.parametrize(
    ("normalisation", "beta", "bits"), [("unit", 1, 8.82), ("unit", 0.1, 7.16), ("symmetric", 1, 7.82)]
)
def test_a_perfect_squared_error_takes_the_bits_that_the_readme_says(normalisation, beta, bits):
    squared = LIKELIHOODS["squared_error"](VariationalSettings(beta=float(beta), normalisation=normalisation))
    least = squared.bits_per_dimension(torch.zeros(1), torch.zeros(1), torch.zeros(SHAPE))["bits_per_dimension"].item()
    half_a_level = (1 - BLACK[normalisation]) / 255 / 2
    centre = Normal(torch.tensor(0.0, dtype=torch.float64), math.sqrt(beta / 2))
    level = 2 * centre.cdf(torch.tensor(half_a_level, dtype=torch.float64)).item() - 1
    assert least == pytest.approx(-math.log2(level), abs=1e-4) == pytest.approx(bits, abs=5e-3)


def test_a_wide_discretised_logistic_costs_about_8_bits_a_pixel():
    uniform = likelihood("discretised_logistic", noise_deviation=0.4)
    nll = uniform.level_nll(uniform(torch.zeros(SHAPE), image_levels()), NUM_PIXELS)
    assert nll.mean().item() / NUM_PIXELS / math.log(2) == pytest.approx(8, abs=0.5)


def test_bernoulli_and_squared_error_at_beta_0_have_no_bits():
    assert likelihood("bernoulli").level_nll(torch.zeros(2), NUM_PIXELS) is None
    assert LIKELIHOODS["squared_error"](VariationalSettings(beta=0.0)).level_nll(torch.zeros(2), NUM_PIXELS) is None


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_only_what_is_learned_is_trained(name):
    learned = [parameter for parameter in likelihood(name).parameters() if parameter.requires_grad]
    assert len(learned) == (name in ("gaussian_learned", "discretised_logistic"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian_learned", "discretised_logistic"])
def test_a_learned_noise_becomes_that_of_the_data(name):
    noisy, spread = likelihood(name), 0.15
    mean = 0.5 + torch.zeros(8, 3, 16, 16)
    images = (mean + spread * torch.randn(mean.shape)).mul(255).round().div(255)
    optimizer = torch.optim.Adam(noisy.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        noisy(torch.zeros(mean.shape), images).mean().backward()
        optimizer.step()
    (parameter,) = noisy.parameters()
    # A logistic fitted to Gaussian noise by likelihood is a little narrower than its own moments would have it.
    deviation = {"gaussian_learned": parameter / 2, "discretised_logistic": parameter + math.log(math.pi / 3**0.5)}[
        name
    ]
    assert deviation.exp().item() == pytest.approx(spread, rel=0.08)


def test_bernoulli_wants_pixels_between_0_and_1():
    with pytest.raises(UserError, match="normalisation=symmetric .*give unit"):
        likelihood("bernoulli", "symmetric")
