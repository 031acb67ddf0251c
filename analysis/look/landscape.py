"""The loss of a trained model round its weights: along lines and planes, and from one trained model to another.

Random directions are made as long as the weights, filter by filter, so that slices of networks whose weights differ in
size can be compared: Li et al. 2018, https://arxiv.org/abs/1712.09913. Batch norm takes its statistics of the images
of each batch, as in training: a point's own statistics, in place of those that were gathered at other weights. In
frozen stages it has none of a batch, and keeps its own.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from analysis.look.trained_run import TrainedRun, best_device
from data.dataset import Batch
from data.errors import UserError
from data.loader import Loader
from data.progress import progress_bar
from data.seeding import mix_seeds

POINTS_AT_ONCE = 32  # on an accelerator, where memory allows
METRICS = ("loss", "accuracy")  # of those that a model evaluates
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

STATISTICS = ("running_mean", "running_var")  # of batch norm, by the ends of their names

Weights = Mapping[str, Tensor]  # of a model, by name


class Losses(NamedTuple):
    """What a model reaches at some points: means over the images.

    Attributes:
        loss: [P].
        accuracy: [P] in [0, 1]; None for a model that does not classify.
    """

    loss: np.ndarray
    accuracy: np.ndarray | None


class Evaluated(nn.Module):
    """A model whose forward pass is its evaluation."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:  # [B, 3, H, W], [B] -> [B] each
        metrics = self.objective.evaluate(Batch(images, labels))  # type: ignore[operator]
        return {name: metrics[name] for name in METRICS if name in metrics}


class LossFunction:
    """The loss of a run's model as a function of its trainable weights.

    Args:
        run: the trained run.
        split: whose images it is the loss of.
        num_images: of the split, at most, of all classes in proportion.
        keep_statistics: let batch norm use its running statistics, which then count as weights, in place of those of
            the images.

    Attributes:
        weights: of the run.
        across: names of those weights whose second dimension, and not the first, is that of the outputs.

    Raises:
        UserError: the run has no such split, there are fewer than two images, or the model is not evaluated on images
            or has no loss.
    """

    def __init__(self, run: TrainedRun, split: str, num_images: int, keep_statistics: bool = False) -> None:
        shape = (3, run.info.image_size, run.info.image_size)
        if run.objective.input_shape() != shape:
            raise UserError(f"{run.settings.model} is trained on features of a frozen network: name a run on images")
        loader = Loader(run.split(split), run.info, best_device())
        num = min(num_images, len(loader))
        if num < 2:
            raise UserError(f"--images: {num} {split} image is too little for a loss: give 2 or more")
        num_batches = -(-num // run.settings.eval_batch_size)
        self.batches = [loader.batch(part) for part in loader.stratified[:num].tensor_split(num_batches)]
        self.num_images = num
        objective = copy.deepcopy(run.objective).to(loader.device).eval()
        self.evaluated = Evaluated(objective)
        self.weights = {name: p.detach() for name, p in objective.named_parameters() if p.requires_grad}
        if keep_statistics:
            self.weights |= {name: buffer for name, buffer in objective.named_buffers() if name.endswith(STATISTICS)}
        else:
            for norm in training_batch_norms(objective):
                replace_all_batch_norm_modules_(norm)
        self.across = {f"{name}.weight" for name, it in objective.named_modules() if isinstance(it, TRANSPOSED)}
        self.points_at_once = 1 if loader.device.type == "cpu" else POINTS_AT_ONCE
        with torch.no_grad():
            known = self.evaluate({}, self.batches[0])
        if "loss" not in known:
            raise UserError(f"{run.settings.model} has no loss in evaluation: name a run of a model that has one")
        self.names = list(known)

    def evaluate(self, weights: Weights, batch: Batch) -> dict[str, Tensor]:
        """Return the metrics of each image of a batch with these weights, all [B]; gradients may be taken of them."""
        own = {f"objective.{name}": weight for name, weight in weights.items()}
        return functional_call(self.evaluated, own, (batch.images, batch.labels))

    def means(self, weights: Weights) -> Tensor:
        """Return the means of the metrics over the images: [metrics]."""
        totals = [torch.stack([v.sum() for v in self.evaluate(weights, batch).values()]) for batch in self.batches]
        return torch.stack(totals).sum(dim=0) / self.num_images

    @torch.no_grad()
    def along(
        self, origin: Weights, directions: Sequence[Weights], steps: np.ndarray, what: str, points_at_once: int = 0
    ) -> Losses:
        """Return what the model reaches at points of a line or a plane; several are computed at once where they can be.

        Args:
            origin: the weights that the steps begin at.
            directions: one for a line, two for a plane.
            steps: [P, directions]; how many times each direction is added.
            what: name of the progress bar.
            points_at_once: 0 for as many as the device's memory allows, on a CPU one.
        """
        at_once = points_at_once or self.points_at_once
        found: list[Tensor] = []
        with progress_bar(what, len(steps), "points") as bar:
            while len(found) < len(steps):
                part = torch.from_numpy(steps[len(found) : len(found) + at_once])
                try:
                    new = self.at(origin, directions, part)
                except torch.OutOfMemoryError:
                    if at_once == 1:
                        raise
                    at_once //= 2
                    continue
                except RuntimeError:  # vmap cannot do all that networks do
                    if at_once == 1:
                        raise
                    at_once = 1
                    continue
                found += new
                bar.update(len(new))
        values = dict(zip(self.names, torch.stack(found).cpu().double().numpy().T, strict=True))
        return Losses(values["loss"], values.get("accuracy"))

    def at(self, origin: Weights, directions: Sequence[Weights], steps: Tensor) -> Tensor:
        """Return the means at the points that steps [P, directions] lead to, all at once: [P, metrics]."""

        def point(own: Tensor) -> dict[str, Tensor]:  # [directions]
            return {
                name: start + sum(step * direction[name] for step, direction in zip(own, directions, strict=True))
                for name, start in origin.items()
            }

        steps = steps.to(next(iter(origin.values())))
        if len(steps) == 1:
            return self.means(point(steps[0]))[None]
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels take no batch of points
            return vmap(lambda own: self.means(point(own)))(steps)


def training_batch_norms(objective: nn.Module) -> list[nn.Module]:
    """Return the batch norms that take the statistics of a batch in training: not those of frozen stages."""
    modules = [module for module in objective.train().modules() if module.training]
    objective.eval()
    return [module for module in modules if isinstance(module, BATCH_NORMS)]


def random_direction(weights: Weights, *seeds: int, across: Collection[str] = ()) -> dict[str, Tensor]:
    """Return a random direction each filter of which is as long as that of the weights; biases and norms have none.

    A filter is what makes one output: a row of a matrix, a kernel of a convolution. So a step of 1 goes as far as the
    weights are from 0.

    Args:
        weights: of a model.
        seeds: of the direction.
        across: names of the weights whose second dimension is that of the outputs: of transposed convolutions.
    """
    generator = torch.Generator().manual_seed(mix_seeds(*seeds, num=1)[0])
    direction = {}
    for name, weight in weights.items():
        if weight.ndim < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        of_filter = [dim for dim in range(weight.ndim) if dim != (name in across)]
        own, wanted = (torch.linalg.vector_norm(tensor, dim=of_filter, keepdim=True) for tensor in (drawn, weight))
        direction[name] = drawn * (wanted / own)
    return direction


def difference(to: Weights, start: Weights) -> dict[str, Tensor]:
    """Return the direction in which a step of 1 leads from one model's weights to another's."""
    return {name: to[name] - weight for name, weight in start.items()}


def line(low: float, high: float, num: int) -> np.ndarray:
    """Return `num` steps along a line, evenly from `low` to `high`: [num, 1]."""
    return np.linspace(low, high, num)[:, None]


def plane(reach: float, num: int) -> np.ndarray:
    """Return the steps of a square grid of num x num points, row by row, from -reach to reach: [num^2, 2]."""
    axis = np.linspace(-reach, reach, num)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
