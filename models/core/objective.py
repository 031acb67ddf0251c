"""What every model looks like to the training loop: loss terms by phase, per-image metrics, panels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from data.dataset import Batch, DatasetInfo, Split
from data.loader import Loader
from models.core.panel import Panel
from models.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimizer step of a training step."""

    name: str
    optimizer: Optimizer
    every: int = 1  # take the step in one training step of `every`
    searches: bool = False  # whether the optimizer computes several losses in one step, for a line search


class Objective(nn.Module, ABC):
    """A network, or several, with the losses that train it.

    Compute losses in `forward` alone: under Accelerate nothing else synchronises gradients and runs in mixed precision.
    """

    settings: Settings
    info: DatasetInfo
    prefers_channels_last = False  # whether its convolutions are faster in that memory layout
    best_metric = "loss"  # validation metric whose least value names the best epoch; "" where the newest epoch is best
    epoch = 0.0  # how far training has come, in epochs; the training loop sets it before each step
    num_outside_parameters = 0  # of a frozen network that it builds on, but that is not saved with it

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """Return the optimizer steps that make one training step, with fresh optimizers."""

    @abstractmethod
    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the loss terms of a phase, all scalars; "loss" is the one that is differentiated."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return metrics of each image, all [B], so that means over uneven batches and processes are exact."""

    @abstractmethod
    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        """Return named grids of a fixed batch; `pictures` are its images as people see them, [B, 3, H, W] in [0, 1]."""

    def closing_metrics(self, loader: Loader) -> dict[str, float]:
        """Return metrics of a split that take too long for every epoch: they are computed once, at a run's end."""
        return {}

    def closing_panels(self) -> dict[str, Panel]:
        """Return named grids that are drawn once, at a run's end."""
        return {}

    def input_shape(self, info: DatasetInfo) -> tuple[int, ...]:
        """Return the shape of one input of a batch."""
        return (3, info.image_size, info.image_size)

    def prepare(self, splits: dict[str, Split], info: DatasetInfo, accelerator: Accelerator) -> dict[str, Split]:
        """Get ready for training, and return the splits; a frozen network adds the features of their images."""
        return splits

    def compile_nets(self) -> None:
        """Compile each network in place, which keeps the names of the weights."""
        for net in self.children():
            net.compile()


@contextmanager
def only_trainable(objective: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Let only the optimizer's own parameters receive gradients, so that a phase leaves the others' alone."""
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    others = [p for p in objective.parameters() if p.requires_grad and id(p) not in own]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def count_parameters(objective: Objective) -> tuple[int, int]:
    """Return the number of trainable parameters and of all."""
    sizes = [(p.numel(), p.requires_grad) for p in objective.parameters()]
    return sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes) + objective.num_outside_parameters


def wants_channels_last(settings: Settings, objective: Objective, device: torch.device) -> bool:
    """Return whether images and weights are laid out channels last, which in fp32 slows a CPU's convolutions down."""
    faster = objective.prefers_channels_last and (device.type == "cuda" or settings.mixed_precision == "bf16")
    return {"on": True, "off": False}.get(settings.channels_last, faster)
