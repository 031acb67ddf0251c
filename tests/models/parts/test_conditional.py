"""Conditional variational autoencoders: rules of classification, samples by class, the head."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from analysis.look.closer import Subject, closer_look
from data.dataset import Batch
from data.errors import UserError
from data.metrics import is_percentage, metric_named
from models.parts.layers import one_hot
from tests.models.parts.test_variational import (
    INFO,
    build,
    loader_of,
    make_batch,
    train,
    trained_cvae,  # noqa: F401
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@torch.no_grad()
def test_importance_weighted_losses_share_an_images_noise_between_labels(trained_cvae):
    cvae = with_rule(trained_cvae, "importance_weighted", importance_samples=3)
    batch = make_batch(30)  # more than are decoded at once under 10 labels
    features = cvae.encoder(batch.images)
    expected = []
    for label in range(10):
        condition = one_hot(torch.full_like(batch.labels, label), 10)
        mean, log_variance = cvae.encode_features(features, condition)
        q, log_weights = Normal(mean, (log_variance / 2).exp()), []
        for draw in range(3):
            latents = q.mean + q.stddev * cvae.noise_of(batch.images, draw)
            nats = cvae.likelihood(cvae.decode_latents(latents, condition), batch.images)
            log_weights.append(-nats / 0.5 + (Normal(0.0, 1.0).log_prob(latents) - q.log_prob(latents)).sum(1))
        expected.append(-0.5 * (torch.stack(log_weights).logsumexp(0) - math.log(3)))
    torch.testing.assert_close(cvae.label_losses(batch.images), torch.stack(expected, 1), rtol=1e-5, atol=1e-3)


def with_rule(trained, rule, **settings):
    cvae = build("cvae", beta=0.5, classify_by=rule, **settings).eval()
    cvae.load_state_dict(trained.state_dict())
    return cvae


@pytest.mark.slow
@torch.no_grad()
def test_one_label_for_a_whole_batch_is_the_price_of_the_batch_mean(trained_cvae):
    batch = make_batch(200, seed=999)
    for rule in ("elbo_at_mean", "importance_weighted"):
        assert with_rule(trained_cvae, rule).evaluate(batch)["accuracy"].mean() > 0.5
    cvae = with_rule(trained_cvae, "batch_mean")
    predicted = cvae.label_losses(batch.images).argmin(1)
    assert len(predicted.unique()) == 1
    assert cvae.evaluate(batch)["accuracy"].mean().item() == pytest.approx(0.1)


@pytest.mark.slow
@torch.no_grad()
def test_the_batch_mean_is_the_mean_loss_of_the_batch_with_noise_of_each_label_for_itself(trained_cvae):
    cvae, batch = with_rule(trained_cvae, "batch_mean"), make_batch(300)
    losses = cvae.label_losses(batch.images)
    torch.rand(7)
    assert torch.equal(cvae.label_losses(batch.images), losses)  # also in a run that is resumed
    noise = torch.stack([cvae.noise_of(batch.images, label) for label in (3, 4)])
    assert not torch.equal(*noise)
    own = batch.labels == 3
    trained_loss = cvae.evaluate(Batch(batch.images[own], batch.labels[own]))["loss"].mean().item()
    assert cvae.label_losses(batch.images[own])[0, 3].item() == pytest.approx(trained_loss, rel=0.05)


@pytest.mark.slow
@torch.no_grad()
def test_evaluation_reports_the_loss_under_the_true_label(trained_cvae):
    batch = make_batch(20)
    terms = trained_cvae.evaluate(batch)
    other = trained_cvae.evaluate(Batch(batch.images, (batch.labels + 1) % 10))
    assert terms["loss"].mean() < other["loss"].mean()
    predicted = trained_cvae.label_losses(batch.images).argmin(1)
    assert torch.equal(terms["accuracy"], (predicted == batch.labels).float())


@pytest.mark.slow
@torch.no_grad()
def test_a_conditional_models_samples_have_one_column_a_class_and_one_noise_a_row(trained_cvae):
    panel = trained_cvae.panels(make_batch(8), torch.zeros(8, 3, 32, 32))["samples_by_class"]
    assert panel.columns == 10
    assert panel.captions[:10] == panel.captions[10:20] == INFO.classes
    labels = torch.arange(10)
    row = trained_cvae.pictures_of(trained_cvae.noise[3].expand(10, -1), labels)
    torch.testing.assert_close(panel.images[30:40], row)


@pytest.mark.slow
@torch.no_grad()
def test_the_end_of_a_cvaes_run_compares_the_rules(trained_cvae, tmp_path):
    analysis = closer_look(Subject(trained_cvae, {"val": loader_of(make_batch(100))}, "val", tmp_path))
    assert analysis.metrics["elbo_at_mean_accuracy"] > 0.5
    assert analysis.metrics["batch_mean_accuracy"] == pytest.approx(0.1)
    assert analysis.metrics["importance_weighted_accuracy"] > 0.5
    accuracies = [name for name in analysis.metrics if "accuracy" in name]
    assert all(is_percentage(name) and metric_named(name).goal == "maximize" for name in accuracies)
    assert analysis.metrics["active_units"] > 0
    assert {path.stem for path in analysis.images.values()} >= {"confusion_matrix", "reliability"}
    assert all(path.exists() for path in analysis.images.values())


@pytest.mark.parametrize("name", ["cvae", "cvae_head"])
def test_a_conditional_model_wants_labels(name):
    with pytest.raises(UserError, match="synthetic has 0 labelled classes.*--model=vae"):
        build(name, replace(INFO, classes=()))


def test_no_importance_weighted_bound_without_a_kl():
    with pytest.raises(UserError, match="--beta=0: raise beta"):
        build("cvae", classify_by="importance_weighted", beta=0.0)


def test_the_heads_loss_adds_gamma_times_the_cross_entropy():
    model, batch = build("cvae_head", gamma=7.0, beta=0.5), make_batch(9)
    terms = model(batch, "autoencode")
    logits = model.head(model.encoder(batch.images))
    cross_entropy = -torch.log_softmax(logits, 1)[torch.arange(9), batch.labels].mean()
    assert terms["cross_entropy"].item() == pytest.approx(cross_entropy.item(), rel=1e-4)
    expected = terms["reconstruction"] + 0.5 * terms["kl"] + 7 * terms["cross_entropy"]
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        per_image = model.eval().evaluate(batch)
    expected = per_image["reconstruction"] + 0.5 * per_image["kl"] + 7 * per_image["cross_entropy"]
    torch.testing.assert_close(per_image["loss"], expected)


def test_the_head_sees_the_image_alone():
    model, batch = build("cvae_head").eval(), make_batch(6)
    other = Batch(batch.images, (batch.labels + 1) % 10)
    with torch.no_grad():
        right, wrong = (model.evaluate(each)["accuracy"] for each in (batch, other))
        predicted = model.predict(batch.images).argmax(1)
    assert torch.equal(right, (predicted == batch.labels).float())
    assert torch.equal(wrong, (predicted == other.labels).float())


@pytest.mark.slow
def test_the_head_learns_to_classify(tmp_path):
    model = train(build("cvae_head", lr=3e-3), 40)
    batch = make_batch(200, seed=999)
    with torch.no_grad():
        assert model.evaluate(batch)["accuracy"].mean() > 0.8
        analysis = closer_look(Subject(model, {"val": loader_of(batch)}, "val", tmp_path))
    assert {"active_units", "posterior_collapse", "ece"} <= analysis.metrics.keys()
    assert (tmp_path / "panels" / "confusion_matrix.png").exists()
