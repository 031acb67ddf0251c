"""Variational autoencoders: the ELBO, its noise and warm-up, collapse, and what conditional models make of labels."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.utils.flop_counter import FlopCounterMode

import train as program
from analysis.look.panels import draw_grid
from analysis.record import run_folder
from data.dataset import Batch, DatasetInfo, Split
from data.errors import UserError
from data.files import read_json
from data.loader import Loader
from models.core.panel import side_by_side
from models.loading import build_objective
from models.parts.layers import one_hot
from models.parts.variational import ACTIVE_VARIANCE, Variational, count_active_units
from models.registry import MODELS
from tests.lean.pixel import save_a_pixel

INFO = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.0,) * 3, (1.0,) * 3, {}, "")
SMALL = {"width": 8, "latent_size": 6}
pytestmark = pytest.mark.usefixtures("one_thread")


def build(name, info=INFO, **settings):
    return build_objective(MODELS[name].settings_class(model=name, **{**SMALL, **settings}), info)


@cache
def make_batch(size, seed=0, side=32):
    """Grey discs here and there on a background that tells the class, which a small model can learn."""
    random = np.random.RandomState(seed)
    rows, columns = np.mgrid[:side, :side] / side
    labels = np.arange(size) % 10
    images = np.empty((size, 3, side, side))
    for i, label in enumerate(labels):
        disc = (rows - random.rand()) ** 2 + (columns - random.rand()) ** 2 < random.uniform(0.02, 0.2)
        images[i] = np.where(disc, random.rand(), np.random.RandomState(label).rand(3)[:, None, None])
    return Batch(torch.from_numpy(images * 255).round().div(255).float(), torch.from_numpy(labels))


def train(objective, num_steps, batch_size=64):
    (phase,) = objective.phases()
    objective.train()
    for step in range(num_steps):
        terms = objective(make_batch(batch_size, seed=step), phase.name)
        terms["loss"].backward()
        phase.optimizer.step()
        phase.optimizer.zero_grad(set_to_none=True)
    return objective.eval()


@pytest.fixture(scope="module")
def trained_vae():
    torch.manual_seed(0)
    return train(build("vae", likelihood="gaussian_learned", lr=3e-3), 60)


def posterior(vae, batch):
    mean, log_variance = vae.encode_features(vae.encoder(batch.images), one_hot(batch.labels, 0))
    return Normal(mean, (log_variance / 2).exp())


def loader_of(batch):
    images = (batch.images * 255).round().byte()
    return Loader(Split(images, batch.labels), INFO, torch.device("cpu"))


def test_the_notebooks_network_has_its_shapes_and_sizes():
    vae = build("vae", width=64, latent_size=128)
    shapes = [tuple(p.shape) for p in vae.parameters() if p.ndim == 4]
    assert shapes == [
        (64, 3, 3, 3),
        (128, 64, 3, 3),
        (256, 128, 3, 3),
        (256, 128, 4, 4),
        (128, 64, 4, 4),
        (64, 3, 4, 4),
    ]
    convolutions = 3 * 9 * 64 + 64 * 9 * 128 + 128 * 9 * 256 + 16 * (256 * 128 + 128 * 64 + 64 * 3)
    biases_and_norms = 3 * (64 + 128 + 256) + 3 * (128 + 64) + 3
    linear = (4096 + 1) * 256 + (128 + 1) * 4096
    assert sum(p.numel() for p in vae.parameters()) == convolutions + biases_and_norms + linear


@pytest.mark.parametrize(("side", "depth"), [(32, 1), (32, 3), (64, 3), (64, 4), (48, 4)])
def test_images_of_any_size_that_can_be_halved_come_back_in_their_size(side, depth):
    vae = build("vae", replace(INFO, image_size=side), depth=depth)
    batch = make_batch(3, side=side)
    assert vae.decode(vae.latent_means(batch.images)).shape == batch.images.shape
    assert vae(batch, "autoencode")["loss"].isfinite()


def test_a_size_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(UserError, match="--depth=3 halves 36-pixel images to a fraction.*8 divides"):
        build("vae", replace(INFO, image_size=36))


@pytest.mark.parametrize(("normalisation", "black"), [("unit", 0.0), ("symmetric", -1.0)])
def test_outputs_are_in_the_range_of_the_images(normalisation, black):
    mean, std = {"unit": (0.0, 1.0), "symmetric": (0.5, 0.5)}[normalisation]
    vae = build("vae", replace(INFO, mean=(mean,) * 3, std=(std,) * 3), normalisation=normalisation)
    output = 100 * torch.randn(2, 3, 32, 32)
    assert vae.likelihood.mean(output).min() == pytest.approx(black, abs=1e-6)
    assert vae.likelihood.mean(output).max() == pytest.approx(1)
    decoded = vae.decode(1000 * torch.randn(2, 6))
    assert 0 <= decoded.min() < decoded.max() <= 1


@pytest.mark.slow
@torch.no_grad()
def test_the_evaluated_loss_is_reconstruction_and_beta_kl_by_torch_distributions(trained_vae):
    vae = build("vae", likelihood="gaussian", noise_deviation=0.2, beta=0.7).eval()
    vae.load_state_dict({**trained_vae.state_dict(), "likelihood.log_variance": vae.likelihood.log_variance})
    batch = make_batch(7)
    q = posterior(vae, batch)
    latents = q.mean + q.stddev * vae.noise_of(batch.images)
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(1)
    nll = -Normal(torch.sigmoid(vae.decoder(latents)), 0.2).log_prob(batch.images).sum((1, 2, 3))
    terms = vae.evaluate(batch)
    torch.testing.assert_close(terms["kl"], kl, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms["reconstruction"], nll, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(terms["loss"], nll + 0.7 * kl, rtol=1e-5, atol=1e-2)
    bits = (nll + 3072 * (math.log(255) + 1 / 255**2 / 24 / 0.04) + kl) / 3072 / math.log(2)
    torch.testing.assert_close(terms["bits_per_dimension"], bits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_noise_of_evaluation_differs_between_images_and_is_the_same_in_every_run(trained_vae):
    images = make_batch(50).images
    noise = trained_vae.noise_of(images)
    assert len(noise.unique(dim=0)) > 40
    torch.testing.assert_close(build("vae", seed=99).noise_of(images.flip(0)).flip(0), noise)
    assert trained_vae.noise.mean().abs() < 0.05
    assert trained_vae.noise.std() == pytest.approx(1, abs=0.02)


@pytest.mark.slow
@torch.no_grad()
def test_the_evaluated_elbo_is_the_mean_over_fresh_noise(trained_vae):
    batch = make_batch(400)
    q = posterior(trained_vae, batch)
    draws = [trained_vae.likelihood(trained_vae.decoder(q.sample()), batch.images).mean().item() for _ in range(20)]
    evaluated = trained_vae.evaluate(batch)["reconstruction"].mean().item()
    assert evaluated == pytest.approx(np.mean(draws), abs=4 * np.std(draws))


@pytest.mark.slow
@torch.no_grad()
def test_the_elbo_is_below_the_importance_weighted_bound_which_grows_with_the_draws(trained_vae):
    batch = make_batch(200)
    q = posterior(trained_vae, batch)
    mean, log_variance = q.mean.unsqueeze(1), 2 * q.stddev.log().unsqueeze(1)
    condition = torch.zeros(200, 1, 0)
    bounds = [
        -trained_vae.importance_weighted_loss(batch.images, mean, log_variance, condition, num).mean().item()
        for num in (1, 4, 16, 64)
    ]
    elbo = -trained_vae.evaluate(batch)["loss"].mean().item()
    assert bounds == sorted(bounds)
    assert bounds[0] == pytest.approx(elbo, abs=0.5)  # one draw: the KL by that draw, instead of exactly
    assert bounds[1] > elbo + 0.1


@pytest.mark.slow
@torch.no_grad()
def test_a_single_importance_weighted_draw_is_the_weighted_density_ratio(trained_vae):
    vae = build("vae", likelihood="squared_error", beta=0.3).eval()
    batch = make_batch(4)
    q = posterior(vae, batch)
    latents = q.mean + q.stddev * vae.noise_of(batch.images)
    log_ratio = (q.log_prob(latents) - Normal(0.0, 1.0).log_prob(latents)).sum(1)
    expected = vae.likelihood(vae.decoder(latents), batch.images) + 0.3 * log_ratio
    mean, log_variance = q.mean.unsqueeze(1), 2 * q.stddev.log().unsqueeze(1)
    actual = vae.importance_weighted_loss(batch.images, mean, log_variance, torch.zeros(4, 1, 0), 1)
    torch.testing.assert_close(actual.squeeze(1), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("num_draws", [1, 5])
@torch.no_grad()
def test_the_importance_weighted_loss_of_latents_that_tell_nothing_is_the_reconstruction(num_draws):
    vae, batch = build("vae", beta=0.3).eval(), make_batch(4)
    vae.decoder.affine[0].weight.zero_()
    prior, condition = torch.zeros(4, 1, 6), torch.zeros(4, 1, 0)
    loss = vae.importance_weighted_loss(batch.images, prior, prior, condition, num_draws)
    reconstruction = vae.likelihood(vae.decode_latents(prior[:, 0], condition[:, 0]), batch.images)
    torch.testing.assert_close(loss[:, 0], reconstruction)


def test_noise_of_training_has_the_posteriors_deviation(monkeypatch):
    vae, batch = build("vae"), make_batch(8)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    q = posterior(vae, batch)
    expected = vae.likelihood(vae.decode_latents(q.mean + q.stddev, torch.zeros(8, 0)), batch.images).mean()
    torch.testing.assert_close(vae(batch, "autoencode")["reconstruction"], expected)


def test_the_weight_of_the_kl_climbs_over_the_warm_up():
    vae, batch = build("vae", beta=2.0, kl_warmup_epochs=4.0), make_batch(8)
    weights = []
    for epoch in (0.0, 1.0, 2.0, 4.0, 9.0):
        vae.epoch = epoch
        terms = vae(batch, "autoencode")
        weights.append(((terms["loss"] - terms["reconstruction"]) / terms["kl"]).item())
    assert weights == pytest.approx([0, 0.5, 1, 2, 2], abs=1e-3)


def test_free_bits_are_free_for_each_unit_on_average_over_the_batch():
    vae, batch = build("vae", free_bits=0.5), make_batch(8)
    mean, log_variance = vae.encode_features(vae.encoder(batch.images), one_hot(batch.labels, 0))
    kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean(0)
    expected = sum(max(0.5, nats) for nats in kl.tolist())
    terms = vae(batch, "autoencode")
    assert (terms["loss"] - terms["reconstruction"]).item() == pytest.approx(expected, abs=1e-3)
    assert terms["kl"].item() == pytest.approx(kl.sum().item(), rel=1e-4)


def test_a_unit_is_active_where_its_mean_varies_by_more_than_a_hundredth():
    means = torch.tensor([1.0, -1.0]).unsqueeze(1) * torch.tensor([0.0, 0.09, 0.11, 2.0]) + 5
    assert ACTIVE_VARIANCE == 0.01
    assert count_active_units(means).item() == 2


@pytest.mark.slow
def test_no_active_unit_is_reported_as_posterior_collapse(tmp_path):
    batch = make_batch(200)
    collapsed = train(build("vae", beta=1000.0, latent_images=0, lr=3e-3), 80)
    healthy = train(build("vae", beta=0.1, latent_images=0, lr=3e-3), 40)
    with torch.no_grad():
        seen, unseen = (vae.closing_metrics(loader_of(batch)) for vae in (collapsed, healthy))
    assert seen == {"active_units": 0, "posterior_collapse": 1}
    assert unseen["active_units"] > 0
    assert unseen["posterior_collapse"] == 0


@pytest.mark.slow
def test_collapse_is_told_in_a_runs_summary(tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save_a_pixel)
    words = ["--model=vae", "--dataset=digits", "--width=8", "--latent_size=6", "--beta=1000", "--lr=0.003"]
    words += ["--epochs=2", "--batch_size=32", "--tracking=off", f"--runs_dir={tmp_path}", "--run_id=a"]
    assert program.main([*words, "--latent_images=0"]) == 0
    summary = read_json(tmp_path / "a" / run_folder.SUMMARY)
    assert summary["val/active_units"] == 0
    assert summary["val/posterior_collapse"] == 1


def test_rows_of_pictures_and_reconstructions_alternate():
    pictures = torch.arange(19).view(-1, 1, 1, 1).expand(-1, 3, 4, 4) / 100
    panel = side_by_side(pictures, pictures + 0.5)
    numbers = [round(100 * value) for value in panel.images[:, 0, 0, 0].tolist()]
    assert numbers == [*range(8), *range(50, 58), *range(8, 16), *range(58, 66)]
    assert draw_grid(panel).size == (8 * 164 + 4, 4 * 164 + 4)


@torch.no_grad()
def test_samples_come_of_the_same_noise_in_every_run():
    first, second = build("vae", seed=1), build("vae", seed=2)
    second.load_state_dict(first.state_dict())
    panels = [vae.eval().panels(make_batch(8), torch.zeros(8, 3, 32, 32)) for vae in (first, second)]
    assert torch.equal(panels[0]["samples"].images, panels[1]["samples"].images)
    assert panels[0]["samples"].images.shape == (64, 3, 32, 32)


def single_label_loss(cvae, batch, label):
    """Loss at the posterior's mean, by the parts that training uses, under one label for all images."""
    condition = one_hot(torch.full_like(batch.labels, label), 10)
    mean, log_variance = cvae.encode_features(cvae.encoder(batch.images), condition)
    kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    return cvae.likelihood(cvae.decode_latents(mean, condition), batch.images) + cvae.settings.beta * kl


@pytest.fixture(scope="module")
def trained_cvae():
    torch.manual_seed(0)
    return train(build("cvae", beta=0.5, lr=5e-3), 80)


@pytest.mark.parametrize("depth", [1, 2, 3])
@torch.no_grad()
def test_the_ten_label_pass_equals_ten_passes_of_one_label(depth):
    cvae, batch = train_one_step(build("cvae", depth=depth, beta=0.7)), make_batch(40)
    expected = torch.stack([single_label_loss(cvae, batch, label) for label in range(10)], dim=1)
    losses = cvae.label_losses(batch.images)
    assert (expected.max(1).values - expected.min(1).values).min() > 0.01  # the label matters
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-3)


def train_one_step(objective):
    with torch.enable_grad():
        return train(objective, 1, batch_size=16)


def test_the_ten_label_pass_takes_less_than_three_times_the_arithmetic_of_a_plain_evaluation():
    cvae, batch = build("cvae", width=64, latent_size=128).eval(), make_batch(30)
    counts = []
    for evaluate in (lambda: Variational.evaluate(cvae, batch), lambda: cvae.label_losses(batch.images)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            evaluate()
        counts.append(counter.get_total_flops())
    assert 1 < counts[1] / counts[0] < 3
