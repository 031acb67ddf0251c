import functools

import pytest
import torch
from torch import nn

from models.core.objective import compile_net, count_parameters, only_trainable


class InterruptedStepError(Exception):
    pass


@pytest.fixture
def pair():
    """Two networks, the second with a frozen layer, and the optimizer of the first."""
    nets = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1))})
    nets["b"][0].requires_grad_(False)
    return nets, torch.optim.SGD(nets["a"].parameters(), lr=0.1)


def flags(module):
    return {name: p.requires_grad for name, p in module.named_parameters()}


def test_only_the_optimizers_own_parameters_get_gradients(pair):
    nets, optimizer = pair
    with only_trainable(nets, optimizer):
        assert {name for name, trainable in flags(nets).items() if trainable} == {"a.weight", "a.bias"}
        nets["b"](nets["a"](torch.randn(5, 3))).sum().backward()
    assert {name for name, p in nets.named_parameters() if p.grad is not None} == {"a.weight", "a.bias"}


def test_flags_are_restored_and_what_was_frozen_stays_frozen(pair):
    nets, optimizer = pair
    before = flags(nets)
    assert not all(before.values())
    with only_trainable(nets, optimizer):
        pass
    assert flags(nets) == before


def test_flags_are_restored_after_an_exception(pair):
    nets, optimizer = pair
    before = flags(nets)
    with pytest.raises(InterruptedStepError), only_trainable(nets, optimizer):
        raise InterruptedStepError
    assert flags(nets) == before


def test_a_frozen_parameter_of_the_optimizer_itself_stays_frozen(pair):
    nets, optimizer = pair
    nets["a"].bias.requires_grad_(False)
    with only_trainable(nets, optimizer):
        assert not nets["a"].bias.requires_grad
    assert not nets["a"].bias.requires_grad


def with_outside(nets, num_parameters):
    nets.num_outside_parameters = num_parameters
    return nets


def test_count_parameters_tells_trainable_from_all(pair):
    nets, _ = pair
    assert count_parameters(with_outside(nets, 0)) == (3 * 4 + 4 + 2 + 1, 3 * 4 + 4 + 4 * 2 + 2 + 2 + 1)


def test_a_shared_parameter_is_counted_once():
    layer = nn.Linear(3, 4)
    assert count_parameters(with_outside(nn.Sequential(layer, layer), 0)) == (16, 16)


def test_parameters_of_networks_outside_count_in_the_total_alone():
    assert count_parameters(with_outside(nn.Linear(3, 4), 100)) == (16, 116)


@pytest.mark.slow
def test_compiled_networks_of_one_class_stay_compiled_in_all_that_is_asked_of_them(monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    nets = [nn.Sequential(nn.Linear(size, 2), nn.Dropout(0.5)) for size in (3, 4, 5)]
    for net in nets:
        compile_net(net)
        for is_training in (True, False):
            for is_recorded in (True, False):
                with torch.set_grad_enabled(is_recorded):
                    net.train(is_training)(torch.zeros(6, net[0].in_features))
    assert torch._dynamo.utils.counters["frames"]["ok"] == 12
