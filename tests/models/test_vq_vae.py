"""The vector-quantised autoencoder: code book, straight-through gradient, prior, and several processes."""

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
from models.registry import MODELS
from models.vq_vae import CodeBook, VqVaeSettings, perplexity
from tests.two_processes import in_two_processes

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


def small_book(**settings):
    book = CodeBook(VqVaeSettings(codebook_size=3, code_size=2, **settings))
    book.codes.data = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    return book


def test_an_output_is_named_by_the_code_nearest_to_it():
    outputs = torch.tensor([[1.0, 1.0], [7.0, 1.0], [-1.0, 30.0], [4.9, 4.8]])
    assert small_book()(outputs).tolist() == [0, 1, 2, 0]
    book = CodeBook(VqVaeSettings(codebook_size=50, code_size=6))
    outputs = torch.randn(4, 7, 6)
    expected = torch.cdist(outputs.flatten(0, 1), book.codes).argmin(1).view(4, 7)
    assert torch.equal(book(outputs), expected)


def test_the_nearest_code_is_the_same_in_mixed_precision():
    book, outputs = CodeBook(VqVaeSettings()), torch.randn(500, 64)
    expected = book(outputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(book(outputs), expected)


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


def test_the_moving_averages_of_a_code_are_those_of_hand_arithmetic():
    book = small_book(codebook_decay=0.9)
    book.uses.copy_(torch.tensor([2.0, 1.0, 4.0]))
    book.sums.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 40.0]]))
    outputs = torch.tensor([[1.0, 1.0], [2.0, 0.0], [12.0, 2.0]])
    book.follow(outputs, torch.tensor([0, 0, 1]))
    uses = torch.tensor([1.8 + 0.2 / 3, 0.9 + 0.1 / 3, 3.6])  # 0.9 * 2 + 0.1 * 2 / 3, ...
    sums = torch.tensor([[0.1, 0.1 / 3], [9 + 0.4, 0.2 / 3], [0.0, 36.0]])
    torch.testing.assert_close(book.uses, uses)
    torch.testing.assert_close(book.sums, sums)
    torch.testing.assert_close(book.codes, sums / uses[:, None])


def test_a_code_without_outputs_stays_where_it_is():
    book = small_book(revive_below=0.0, codebook_decay=0.9)
    before = book.codes.clone()
    for _ in range(300):  # until the average has forgotten the first outputs of the second code
        book.follow(torch.tensor([[1.0, 2.0], [9.0, 1.0]]), torch.tensor([0, 1]))
        book.follow(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    for _ in range(600):
        book.follow(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    torch.testing.assert_close(book.codes, torch.tensor([[1.0, 2.0], [9.0, 1.0], before[2].tolist()]))


def test_a_book_that_kept_numbers_of_outputs_goes_on_with_shares():
    book, other = small_book(), small_book()
    outputs = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    for _ in range(1000):
        book.follow(outputs, book(outputs))
    state = book.state_dict()
    other.load_state_dict({**state, "uses": 512 * state["uses"], "sums": 512 * state["sums"]})  # as 0.1.0 had it
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-3)
    other.load_state_dict(state)
    assert torch.equal(other.uses, state["uses"])


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_book_in_use_is_kept_where_training_goes_on_with_other_batches(update):
    book = small_book(revive_below=0.1, codebook_update=update)
    outputs = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    for _ in range(300):
        book.revive(outputs)
        book.follow(outputs, book(outputs))
    before = book.codes.clone()
    assert len(before.unique(dim=0)) == 3
    book.revive(torch.randn(3000, 2))
    assert torch.equal(book.codes, before)


def test_codes_hardly_used_become_outputs_of_the_batch():
    book = small_book(revive_below=0.05)
    book.uses.copy_(torch.tensor([0.96, 0.02, 0.01]))  # an even use is 1 / 3
    outputs = torch.tensor([[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]])
    book.revive(outputs)
    assert book.codes[:2].tolist() == [[0, 0], [10, 0]]
    assert book.codes[2].tolist() in outputs.tolist()
    assert book.uses.tolist() == pytest.approx([0.96, 0.02, 0.1 / 3])
    torch.testing.assert_close(book.sums[2], 0.1 / 3 * book.codes[2])


def test_a_revived_code_has_time_to_find_its_outputs():
    book = small_book(revive_below=0.05, codebook_decay=0.99)
    book.revive(torch.randn(30, 2))
    for step in range(100):
        book.follow(torch.zeros(30, 2), torch.zeros(30, dtype=torch.long))
        assert (book.uses[1:] > 0.05 / 3).all() == (step < 68)


def test_no_code_is_revived_where_that_is_not_wanted():
    book = small_book(revive_below=0.0)
    before = book.codes.clone()
    book.revive(torch.randn(3, 2))
    assert torch.equal(book.codes, before)


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


def test_perplexity_is_the_exponential_of_the_entropy():
    assert perplexity(torch.tensor([5, 5, 5, 5, 0])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([0, 7, 0])).item() == pytest.approx(1)
    shares = np.array([0.2, 0.3, 0.5])
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert perplexity(torch.tensor([2, 3, 5])).item() == pytest.approx(expected, rel=1e-6)


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


def test_each_layer_of_the_prior_starts_with_weights_of_its_own():
    prior = build(prior_depth=3).prior
    matrices = [key for key, value in prior.layers.layers[0].named_parameters() if value.ndim > 1]
    assert len(matrices) == 4
    for key in matrices:
        first, second, third = (layer.get_parameter(key) for layer in prior.layers.layers)
        assert not torch.equal(first, second)
        assert not torch.equal(first, third)
        assert not torch.equal(second, third)
    assert "layers.layers.2.self_attn.in_proj_weight" in prior.state_dict()  # the name of all versions


@torch.no_grad()
def test_a_code_is_predicted_by_those_before_it_alone():
    vae = build().eval()
    codes = torch.randint(32, (2, 63))
    changed = codes.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 32
    before, after = vae.prior(codes), vae.prior(changed)
    assert before.shape == (2, 64, 32)
    torch.testing.assert_close(after[:, :21], before[:, :21])
    assert (after[:, 21:] - before[:, 21:]).abs().amax(dim=(0, 2)).min() > 1e-6


@torch.no_grad()
def test_the_priors_nats_are_the_sum_of_its_conditionals():
    vae = build().eval()
    codes = torch.randint(32, (3, 64))
    expected = torch.zeros(3)
    for t in range(64):
        log_probabilities = vae.prior(codes[:, :t])[:, -1].log_softmax(1)
        expected -= log_probabilities[torch.arange(3), codes[:, t]]
    torch.testing.assert_close(vae.prior.nll(codes), expected, rtol=1e-5, atol=1e-3)


@torch.no_grad()
def test_sampled_codes_come_by_their_probabilities_and_are_the_same_in_every_run():
    prior = build(depth=4, codebook_size=5).eval().prior  # 2x2 codes
    samples = prior.sample(4000, seed=0)
    assert samples.shape == (4000, 4)
    assert torch.equal(samples, prior.sample(4000, seed=0))
    shares = torch.bincount(samples[:, 0], minlength=5) / 4000
    expected = prior(samples[:1, :0])[0, -1].softmax(0)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.03)


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


def test_codes_are_revived_once_in_a_step():
    book = small_book(revive_below=0.1, codebook_decay=0.5, accumulation_steps=2)
    first, second = torch.randn(30, 2), torch.randn(30, 2)
    book.revive(first)
    assert book.uses.tolist() == pytest.approx([2 * 0.1 / 3] * 3)
    before = {key: value.clone() for key, value in book.state_dict().items()}
    book.follow(first, book(first))
    book.revive(second)
    assert all(torch.equal(value, before[key]) for key, value in book.state_dict().items())
    book.follow(second, book(second))
    assert book.uses.sum().item() == pytest.approx(0.5 * 0.2 + 0.5)


TINY_BOOK = {"codebook_size": 4, "code_size": 2, "codebook_decay": 0.5, "revive_below": 0.1}


def follow_as_rank(rank):
    book = CodeBook(VqVaeSettings(accumulation_steps=2, **TINY_BOOK))
    torch.manual_seed(rank)  # the processes draw differently
    for _ in range(3):
        for outputs in shares_of_two()[rank].chunk(2):
            book.revive(outputs)
            book.follow(outputs, book(outputs))
    return book.state_dict()


def shares_of_two():
    return torch.randn(2, 10, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_two_processes_in_micro_batches_keep_the_same_book_as_one_with_all_the_outputs(tmp_path):
    first, second = in_two_processes(follow_as_rank, tmp_path)
    assert all(torch.equal(first[key], second[key]) for key in first)
    # Again in this process, which draws new codes as the first of the two did, from its first micro-batch.
    book = CodeBook(VqVaeSettings(**TINY_BOOK))
    torch.manual_seed(0)
    share, everything = shares_of_two()[0].chunk(2)[0], shares_of_two().flatten(0, 1)
    book.revive(share)
    for _ in range(3):
        book.follow(everything, book(everything))
    for key, value in book.state_dict().items():
        torch.testing.assert_close(first[key], value)
