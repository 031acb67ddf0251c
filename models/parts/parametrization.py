"""How initial weights and learning rates change with the width of a network: not at all, or by muP.

A wider network of the standard parametrisation wants a lower learning rate. In the maximal update parametrisation, muP,
activations and what a step changes of them have one size at all widths, so that the best learning rate of a narrow
network is about that of a wide one. Here r is how many times as wide as at `base_width` a network is; the table says
what its weights have to have more, in comparison with the network of that width, than the standard parametrisation:

    weights                                     initial deviation   input times   rate of adam, adamw   of sgd
    on the pixels; biases, norms and tokens     1                   1             1                     r
    between hidden layers                       r^-1/2              1             1/r                   1
    of the logits                               1                   1/r           1                     r

At `base_width` itself muP is the standard parametrisation, bit by bit. The scores of attention are divided by the width
of a head, in place of its square root. Weight decay shrinks weights by rate x decay in a step. With
`decay_scaling=independent` the decay is divided by the rate's factor, so that this product is the same at all widths,
which transfers learning rates best in practice; coupled leaves the decay, so that wide layers shrink less. The penalty
of adam goes through its normalisation, for which no scaling is exact; it gets the same factors.

Sources: Yang & Hu et al. 2022, table 8 of https://arxiv.org/abs/2203.03466; of weight decay, Kosson et al. 2025,
https://arxiv.org/abs/2510.19093
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from data.dataset import DatasetInfo
from data.errors import UserError
from data.seeding import seed_everything
from models.core.optimization import Scale
from models.core.settings import Count, PositiveInt
from models.parts.classification import ClassifierSettings


@dataclass(frozen=True, kw_only=True)
class WidthSettings(ClassifierSettings):
    """The settings of classifiers whose width can grow by a parametrisation."""

    width: PositiveInt = 64
    parametrization: Literal["standard", "mup"] = "standard"
    """How initial weights and learning rates change with the width. standard: the rates not at all; mup: so that the
    best learning rate stays what it is at `base_width`, https://arxiv.org/abs/2203.03466."""
    base_width: Count = 0
    """Width for which the learning rate and the other sizes of layers are given: at another width these sizes are
    multiplied by width / base_width. 0: the sizes stay; mup needs a base."""
    decay_scaling: Literal["independent", "coupled"] = "independent"
    """What mup makes of weight decay. independent: a step shrinks weights by the same share at all widths; coupled:
    by less where the learning rate is less, https://arxiv.org/abs/2510.19093."""

    def grown(self, size: int) -> int:
        """Return the size of a layer that is given for `base_width`, at the width that the network has."""
        return max(1, size * self.width // self.base_width) if self.base_width else size


class Growth(NamedTuple):
    """How many times as many inputs and outputs a tensor of weights has than at the base width."""

    inputs: float
    outputs: float

    @property
    def is_of_logits(self) -> bool:
        """Whether its inputs grow with the width and its outputs do not."""
        return self.inputs != 1 and self.outputs == 1


# By what the learning rate of a tensor of weights is multiplied.
RATES: Mapping[str, Callable[[Growth], float]] = {
    "sgd": lambda growth: growth.inputs if growth.is_of_logits else growth.outputs / growth.inputs,
    "adam": lambda growth: 1.0 if growth.is_of_logits else 1 / growth.inputs,
    "adamw": lambda growth: 1.0 if growth.is_of_logits else 1 / growth.inputs,
}
AnySettings = TypeVar("AnySettings", bound=WidthSettings)


def parametrized(
    make_net: Callable[[AnySettings, DatasetInfo], nn.Module], settings: AnySettings, info: DatasetInfo
) -> tuple[nn.Module, dict[str, Scale]]:
    """Return a network with its initial weights, and the scale of learning rate and decay of its parameters, by name.

    Args:
        make_net: makes the network that settings describe, with the initial weights of the standard parametrisation.
        settings: the run's.
        info: the dataset's facts.

    Raises:
        UserError: muP is not known for the optimizer, or there is no base width.
    """
    is_mup = settings.parametrization == "mup"
    if is_mup and settings.optimizer not in RATES:
        raise UserError(f"--optimizer={settings.optimizer} has no muP here: give {', '.join(RATES)}")
    if is_mup and not settings.base_width:
        raise UserError("--parametrization=mup needs --base_width: the width at which --lr was found")
    net = make_net(settings, info)
    if not is_mup or settings.width == settings.base_width:
        return net, {}
    seed_everything(settings.seed)
    base = make_net(replace(settings, width=settings.base_width), info)
    scales = {}
    for place, module in net.named_modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            name = f"{place}.{own_name}".lstrip(".")
            wanted = base.get_parameter(name)
            growth = growth_of(module, parameter, wanted)
            match_deviation(parameter, wanted, 1.0 if growth.is_of_logits else growth.inputs**-0.5)
            if growth.is_of_logits:
                module.register_forward_pre_hook(partial(multiply_input, factor=1 / growth.inputs))
            rate = RATES[settings.optimizer](growth)
            scales[name] = Scale(rate, 1 / rate if settings.decay_scaling == "independent" else 1.0)
    return net, scales


def growth_of(module: nn.Module, parameter: Tensor, base: Tensor) -> Growth:
    """Return how a parameter of a module has grown since the base width; biases, norms and tokens have no inputs."""
    if isinstance(module, nn.Linear | nn.Conv2d) and parameter.ndim > 1:
        return Growth(parameter.shape[1] / base.shape[1], parameter.shape[0] / base.shape[0])
    return Growth(1.0, parameter.numel() / base.numel())


@torch.no_grad()
def match_deviation(parameter: Tensor, base: Tensor, factor: float) -> None:
    """Scale initial weights so that their root mean square is `factor` times that of the base width's.

    So it does not matter by which rule they were drawn; what is zero stays zero.
    """
    own, wanted = (tensor.square().mean().sqrt() for tensor in (parameter, base))
    if own > 0:
        parameter.mul_(factor * wanted / own)


def multiply_input(module: nn.Module, inputs: tuple[Any, ...], *, factor: float) -> Tensor:
    """Return the one input of a layer times a factor: the hook of the layer that gives the logits."""
    return inputs[0] * factor


def attention_scale(settings: WidthSettings, num_heads: int) -> float | None:
    """Return what the scores of attention are multiplied by; None for the standard, 1 / sqrt(d) with heads of width d.

    In muP it is 1 / d, times the root of d at the base width, where both are one.
    """
    if settings.parametrization == "standard":
        return None
    return (settings.base_width / num_heads) ** 0.5 / (settings.width / num_heads)
