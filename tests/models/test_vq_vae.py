"""The vector-quantised autoencoder: straight-through gradient, losses, phases and resumption."""

import math

import numpy as np
import pytest
import torch

from analysis.look.closer import Subject, closer_look
from data.dataset import Batch, DatasetInfo, Split
from data.errors import UserError
from data.loader import Loader
from data.seeding import seed_everything
from models.loading import build_objective
from models.parts.code_book import perplexity
from models.registry import MODELS

INFO = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.0,) * 3, (1.0,) * 3, {}, "")
SMALL = {"width": 16, "codebook_size": 32, "code_size": 8, "prior_width": 16, "prior_depth": 1, "prior_heads": 2}
pytestmark = pytest.mark.usefixtures("one_thread")


def build(**settings):
    return build_objective(MODELS["vq_vae"].settings_class(model="vq_vae", **{**SMALL, **settings}), INFO)


def make_batch(size, seed=0):
    random = np.random.RandomState(seed)
    coarse = torch.from_numpy(random.randint(0, 256, (size, 3, 4, 4)) / 255).float()
    images = coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    return Batch(images, torch.arange(size) % 10)


def test_the_gradient_of_the_decoders_input_goes_straight_through_to_the_encoders_output():
    vae, batch = build(commitment=0.0).eval(), make_batch(3)
    passed = {}
    encode, decode = vae.encode_images, vae.decode_codes
    vae.encode_images = lambda images: keep(passed, "outputs", encode(images))
    vae.decode_codes = lambda vectors: decode(keep(passed, "decoded", vectors))
    vae(batch, "autoencode")["loss"].backward()
    assert (passed["outputs"] - passed["decoded"]).abs().max() > 1e-3
    torch.testing.assert_close(passed["decoded"], vae.code_book.look_up(vae.code_book(passed["outputs"])))
    assert passed["decoded"].grad.abs().max() > 0
    torch.testing.assert_close(passed["outputs"].grad, passed["decoded"].grad)


def keep(passed, name, value):
    value.retain_grad()
    passed[name] = value
    return value


def test_the_commitment_draws_outputs_to_their_codes_by_its_weight():
    gradients = []
    for weight in (0.0, 0.25):
        vae, batch, passed = build(commitment=weight).eval(), make_batch(3), {}
        encode = vae.encode_images
        vae.encode_images = lambda images, encode=encode, passed=passed: keep(passed, "outputs", encode(images))
        vae(batch, "autoencode")["loss"].backward()
        gradients.append(passed["outputs"].grad)
    outputs = passed["outputs"].detach()
    codes = vae.code_book.look_up(vae.code_book(outputs))
    torch.testing.assert_close(gradients[1] - gradients[0], 0.25 * 2 * (outputs - codes) / 3, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_images_are_evaluated_by_the_reconstruction_and_the_weighted_distance_to_the_codes():
    vae, batch = build(commitment=0.3).eval(), make_batch(3)
    outputs = vae.encode_images(batch.images)
    nearest = torch.cdist(outputs, vae.code_book.codes.expand(3, -1, -1)).min(2)
    errors = vae.likelihood(vae.decode_codes(vae.code_book.codes[nearest.indices]), batch.images)
    expected = errors + 0.3 * nearest.values.square().sum(1)
    torch.testing.assert_close(vae.evaluate(batch)["loss"], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_training_and_evaluation_have_the_same_loss(update):
    vae, batch = build(codebook_update=update, commitment=0.3).eval(), make_batch(3)
    torch.testing.assert_close(vae(batch, "autoencode")["loss"], vae.evaluate(batch)["loss"].mean())


def test_codes_updated_by_gradient_are_drawn_to_their_outputs():
    vae, batch = build(codebook_update="gradient").eval(), make_batch(3)
    vae(batch, "autoencode")["loss"].backward()
    outputs = vae.encode_images(batch.images).detach().flatten(0, 1)
    indices = vae.code_book(outputs)
    expected = torch.zeros_like(vae.code_book.codes)
    for output, index in zip(outputs, indices.tolist(), strict=True):
        expected[index] += 2 * (vae.code_book.codes[index].detach() - output) / 3
    torch.testing.assert_close(vae.code_book.codes.grad, expected, rtol=1e-4, atol=1e-6)


def test_the_book_begins_as_outputs_of_the_first_batch():
    vae, batch = build(), make_batch(8)
    outputs = vae.encode_images(batch.images).detach().flatten(0, 1)
    vae.code_book.revive(outputs)
    assert set(map(tuple, vae.code_book.codes.tolist())) <= set(map(tuple, outputs.tolist()))


@pytest.mark.slow
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_dead_codes_come_alive_in_training(update):
    def train(revive_below):
        vae = build(codebook_update=update, revive_below=revive_below, codebook_decay=0.8, lr=2e-3)
        vae.code_book.codes.data[4:] = 1e3  # out of reach
        vae.code_book.uses.fill_(1 / len(vae.code_book.codes))
        vae.code_book.sums.copy_(vae.code_book.codes * vae.code_book.uses[:, None])
        autoencode, _ = vae.phases()
        for step in range(40):
            terms = vae.train()(make_batch(16, seed=step), "autoencode")
            terms["loss"].backward()
            autoencode.optimizer.step()
            autoencode.optimizer.zero_grad()
        return terms["perplexity"].item()

    assert train(0.0) <= 4.001
    assert train(0.05) > 6


def test_the_second_phase_leaves_the_autoencoder_and_its_book_alone():
    vae, batch = build().train(), make_batch(4)
    vae(batch, "autoencode")
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    vae(batch, "prior")["loss"].backward()
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert all(p.grad is None for p in (*vae.encoder.parameters(), *vae.decoder.parameters()))


def train_steps(vae, phases, steps):
    for step in steps:
        seed_everything(step)
        for phase in phases:
            vae.train()(make_batch(8, seed=step), phase.name)["loss"].backward()
            phase.optimizer.step()
            vae.zero_grad(set_to_none=True)
    return vae


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_resumed_training_goes_on_bit_for_bit(update):
    settings = {"codebook_update": update, "codebook_decay": 0.5}  # codes die and are revived in these few steps
    whole = build(**settings)
    train_steps(whole, whole.phases(), range(8))
    first, second = build(**settings), build(**settings, seed=99)
    phases, resumed = first.phases(), second.phases()
    train_steps(first, phases, range(5))
    second.load_state_dict(first.state_dict())
    for before, after in zip(phases, resumed, strict=True):
        after.optimizer.load_state_dict(before.optimizer.state_dict())
    train_steps(second, resumed, range(5, 8))
    for key, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key


def test_evaluation_leaves_the_book_alone():
    vae, batch = build().eval(), make_batch(4)
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    vae(batch, "autoencode")
    vae.evaluate(batch)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())


def test_a_discretised_likelihood_counts_the_bits_of_image_and_codes():
    vae, batch = build(likelihood="discretised_logistic").eval(), make_batch(3)
    with torch.no_grad():
        terms = vae.evaluate(batch)
    expected = (terms["reconstruction"] + terms["prior"]) / 3072 / math.log(2)
    torch.testing.assert_close(terms["bits_per_dimension"], expected)


@torch.no_grad()
def test_the_end_of_a_run_tells_the_use_of_the_book(tmp_path):
    vae = build().eval()
    images = (make_batch(40).images * 255).round().byte()
    loader = Loader(Split(images, torch.zeros(40, dtype=torch.long)), INFO, torch.device("cpu"))
    analysis = closer_look(Subject(vae, {"val": loader}, "val", tmp_path))
    uses = torch.bincount(vae.codes_of(loader.batch(torch.arange(40)).images).flatten(), minlength=32)
    assert analysis.metrics["codes_used"] == (uses > 0).sum()
    assert analysis.metrics["perplexity"] == pytest.approx(perplexity(uses).item(), rel=1e-4)
    assert analysis.images["code_usage"].exists()


def test_heads_that_do_not_divide_the_priors_width_are_refused():
    with pytest.raises(UserError, match="--prior_heads=3 does not divide --prior_width=16"):
        build(prior_heads=3)


def step_in_parts(vae, phases, batch, num_parts):
    """One training step in as many micro-batches, as `Trainer.accumulate_gradients` takes it."""
    for phase in phases:
        for part in zip(batch.images.chunk(num_parts), batch.labels.chunk(num_parts), strict=True):
            (vae.train()(Batch(*part), phase.name)["loss"] / num_parts).backward()
        phase.optimizer.step()
        vae.zero_grad(set_to_none=True)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_step_in_two_micro_batches_is_the_step_in_one(update):
    states = []
    for num_parts in (1, 2):
        settings = {"revive_below": 0.0, "codebook_decay": 0.5, "optimizer": "sgd", "lr": 1e-4}
        vae = build(codebook_update=update, accumulation_steps=num_parts, **settings)
        phases = vae.phases()
        for step in range(3):
            step_in_parts(vae, phases, make_batch(8, seed=step), num_parts)
        states.append(vae.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-5, msg=key)
