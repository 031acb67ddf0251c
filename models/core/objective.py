"""The interface between models and the training loop: losses for each phase, metrics for each image, and panels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from data.dataset import Batch, DatasetInfo, Split
from data.internals import let_compiled_networks_vary
from data.loader import Loader
from models.core.panel import Panel
from models.core.settings import Settings

LOGITS = "logits"  # of a classifier, among what `evaluate` gives of each image


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a training step in which one optimizer takes a step, such as that of a GAN's discriminator."""

    name: str
    optimizer: Optimizer
    every: int = 1  # the phase takes place in every n-th training step only
    searches: bool = False  # whether the optimizer computes the loss several times in one step, for a line search


class Objective(nn.Module, ABC):
    """A model together with the losses that train it: the base class of all models.

    Subclasses must compute their losses in `forward`. Accelerate wraps that method alone, so that gradients are
    synchronised between processes and mixed precision is used only for what is computed there.

    Args:
        settings: the run's.
        info: the facts about its dataset.
    """

    prefers_channels_last = False  # whether its convolutions are faster in that memory layout
    draws_images = False  # whether it reconstructs or generates images; its targets are then the images before cutout
    fewest_images = 1  # that a process needs in a micro-batch; with batch norm, two in any case
    best_metric = "loss"  # validation metric that chooses the best epoch if best_by is empty; "" for the newest epoch
    epoch = 0.0  # how far training has come, in epochs; the training loop sets it before each step
    num_outside_parameters = 0  # of a frozen network that computes the features and is not saved with the model
    outside_weights: Path | None = None  # file of that network's weights; None without one

    def __init__(self, settings: Settings, info: DatasetInfo) -> None:
        super().__init__()
        self.settings = settings
        self.info = info

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of a training step in their order, with newly made optimizers."""

    @abstractmethod
    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the loss terms of a phase, all scalars; the phase minimises "loss", the others are only recorded."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the metrics of each image, [B], so that means are exact even if batches differ in size.

        An entry with more than one number an image, [B, ...], is no metric, but is kept for `split_metrics`. A
        classifier adds its `LOGITS`, [B, num_classes], as `predict` returns them, which saves a second pass.
        """

    def split_metrics(self, kept: Mapping[str, Tensor]) -> dict[str, float]:
        """Return those metrics of a whole split that are not means over its images, such as a macro F1.

        Args:
            kept: the entries of `evaluate` that are no metrics, by name, for all images: [N, ...] on the CPU.
        """
        return {}

    @abstractmethod
    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        """Return the panels, by name, that show what the model has learned so far.

        Args:
            batch: the same images every time, as they are evaluated.
            pictures: the same images as people see them, [B, 3, H, W] in [0, 1].
        """

    def closing_metrics(self, loader: Loader) -> dict[str, float]:
        """Return metrics that take too long to compute in every epoch; this is called once, at the end of a run."""
        return {}

    def closing_panels(self) -> dict[str, Panel]:
        """Return panels, by name, that are needed only once, at the end of a run."""
        return {}

    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one input of the model."""
        return (3, self.info.image_size, self.info.image_size)

    def prepare(
        self, splits: dict[str, Split], accelerator: Accelerator, scratch: Path | None = None
    ) -> dict[str, Split]:
        """Prepare for training and return the splits that loaders are made of.

        A model on a frozen network adds the features of the images to the splits; other models return them as they are.

        Args:
            splits: of images, by name.
            accelerator: of this process.
            scratch: folder for what is computed, if it is not to be kept for later runs.
        """
        return splits

    def mend_average(self, live: "Objective") -> None:
        """Compute again, in this copy with averaged weights, what cannot be averaged, such as vectors of spectral norm.

        The training loop calls this at the end of an epoch; the same live model has to give the same result.
        """

    def compile_nets(self) -> None:
        """Compile each network in place, so that the names of the weights stay the same."""
        for net in self.children():
            compile_net(net)


def compile_net(net: nn.Module) -> None:
    """Compile a network in place, for all that is asked of it: training, evaluation, a last batch that is smaller."""
    let_compiled_networks_vary()
    net.compile()


@contextmanager
def only_trainable(objective: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Compute gradients for the parameters of this optimizer alone, for as long as the context lasts."""
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
    """Return the number of trainable parameters and the number of all parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in objective.parameters()]
    return sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes) + objective.num_outside_parameters


def wants_channels_last(settings: Settings, objective: Objective, device: torch.device) -> bool:
    """Return whether images and weights get the memory layout channels last.

    With the setting `channels_last` at "auto" they do if the model prefers it, except for fp32 on a CPU: with AVX-512
    it halves the speed of convolutions there; with AVX2 alone it adds up to a fifth, but the backward pass of strided
    1x1 convolutions of 3 or 4 channels writes outside its memory (torch 2.14).
    """
    faster = objective.prefers_channels_last and (device.type == "cuda" or settings.mixed_precision == "bf16")
    return {"on": True, "off": False}.get(settings.channels_last, faster)
