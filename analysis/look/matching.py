"""Hidden units of one network are put in the order of those of another that they resemble most.

The order of units is chance: permuting them, with the weights above, changes nothing that a network computes, but where
it lies. Only networks whose layers form a chain are matched here, such as mlp and cnn.

Source: weight matching, algorithm 1 of Ainsworth et al. 2022, https://arxiv.org/abs/2209.04836
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from data.seeding import mix_seeds

MOST_ROUNDS = 100  # over all layers
WEIGHTED = nn.Linear | nn.Conv2d
PASSING = nn.ReLU | nn.MaxPool2d | nn.AdaptiveAvgPool2d | nn.Flatten | nn.Dropout  # units pass them in their order


class Hidden(NamedTuple):
    """A hidden layer's units: the names of the tensors whose first dimension they are, and of the matrix above."""

    outputs: list[str]  # weight and bias of the layer, then what a batch norm above it has
    above: str  # its second dimension holds the units, each of them `inputs / units` times in a row


def chain_of(net: nn.Module) -> list[Hidden]:
    """Return the hidden layers of a network whose layers form a chain, lowest first.

    Raises:
        UserError: they do not, or are of kinds that are not known here.
    """
    hidden: list[Hidden] = []
    below: list[str] = []  # tensors of the layer whose units have no matrix above yet
    for name, module in net.named_modules():
        if isinstance(module, WEIGHTED):
            if below:
                hidden.append(Hidden(below, f"{name}.weight"))
            below = [f"{name}.{key}" for key, _ in module.named_parameters()]
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            below += [f"{name}.{key}" for key, tensor in module.state_dict().items() if tensor.ndim]
        elif not isinstance(module, PASSING | nn.Sequential):
            raise UserError(f"--match: {type(net).__name__} is no chain of layers: only mlp and cnn are matched")
    return hidden


def matched(net: nn.Module, own: Mapping[str, Tensor], other: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return a network's state with its hidden units in the order in which they resemble another's most.

    Each layer in turn, in a random order, takes the permutation with the greatest inner product of its weights and the
    other network's, given those of its neighbours, until none changes.

    Args:
        net: of the structure of both.
        own: state of the network to permute, by name as in `net`.
        other: state of the other one.
        seed: of the order of the layers.

    Raises:
        UserError: the layers form no chain.
    """
    from scipy.optimize import linear_sum_assignment  # imported late: takes half a second

    chain = chain_of(net)
    state = dict(own)
    random = np.random.default_rng(mix_seeds(seed, num=1))
    for _ in range(MOST_ROUNDS):
        has_changed = False
        for layer in random.permutation(len(chain)):
            pairs = zip(by_unit(state, chain[layer]), by_unit(other, chain[layer]), strict=True)
            similarity = torch.stack([theirs @ ours.T for ours, theirs in pairs]).sum(dim=0)  # [units, units]
            _, order = linear_sum_assignment(similarity.double().numpy(), maximize=True)
            if (order != np.arange(len(order))).any():
                has_changed = True
                permute(state, chain[layer], torch.from_numpy(order))
        if not has_changed:
            break
    return state


def by_unit(state: Mapping[str, Tensor], hidden: Hidden) -> list[Tensor]:
    """Return the weights of each unit of a layer, [units, rest] each; running statistics do not count."""
    below = [state[name] for name in hidden.outputs if "running" not in name]
    above = state[hidden.above].unflatten(1, (len(below[0]), -1)).transpose(0, 1)
    return [tensor.reshape(len(tensor), -1) for tensor in (*below, above)]


def permute(state: dict[str, Tensor], hidden: Hidden, order: Tensor) -> None:
    """Put a layer's units in another order, in all the tensors that a state has of them."""
    for name in state.keys() & hidden.outputs:
        state[name] = state[name][order]
    above = state[hidden.above]
    state[hidden.above] = above.unflatten(1, (len(order), -1))[:, order].flatten(1, 2)
