"""The coordinate check: do activations, and what a few steps change of them, have one size at all widths?

In muP they do; in the standard parametrisation what a step changes grows with the width, so that each width wants a
learning rate of its own. Networks of several widths take the same steps on one batch, and a straight line is laid
through the logarithm of each size over that of the width: its slope is the power of the width that the size goes with.

Source: appendix D.1 of Yang & Hu et al. 2022, https://arxiv.org/abs/2203.03466
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from analysis.look.trained_run import best_device
from data.dataset import Batch, DatasetInfo
from data.errors import UserError
from data.loader import Loader
from data.progress import progress_bar
from data.seeding import mix_seeds, seed_everything
from models.core.settings import Settings, kinds
from models.loading import build_objective, read_data
from models.parts.layers import SelfAttention
from models.parts.parametrization import WidthSettings
from models.registry import MODELS

NUM_WIDTHS = 4  # by default, each twice the one before, up to the model's own
PARAMETRIZATIONS: tuple[Any, ...] = ("standard", "mup")
SCORES = ".scores"  # what the name of a layer of attention ends with, where it stands for its scores
OFF = {"dropout": 0.0, "mixup": 0.0, "cutmix": 0.0}  # chance that would hide what a step does


class Slopes(NamedTuple):
    """The powers of the width that the sizes of a layer go with after the last step."""

    activation: float
    change: float


@dataclass(frozen=True)
class Coordinates:
    """The sizes of a network's activations, root mean squares, at several widths.

    Attributes:
        widths: [W], the narrowest first.
        activations: of each layer, lowest first, [W, seeds, steps]: after each step.
        changes: of each layer, [W, seeds, steps]: of the difference to the activations before the first step.
    """

    widths: Sequence[int]
    activations: Mapping[str, np.ndarray]
    changes: Mapping[str, np.ndarray]

    def slopes(self) -> dict[str, Slopes]:
        """Return the slopes of each layer, lowest first."""
        return {
            layer: Slopes(*(slope(self.widths, sizes[layer][..., -1]) for sizes in (self.activations, self.changes)))
            for layer in self.activations
        }

    def outside(self, tolerance: float) -> list[str]:
        """Return the layers whose activations grow with the width, or whose changes grow or vanish with it.

        Activations may shrink. So may changes of the logits and of scores of attention: these are means over the width,
        which in narrow networks hold much chance that a wide one averages out.

        Args:
            tolerance: slope up to which a size counts as staying.
        """
        *hidden, logits = slopes = self.slopes()
        means = {logits, *(layer for layer in hidden if layer.endswith(SCORES))}
        return [
            layer
            for layer, own in slopes.items()
            if not (max(own) <= tolerance and (layer in means or own.change >= -tolerance))
        ]


def slope(widths: Sequence[int], sizes: np.ndarray) -> float:
    """Return the slope of log size over log width by least squares; inf where a size is 0 or no finite number.

    Args:
        widths: [W].
        sizes: [W, seeds]; seeds count by their geometric mean.
    """
    if not np.isfinite(sizes).all() or (sizes <= 0).any():
        return float("inf")
    return float(np.polyfit(np.log(widths), np.log(sizes).mean(axis=1), 1)[0])


def default_widths(settings: WidthSettings) -> list[int]:
    """Return the widths that a model is checked at: up to its own, each twice the one before."""
    return [max(1, settings.width >> halvings) for halvings in reversed(range(NUM_WIDTHS))]


def check_coordinates(
    settings: Settings, widths: Sequence[int], num_seeds: int, num_steps: int
) -> dict[str, Coordinates]:
    """Measure the coordinates of a model in each parametrisation; at the narrowest width these are one and the same.

    Args:
        settings: of a run of the model; their seed is the first one.
        widths: at least two, of which the narrowest is the base width; empty for `default_widths`.
        num_seeds: networks of each width.
        num_steps: of training, all on the first batch of the training images.

    Raises:
        UserError: the model has no parametrisation, the widths are no two, or settings do not go together.
    """
    if not isinstance(settings, WidthSettings):
        known = [name for name, model in MODELS.items() if issubclass(model.settings_class, WidthSettings)]
        raise UserError(f"--model={settings.model} has no parametrisation: give {', '.join(known)}")
    widths = sorted(set(widths or default_widths(settings)))
    if len(widths) < 2:
        raise UserError(f"--widths {' '.join(map(str, widths))}: a slope takes two widths or more")
    if settings.seed + num_seeds > 2**32:
        raise UserError(f"--seed={settings.seed} leaves no {num_seeds} seeds: lower it")
    off: dict[str, Any] = {key: value for key, value in OFF.items() if key in kinds(type(settings))}
    settings = replace(settings, base_width=widths[0], **off)
    info, splits = read_data(settings)
    loader = Loader(splits["train"], info, best_device())
    batch = loader.batch(torch.arange(min(settings.batch_size, len(loader))))
    seeds = range(settings.seed, settings.seed + num_seeds)
    networks = list(itertools.product(PARAMETRIZATIONS, widths, seeds))
    found: dict[Any, list[dict[str, list]]] = {name: [] for name in PARAMETRIZATIONS}
    for name, width, seed in progress_bar("coordinate check", len(networks), "networks", items=networks):
        own = replace(settings, parametrization=name, width=width, seed=seed)
        found[name].append(follow(own, info, num_steps, batch))
    return {name: gathered(sizes, widths) for name, sizes in found.items()}


def gathered(sizes: Sequence[Mapping[str, list]], widths: Sequence[int]) -> Coordinates:
    """Return the coordinates of networks of some widths, by what `follow` returns of each, width by width."""
    tables = {layer: np.array([own[layer] for own in sizes]) for layer in sizes[0]}  # [networks, steps, 2]
    tables = {layer: table.reshape(len(widths), -1, *table.shape[1:]) for layer, table in tables.items()}
    return Coordinates(widths, *({layer: table[..., i] for layer, table in tables.items()} for i in (0, 1)))


def follow(settings: WidthSettings, info: DatasetInfo, num_steps: int, batch: Batch) -> dict[str, list]:
    """Train one network on a batch; return the size of each layer's activations and of their change after each step."""
    objective: Any = build_objective(settings, info).to(batch.images.device).train()
    [phase] = objective.phases()
    sizes: dict[str, list] = {}
    start = activations_of(objective.net, batch.images)
    for seed in mix_seeds(settings.seed, num=num_steps):
        seed_everything(seed)
        objective(batch, phase.name)["loss"].backward()
        phase.optimizer.step()
        phase.optimizer.zero_grad(set_to_none=True)
        for layer, now in activations_of(objective.net, batch.images).items():
            sizes.setdefault(layer, []).append((root_mean_square(now), root_mean_square(now - start[layer])))
    return sizes


def root_mean_square(values: Tensor) -> float:
    """Return the size of a tensor's entries."""
    return values.float().square().mean().sqrt().item()


@torch.no_grad()
def activations_of(net: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the outputs of a network's layers that have weights, and the scores of its attention, by layer."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):

            def keep(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
                found[name] = output.detach().clone()  # some layers above change it in place

            handles.append(module.register_forward_hook(keep))
        elif isinstance(module, SelfAttention):

            def keep_scores(module: SelfAttention, inputs: Any, output: Tensor, name: str = name) -> None:
                found[f"{name}{SCORES}"] = module.scores(inputs[0]).detach()

            handles.append(module.register_forward_hook(keep_scores))
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
