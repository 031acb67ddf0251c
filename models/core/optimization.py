"""The optimizers and learning-rate schedules that all models use."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from data.errors import UserError, suggestion
from models.core.settings import Settings

ONE_CYCLE_RISE = 0.3  # share of the steps in which the rate rises; Smith & Topin 2018, https://arxiv.org/abs/1708.07120
ONE_CYCLE_START = 1 / 25  # the first learning rate, as a share of the peak
# Last parts of the names of parameters that have several dimensions and no weight decay: those that timm spares, and
# the codes of a code book, which belong where the encoder's outputs are, not at 0.
UNDECAYED = ("class_token", "cls_token", "pos_embed", "positions", "codes")


class Scale(NamedTuple):
    """By what the learning rate and the weight decay of a parameter are multiplied."""

    lr: float = 1.0
    weight_decay: float = 1.0


def parameter_groups(module: nn.Module, weight_decay: float, scales: Mapping[str, Scale] = {}) -> list[dict]:
    """Return the trainable parameters in two groups for each scale, with and without weight decay.

    Matrices and convolution kernels have weight decay; norms, biases, scalars, class tokens, position embeddings and
    the codes of a code book have none. If there is no weight decay at all, the groups are told by the number of
    dimensions alone, as they are in checkpoints of all versions.

    Args:
        module: holds the parameters.
        weight_decay: of those that have any, before it is scaled.
        scales: of parameters by name; the others have that of 1. Groups of that scale come first.
    """
    groups: dict[tuple, dict] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            spared = bool(parameter.ndim <= 1 or (weight_decay and name.rpartition(".")[2] in UNDECAYED))
            scale = scales.get(name, Scale())
            decay = 0.0 if spared else weight_decay * scale.weight_decay
            new = {"params": [], "weight_decay": decay, "lr_scale": scale.lr}
            groups.setdefault((abs(math.log(scale.lr)), scale, spared), new)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def optimizer_of(module: nn.Module, settings: Settings, scales: Mapping[str, Scale] = {}) -> Optimizer:
    """Return the optimizer that `settings` names, for all trainable parameters of a module, see `build_optimizer`."""
    return build_optimizer(parameter_groups(module, settings.weight_decay, scales), settings)


def build_optimizer(groups: list[dict], settings: Settings) -> Optimizer:
    """Return the optimizer that `settings` names, for groups of parameters as `parameter_groups` returns them.

    Args:
        groups: each with its "params", its "weight_decay", and by "lr_scale" what its learning rate is multiplied by.
        settings: the run's.

    Raises:
        UserError: there is no optimizer of that name, or it cannot be used on this machine.
    """
    lr, momentum, betas = settings.lr, settings.momentum, (settings.beta1, settings.beta2)
    for group in groups:
        group["lr"] = lr * group.pop("lr_scale")
    # Fused: one kernel a step, which takes half the time of the default on a CPU.
    builders: Mapping[str, Callable[[], Optimizer]] = {
        "sgd": lambda: with_momentum(torch.optim.SGD(groups, lr, momentum, nesterov=momentum > 0, fused=True)),
        "adam": lambda: torch.optim.Adam(groups, lr, betas, fused=True),
        "adamw": lambda: torch.optim.AdamW(groups, lr, betas, fused=True),
    }
    build = builders.get(settings.optimizer)
    optimizer = build() if build else timm_optimizer(groups, settings)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def with_momentum(optimizer: torch.optim.SGD) -> torch.optim.SGD:
    """Return SGD whose momentum begins at 0, which changes no step.

    Where the first step overflows in fp16, the fused kernel skips it, and leaves the momentum that torch has only
    allocated for it as it was in memory (torch 2.14).
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class FreshLBFGS(torch.optim.LBFGS):
    """L-BFGS that minimises the loss until it converges in every step, and begins each step without any history.

    The curvature estimates of one step are of no use in the next one, which minimises a different loss.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, max_iterations: int) -> None:
        super().__init__(
            parameters, lr, max_iterations, tolerance_grad=1e-5, history_size=20, line_search_fn="strong_wolfe"
        )
        for group in self.param_groups:
            group["initial_lr"] = lr

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        self.state.clear()
        return super().step(closure)


def timm_optimizer(groups: list[dict], settings: Settings) -> Optimizer:
    """Return an optimizer that timm's factory makes.

    Raises:
        UserError: there is no optimizer of that name, or it cannot be used on this machine.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers  # imported late: takes a second

    # Second-order optimizers need gradients of gradients, which the training loop does not compute.
    names = [str(name) for name in list_optimizers() if not get_optimizer_info(str(name)).second_order]
    if settings.optimizer not in names:
        near = suggestion(settings.optimizer, ["sgd", "adam", "adamw", *names])
        known = near or f": give sgd, adam, adamw or one of timm's {len(names)}, see timm.optim.list_optimizers()"
        raise UserError(f"--optimizer={settings.optimizer} is not known{known}")
    try:
        return create_optimizer_v2(
            groups, opt=settings.optimizer, lr=settings.lr, momentum=settings.momentum, filter_bias_and_bn=False
        )
    except (AssertionError, ImportError, RuntimeError) as error:  # some need a GPU or another package
        raise UserError(f"--optimizer={settings.optimizer} cannot be used here ({error}): choose another") from None


def constant(progress: float) -> float:
    """Return the factor 1, whatever the progress."""
    return 1.0


def cosine(progress: float) -> float:
    """Return a factor that falls from 1 to 0 along half a cosine, as the progress goes from 0 to 1.

    Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983.
    """
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(progress: float) -> float:
    """Return a factor that rises to 1 over the first 30 % of training and then falls to 0, each along half a cosine."""
    if progress < ONE_CYCLE_RISE:
        return 1 - (1 - ONE_CYCLE_START) * cosine(progress / ONE_CYCLE_RISE)
    return cosine((progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))


SCHEDULES: Mapping[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine, "one_cycle": one_cycle}
AFTER_WARMUP = {**SCHEDULES, "one_cycle": cosine}  # a warm-up is the cycle's rise


def lr_factor(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """Return the factor by which the peak learning rate is multiplied in a training step, counted from 0."""
    warmup_steps = settings.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    steps_after = max(1.0, settings.epochs * steps_per_epoch - warmup_steps)
    schedule = (AFTER_WARMUP if warmup_steps else SCHEDULES)[settings.schedule]
    return schedule(min(1.0, (step - warmup_steps) / steps_after))


def lr_of(optimizer: Optimizer, settings: Settings) -> float:
    """Return the present learning rate of the parameters that have the whole of it; the first ones' if none have."""
    groups = optimizer.param_groups
    return next((group for group in groups if group["initial_lr"] == settings.lr), groups[0])["lr"]


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rate of every group to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
