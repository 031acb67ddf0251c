"""What every model looks like to the training loop: losses by phase, per-image metrics, image panels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from analysis.look.panels import Panel
from analysis.record.tracker import Analysis
from data.dataset import Batch, DatasetInfo, Split
from data.loader import Loader
from models.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimizer step of a training step."""

    name: str
    optimizer: Optimizer
    every: int = 1  # run on one training step in `every`
    searches: bool = False  # whether the optimizer computes losses of its own within a step, for a line search


class Objective(nn.Module, ABC):
    """A network, or several, with the losses that train it.

    Losses are computed in `forward` alone: under Accelerate only `forward` synchronises gradients and
    runs in mixed precision.
    """

    prefers_channels_last = False  # whether its convolutions are faster in that memory layout
    best_metric = "loss"  # of the validation split, whose least value names the best epoch; "" for the newest one
    epoch = 0.0  # how far training has come, in epochs; set before each step
    num_outside_parameters = 0  # of networks it builds on that are no part of it, so that they are not saved with it

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The optimizer steps that make one training step, with fresh optimizers."""

    @abstractmethod
    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Scalar loss terms of a phase; the key "loss" is the one differentiated."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-image metrics, each [B], so that the mean over ragged batches and processes is exact."""

    def evaluate_set(self, loader: Loader, epoch: int) -> dict[str, float]:
        """Metrics of a whole split, such as no image has for itself; none by default.

        Args:
            loader: of the validation split, or of the training images where there is none.
            epoch: finished epochs, for what is too dear for every one of them.
        """
        return {}

    @abstractmethod
    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        """Named image grids of a fixed batch; `pictures` are its images as people see them, [B, 3, H, W] in [0, 1]."""

    def analyse(self, loaders: Mapping[str, Loader], split: str, folder: Path) -> Analysis:
        """A closer look at the trained model on a split, its pictures written to `folder`; nothing by default."""
        return Analysis()

    def input_shape(self, info: DatasetInfo) -> tuple[int, ...]:
        """Shape of one input of a batch."""
        return (3, info.image_size, info.image_size)

    def prepare(self, splits: dict[str, Split], info: DatasetInfo, accelerator: Accelerator) -> dict[str, Split]:
        """Get what training needs, and return the splits, with what a frozen network makes of them once and for all."""
        return splits

    def compile_nets(self) -> None:
        """Compile each network in place, which keeps the names of the weights."""
        for net in self.children():
            net.compile()


@runtime_checkable
class Samples(Protocol):
    """A model that draws images of its own."""

    num_labels: int  # classes it can be asked for; 0 where it knows of none

    def sample(self, num: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Images that are a function of the seed, the number and the labels alone, drawn from the model's own prior.

        Args:
            num: of images, all made at once.
            seed: of the noise; the global random state is left alone.
            labels: [num] int64 classes, for a model that has any; None for as many of each class.

        Returns:
            [num, 3, H, W] in [0, 1], on the model's device.
        """


def balanced_labels(num: int, num_labels: int, seed: int) -> Tensor:
    """Labels [num] in turn from one that the seed chooses, so that no class is ahead of another; zeros without any."""
    return (torch.arange(num) + seed) % max(1, num_labels)


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
    """Numbers of trainable and of all parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in objective.parameters()]
    return sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes) + objective.num_outside_parameters


def wants_channels_last(settings: Settings, objective: Objective, device: torch.device) -> bool:
    """Whether images and weights are laid out channels last: in fp32 on a CPU that makes convolutions slower."""
    faster = objective.prefers_channels_last and (device.type == "cuda" or settings.mixed_precision == "bf16")
    return {"on": True, "off": False}.get(settings.channels_last, faster)
