"""The prior over codes: what it sees, its probabilities, and samples."""

import pytest
import torch

from models.parts.code_prior import CodePrior

pytestmark = pytest.mark.usefixtures("one_thread")


def prior_of(num_codes=32, num_positions=64, depth=1):
    return CodePrior(num_codes, num_positions, width=16, depth=depth, heads=2).eval()


def test_each_layer_of_the_prior_starts_with_weights_of_its_own():
    prior = prior_of(depth=3)
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
    prior = prior_of()
    codes = torch.randint(32, (2, 63))
    changed = codes.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 32
    before, after = prior(codes), prior(changed)
    assert before.shape == (2, 64, 32)
    torch.testing.assert_close(after[:, :21], before[:, :21])
    assert (after[:, 21:] - before[:, 21:]).abs().amax(dim=(0, 2)).min() > 1e-6


@torch.no_grad()
def test_the_priors_nats_are_the_sum_of_its_conditionals():
    prior = prior_of()
    codes = torch.randint(32, (3, 64))
    expected = torch.zeros(3)
    for t in range(64):
        log_probabilities = prior(codes[:, :t])[:, -1].log_softmax(1)
        expected -= log_probabilities[torch.arange(3), codes[:, t]]
    torch.testing.assert_close(prior.nll(codes), expected, rtol=1e-5, atol=1e-3)


@torch.no_grad()
def test_sampled_codes_come_by_their_probabilities_and_are_the_same_in_every_run():
    prior = prior_of(5, 4)
    samples = prior.sample(4000, seed=0)
    assert samples.shape == (4000, 4)
    assert torch.equal(samples, prior.sample(4000, seed=0))
    shares = torch.bincount(samples[:, 0], minlength=5) / 4000
    expected = prior(samples[:1, :0])[0, -1].softmax(0)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.03)
