"""Dropout by random numbers of our own: how many values fall, and the formula with the same mask."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.parts import dropout, threads
from models.parts.dropout import Dropout, draw_kept
from models.parts.layers import SelfAttention

P = 0.3
SHAPE = (5, 2, 7, 4)  # [B, heads, T, D]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def two_images_at_a_time(monkeypatch):
    monkeypatch.setattr(dropout, "WEIGHTS_AT_ONCE", 2 * 2 * 7 * 7)


def draw_qkv(dtype=torch.float64):
    return [torch.randn(SHAPE, dtype=dtype).requires_grad_() for _ in range(3)]


def attend(q, k, v, *rest):
    return dropout.attend(torch.stack((q, k, v)), *rest)


def attend_plainly(q, k, v, scale=SHAPE[-1] ** -0.5):
    """The formula, with the mask that `attend` draws two images at a time."""
    kept = torch.cat([draw_kept(torch.Size((num, 2, 7, 7)), P) for num in (2, 2, 1)])
    return (torch.softmax(scale * q @ k.transpose(-2, -1), -1) * kept / (1 - P)) @ v


def seeded(function, *arguments, **options):
    torch.manual_seed(1)
    return function(*arguments, **options)


@pytest.mark.parametrize("probability", [1e-5, 0.1, 0.5, 0.999])
def test_a_probability_is_kept_to_16_bits(probability, monkeypatch):
    every_number = np.arange(2**16, dtype=np.uint16).view(np.uint64)
    monkeypatch.setattr(np.random, "SFC64", lambda seed: type("", (), {"random_raw": lambda self, n: every_number})())
    kept = draw_kept(torch.Size((2**16,)), probability)
    assert (kept == 0).sum() == round(probability * 2**16)
    assert set(kept.tolist()) == {0, 1}


@pytest.mark.parametrize("probability", [1e-6, 1 - 1e-6])
def test_a_probability_that_16_bits_cannot_tell_from_0_or_1_is_torchs(probability):
    x = torch.ones(1000)
    torch.testing.assert_close(seeded(Dropout(probability), x), seeded(F.dropout, x, probability))
    qkv = torch.ones(3, 1, 2, 9, 4)
    ours = seeded(dropout.attend, qkv, probability)
    torch.testing.assert_close(ours, seeded(F.scaled_dot_product_attention, *qkv, dropout_p=probability))


def test_values_fall_independently_of_their_neighbours():
    dropped = 1 - draw_kept(torch.Size((1000, 999)), 0.1).float()
    deviation = 0.3 / 999_000**0.5
    assert dropped.mean().item() == pytest.approx(0.1, abs=5 * deviation)
    centred = dropped - 0.1
    for offset in (1, 2, 3, 4, 999):
        pairs = (centred.flatten()[offset:] * centred.flatten()[:-offset]).mean().item()
        assert pairs == pytest.approx(0, abs=5 * 0.09 / 999_000**0.5)


def test_the_seed_of_torch_decides_what_falls():
    first, again = (seeded(draw_kept, torch.Size((99,)), P) for _ in range(2))
    next_one = draw_kept(torch.Size((99,)), P)
    assert torch.equal(first, again)
    assert not torch.equal(first, next_one)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradients_fall_together_and_the_others_grow(dtype):
    x = torch.randn(3, 50).to(dtype).t().requires_grad_()  # in no simple order of memory
    y = seeded(Dropout(P), x)
    y.backward(torch.ones_like(y))
    kept = seeded(draw_kept, x.shape, P)
    torch.testing.assert_close(y, x * kept / (1 - P))
    torch.testing.assert_close(x.grad, (kept / (1 - P)).to(dtype))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_all_or_nothing_falls_by_torchs_own_dropout(probability):
    x = torch.randn(9)
    assert torch.equal(Dropout(probability)(x), F.dropout(x, probability))
    assert torch.equal(Dropout(P).eval()(x), x)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_the_formula_with_the_same_mask(scale, two_images_at_a_time):
    q, k, v = draw_qkv()
    ours, plain = (seeded(f, q, k, v, *rest) for f, rest in ((attend, (P, scale)), (attend_plainly, (scale or 0.5,))))
    torch.testing.assert_close(ours, plain)
    weights = torch.randn_like(ours)
    gradients, plain_ones = (torch.autograd.grad((out * weights).sum(), (q, k, v)) for out in (ours, plain))
    torch.testing.assert_close(gradients, plain_ones)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_more_threads_give_the_same_bits_and_stay_as_many(num_threads, two_images_at_a_time):
    def step():
        q, k, v = (torch.randn(SHAPE, generator=generator).bfloat16().requires_grad_() for _ in range(3))
        with torch.autocast("cpu", torch.bfloat16):
            out = seeded(attend, q, k, v, P)
        return out, *torch.autograd.grad(out.square().sum(), (q, k, v))

    generator = torch.Generator().manual_seed(3)
    by_one = step()
    torch.set_num_threads(num_threads)
    generator.manual_seed(3)
    by_more = step()
    assert torch.get_num_threads() == num_threads
    assert set(threads.pool(num_threads).map(lambda _: torch.get_num_threads(), range(9))) == {1}
    assert all(torch.equal(one, more) for one, more in zip(by_one, by_more, strict=True))


def test_what_fails_in_a_thread_fails_the_whole():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        threads.do_each(lambda number: 1 // (number - 2), 4)


def test_gradients_of_attention_are_its_slopes(two_images_at_a_time):
    assert torch.autograd.gradcheck(lambda q, k, v: seeded(attend, q, k, v, P), draw_qkv(), fast_mode=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_attention_under_autocast_is_the_formula_but_for_rounding(dtype, tolerance, two_images_at_a_time):
    q, k, v = draw_qkv(dtype)
    with torch.autocast("cpu", dtype):
        ours = seeded(attend, q, k, v, P)
    plain = seeded(attend_plainly, q.double(), k.double(), v.double())
    assert ours.dtype == dtype
    gradients, plain_ones = (torch.autograd.grad(out.sum(), (q, k, v)) for out in (ours, plain))
    for own, exact in zip((ours, *gradients), (plain, *plain_ones), strict=True):
        near = tolerance * exact.abs().max().item()
        torch.testing.assert_close(own.double(), exact.double(), rtol=tolerance, atol=near)


def test_the_weights_that_are_shown_are_those_of_evaluation():
    layer = SelfAttention(dim=8, num_heads=2, dropout=P)
    x = torch.randn(3, 7, 8)
    mixed = layer.weights(x) @ layer.split_heads(x)[2]
    torch.testing.assert_close(layer.eval()(x), layer.out(mixed.transpose(1, 2).flatten(2)))


def test_less_is_kept_for_the_backward_pass_than_torch_keeps():
    def bytes_kept(function):
        kept = {}
        q, k, v = (torch.randn(4, 2, 64, 8).bfloat16().requires_grad_() for _ in range(3))
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.update({x.data_ptr(): x.nbytes}), lambda _: None):
            out = function(q, k, v, dropout_p=P)
        assert out.requires_grad
        return sum(kept.values())

    assert (
        bytes_kept(lambda *qkv, dropout_p: attend(*qkv, dropout_p)) < bytes_kept(F.scaled_dot_product_attention) / 1.5
    )


def test_networks_in_evaluation_draw_nothing():
    net = nn.Sequential(Dropout(P), SelfAttention(8, 2, P)).eval()
    before = torch.get_rng_state()
    net(torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())
