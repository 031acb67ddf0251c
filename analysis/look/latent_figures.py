"""Pictures of a latent space: a map of it, and what a decoder makes of places in it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from analysis.look.panels import as_written
from models.core.panel import Panel

NUM_SAMPLES = 7  # from round each cluster's centre
NUM_BETWEEN = 8  # decoded latents of an interpolation, its two ends among them
NUM_TRAVERSED = 8  # latent units
DEVIATIONS = (-3, -2, -1, 0, 1, 2, 3)
PERPLEXITY = 30
MANY_POINTS = 4_000  # with more of them, t-SNE's forces are computed faster on a grid than in a tree
LEGIBLE_NAMES = 20  # of a legend

Decode = Callable[[Tensor], Tensor]  # latents [B, Z] to images [B, 3, H, W] in [0, 1]
Colouring = tuple[np.ndarray, Mapping[int, str]]  # of points: a number for each, [N], and the name of each number


def embed(latents: np.ndarray, seed: int) -> np.ndarray:
    """Return a map [N, 2] of N >= 2 latents [N, Z] by t-SNE, the same whatever the number of threads.

    openTSNE takes a third of scikit-learn's processor time at 10,000 x 128, and keeps neighbours as well.

    Source: van der Maaten & Hinton 2008; with interpolated forces by Linderman et al. 2019,
        https://arxiv.org/abs/1712.09005
    """
    from openTSNE import TSNE  # imported late: takes a second

    start = "pca" if latents.std(0).max() > 0 else "random"  # equal latents have no principal components
    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(latents) - 1) / 3),
        neighbors="exact",  # the default's approximate ones take longer at 10,000
        negative_gradient_method="fft" if len(latents) > MANY_POINTS else "bh",
        initialization=start,
        random_state=seed,
        n_jobs=torch.get_num_threads(),
    )
    return np.asarray(tsne.fit(latents))


def draw_embedding(points: np.ndarray, colourings: Mapping[str, Colouring], path: Path) -> None:
    """Draw points once for each colouring, side by side.

    Args:
        points: [N, 2].
        colourings: by title; equal numbers have equal colours in all of them.
        path: of the PNG.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(7 * len(colourings), 8), layout="constrained")
    num_colours = max(max(names) for _, names in colourings.values()) + 1
    palette = "tab10" if num_colours <= 10 else "tab20" if num_colours <= 20 else "turbo"
    positions = np.arange(num_colours) if num_colours <= 20 else np.linspace(0, 1, num_colours)
    colours = colormaps[palette](positions)
    size = np.clip(50_000 / len(points), 5, 30)  # square points, of 1/72 inch
    for axes, (title, (numbers, names)) in zip(
        figure.subplots(1, len(colourings), squeeze=False)[0], colourings.items(), strict=True
    ):
        axes.scatter(*points.T, s=size, c=colours[numbers], linewidths=0, alpha=0.8)
        axes.set(title=title, xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")  # a picture as large for few points as for many
        if len(names) <= LEGIBLE_NAMES:
            marks = [Line2D([], [], linestyle="", marker="o", color=colours[number]) for number in names]
            shown = map(as_written, names.values())
            axes.legend(marks, shown, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False)
    figure.savefig(path, dpi=100)


def cluster_panel(decode: Decode, latents: Tensor, assignments: np.ndarray, names: Sequence[str], seed: int) -> Panel:
    """Return a panel with a row for each cluster: its centre decoded, then samples from round it.

    The samples come from a normal distribution with the mean and the deviations of the cluster.

    Args:
        decode: see `Decode`.
        latents: [N, Z].
        assignments: [N] cluster of each.
        names: of the clusters.
        seed: of the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, captions = [], []
    for number, name in enumerate(names):
        members = latents[torch.from_numpy(assignments == number).to(latents.device)]
        if len(members) == 0:  # fewer distinct latents than clusters
            continue
        noise = torch.randn(NUM_SAMPLES, latents.shape[1], generator=generator).to(latents.device)
        centre = members.mean(0)
        rows += [centre[None], centre + noise * members.std(0, correction=0)]
        captions += [name] + [""] * NUM_SAMPLES
    return Panel(decode(torch.cat(rows)), tuple(captions), columns=1 + NUM_SAMPLES)


def interpolate(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Return latents on the way from one to another: their direction turns evenly, their length changes evenly.

    Two latents of many units lie nearly at right angles, so that the straight line between them passes closer to the
    origin than either. There the prior has no mass, and a decoder gives the blurred average image.

    Args:
        start: [P, Z].
        end: [P, Z].
        shares: [T] of the way, in [0, 1].

    Returns:
        [P, T, Z]; on the straight line where both latents have the same direction, or one of them has none.

    Source: White 2016, https://arxiv.org/abs/1609.04468
    """
    share = shares[:, None]  # [T, 1]
    start, end = start[:, None], end[:, None]  # [P, 1, Z]
    lengths = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)  # [P, 1, 1]
    units = [vector / length.clamp(min=1e-12) for vector, length in zip((start, end), lengths, strict=True)]
    angle = (units[0] * units[1]).sum(-1, keepdim=True).clamp(-1, 1).acos()
    turned = (((1 - share) * angle).sin() * units[0] + (share * angle).sin() * units[1]) / angle.sin()
    curved = turned * ((1 - share) * lengths[0] + share * lengths[1])
    straight = (1 - share) * start + share * end
    bends = (angle.sin() > 1e-3) & (lengths[0] > 0) & (lengths[1] > 0)
    return torch.where(bends, curved, straight)


def interpolation_panel(decode: Decode, latents: Tensor, pictures: Tensor, captions: Sequence[str]) -> Panel:
    """Return a panel with a row for each pair of images: the first, decoded latents on the way, the second.

    Args:
        decode: see `Decode`.
        latents: [2 P, Z] of the images, one pair after the other.
        pictures: [2 P, 3, H, W] in [0, 1], the images themselves.
        captions: of the images.
    """
    between = interpolate(latents[::2], latents[1::2], torch.linspace(0, 1, NUM_BETWEEN, device=latents.device))
    decoded = decode(between.flatten(0, 1)).unflatten(0, between.shape[:2])  # [P, T, 3, H, W]
    pairs = pictures.to(decoded).unflatten(0, (-1, 2))  # [P, 2, 3, H, W]
    images = torch.cat([pairs[:, :1], decoded, pairs[:, 1:]], dim=1)
    rows = [(first, *[""] * NUM_BETWEEN, second) for first, second in zip(captions[::2], captions[1::2], strict=True)]
    return Panel(images.flatten(0, 1), sum(rows, ()), columns=NUM_BETWEEN + 2)


def traversal_panel(decode: Decode, latents: Tensor, start: Tensor, picture: Tensor) -> Panel:
    """Return a panel with a row for each of the most active units: what changing that unit does to an image.

    A row is the image, then what its latent gives with the unit set to its mean and -3 to 3 of its deviations.

    Args:
        decode: see `Decode`.
        latents: [N, Z] of many images, for the mean and the deviation of each unit.
        start: [Z], one image's latent.
        picture: [3, H, W] in [0, 1], the image itself.
    """
    deviation, mean = latents.std(0, correction=0), latents.mean(0)
    units = deviation.argsort(descending=True)[:NUM_TRAVERSED]
    steps = torch.tensor(DEVIATIONS, device=latents.device)
    moved = start.repeat(len(units), len(steps), 1)  # [K, T, Z]
    for row, unit in enumerate(units):
        moved[row, :, unit] = mean[unit] + steps * deviation[unit]
    decoded = decode(moved.flatten(0, 1)).unflatten(0, moved.shape[:2])
    original = picture.to(decoded).expand(len(units), 1, -1, -1, -1)
    captions: list[str] = []
    for unit in units.tolist():
        captions += [f"unit {unit}, deviation {deviation[unit]:.2f}", *map(str, DEVIATIONS)]
    return Panel(torch.cat([original, decoded], dim=1).flatten(0, 1), tuple(captions), columns=1 + len(DEVIATIONS))
