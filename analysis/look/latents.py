"""A closer look at a latent space: how much of the classes it holds, beside raw pixels and an untrained network.

`analyse_latents` does all of it: `encode` some images, `score` their latents, `draw` pictures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.look.latent_figures import (
    Colouring,
    Decode,
    cluster_panel,
    draw_embedding,
    embed,
    interpolation_panel,
    traversal_panel,
)
from analysis.look.latent_scores import Agreement, Clustering, agreement, cluster, compare
from analysis.look.panels import render
from analysis.look.trained_run import TrainedRun, best_device
from analysis.record.findings import Analysis, Table
from data.errors import UserError
from data.loader import Loader
from data.seeding import weights_drawn_from
from data.visible import counted, percent, warn
from models.core.abilities import HasLatents
from models.core.panel import Panel
from models.core.precision import autocast_on
from models.registry import find_model

NUM_CLUSTERS = 10  # where there are no classes
NUM_PAIRS = 8  # of images that are interpolated between
FEWEST = 2  # images of a look, which interpolates between two

Encode = Callable[[Tensor], Tensor]  # a batch's images [B, 3, H, W] to latents [B, Z]


@dataclass(frozen=True)
class Encoded:
    """Some images of a split, and their features by each of several encoders.

    Attributes:
        loader: of the split.
        index: [N] indices of the images in it.
        labels: [N]; zeros without classes.
        features: [N, Z] by the encoder's name: `latent` of the trained model, `random` of an untrained one, `pixels`.
    """

    loader: Loader
    index: Tensor
    labels: np.ndarray
    features: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scores:
    """What latents hold of the classes; without classes only the clusters are known.

    Attributes:
        clustering: of the latents.
        agreed: how far those clusters are the classes.
        metrics: by name, such as latent/nmi and pixels/nmi.
        table: the metrics with a row for each encoder.
    """

    clustering: Clustering
    agreed: Agreement | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    table: Table | None = None


def analyse_latents(model: Any, loaders: Mapping[str, Loader], split: str, folder: Path) -> Analysis:
    """Look closely at a model's latent space, and return what there is to log.

    For 10,000 images of CIFAR-10 and 128 units, one CPU core takes about a minute beside the networks' own time:
    half of it for t-SNE, the rest for the raw pixels.

    Args:
        model: one that `HasLatents`, in evaluation mode; its setting `latent_images` is the number of images looked at.
        loaders: of its splits.
        split: whose images are looked at; probes and neighbours learn from training images, never from the same ones.
        folder: that the pictures and the table are written to.

    Raises:
        UserError: there are too few images.
    """
    settings, classes = model.settings, model.info.classes
    if model.info.several_labels:
        warn(f"latents are compared with no classes: an image of {model.info.name} may have several labels")
        classes = ()
    check_latents(loaders, split, settings.latent_images)
    encoders = {"latent": model.latent_means, "random": untrained_like(model, loaders[split].device).latent_means}

    def look(name: str, chosen: Tensor) -> Encoded:
        return encode(encoders, loaders[name], chosen, settings.eval_batch_size)

    index, others = choose(loaders, split, settings.latent_images, settings.seed)
    images, train = look(split, index), look("train", others) if classes else None
    if train is not None and len(np.unique(train.labels)) < 2:
        warn(f"latents are compared with no classes: all {len(train.labels)} training images looked at are of one")
        train = None
    scores = score(images, train, len(classes) if train else 0, settings.seed)
    if scores.table:
        scores.table.save(folder / "latent.csv")
    pictures = draw(model.decode, images, scores, classes, settings.seed, folder)
    return Analysis(scores.metrics, pictures, {"latent": scores.table} if scores.table else {})


def check_latents(loaders: Mapping[str, Loader], split: str, num_images: int, otherwise: str = "") -> None:
    """Refuse a look at the latents of too few images; what else the user could do is said at the end.

    Raises:
        UserError: fewer than two are asked for, or there are fewer: of training images, fewer than four.
    """
    least = 2 * FEWEST if split == "train" else FEWEST  # others are learned from, see `choose`
    num, least = (num_images, FEWEST) if num_images < FEWEST else (len(loaders[split]), least)
    if num < least:
        told = counted(num, f"{split} image")
        raise UserError(f"the latents of {told} are too few to look at: give {least} or more{otherwise}")


@torch.no_grad()
def analyse_run(run: TrainedRun, split: str, num_images: int, folder: Path) -> Analysis:
    """Look closely at the latent space of a finished run, and return all metrics, as split/metric, and the pictures.

    Args:
        run: of a model that has latents.
        split: whose images are looked at; "" for the test images or, without any, those to validate with.
        num_images: of each split, at most.
        folder: that the pictures and the table are written to.

    Raises:
        UserError: as `split_with_latents`.
    """
    split = split_with_latents(run, split)
    device = best_device()
    loaders = {name: Loader(images, run.info, device) for name, images in run.splits.items()}
    model = run.objective.to(device)
    model.settings = replace(model.settings, latent_images=num_images)
    folder.mkdir(parents=True, exist_ok=True)
    with autocast_on(device, run.settings.mixed_precision):
        found = analyse_latents(model, loaders, split, folder)
        metrics = {**model.closing_metrics(loaders[split]), **found.metrics}
    return found._replace(metrics={f"{split}/{name}": value for name, value in metrics.items()})


def split_with_latents(run: TrainedRun, asked: str) -> str:
    """Return the name of the split whose latents are looked at, of a run whose images need not be there yet.

    Raises:
        UserError: the run has no such split, or its model no latents.
    """
    has_latents = isinstance(run.objective, HasLatents)
    if not has_latents:
        raise UserError(f"{run.settings.model} has no latents to look at: vae has")
    return run.split_name(asked)


def untrained_like(model: Any, device: torch.device) -> Any:
    """Return the model as it was before training, in evaluation mode; the random state is left alone."""
    with weights_drawn_from(model.settings.seed):
        return find_model(model.settings.model).build(model.settings, model.info).to(device).eval()


def choose(loaders: Mapping[str, Loader], split: str, num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of random images of a split, and of training images that are none of them, both in order.

    Args:
        loaders: of the splits.
        split: whose images are looked at; of training images, at most half are.
        num_images: of each, at most.
        seed: of the choice.
    """
    sizes = [len(loaders[name]) for name in (split, "train")]
    own, others = (torch.randperm(size, generator=torch.Generator().manual_seed(seed)) for size in sizes)
    if split == "train":
        own, others = own.tensor_split([len(own) // 2])
    return own[:num_images].sort().values, others[:num_images].sort().values


@torch.no_grad()
def encode(encoders: Mapping[str, Encode], loader: Loader, index: Tensor, batch_size: int) -> Encoded:
    """Encode some images of a split; `pixels` in [0, 1] are added to the encoders.

    Args:
        encoders: by name.
        loader: of the split.
        index: of the images, [N].
        batch_size: images at once.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in (*encoders, "pixels")}
    for some in index.split(batch_size):
        images = loader.batch(some).images
        for name, encoder in encoders.items():
            parts[name].append(encoder(images).flatten(1).float().cpu())
        parts["pixels"].append(loader.pictures(some).flatten(1).cpu())
    features = {name: torch.cat(columns).numpy() for name, columns in parts.items()}
    return Encoded(loader, index, loader.labels[index].cpu().numpy(), features)


def score(images: Encoded, train: Encoded | None, num_classes: int, seed: int) -> Scores:
    """Cluster the latents of images and, where there are classes, measure how much of those they hold.

    Args:
        images: to be scored.
        train: training images, from which probes and neighbours learn; None without classes.
        num_classes: 0 without classes.
        seed: of the clusters.
    """
    num_clusters = min(num_classes or NUM_CLUSTERS, len(images.index))
    clustering = cluster(images.features["latent"], num_clusters, seed)
    if train is None:
        return Scores(clustering)
    others = {name: cluster(rows, num_clusters, seed) for name, rows in images.features.items() if name != "latent"}
    agreements = {name: agreement(it, images.labels) for name, it in {"latent": clustering, **others}.items()}
    features = {name: (train.features[name], rows) for name, rows in images.features.items()}
    table, metrics = compare(features, agreements, train.labels, images.labels)
    return Scores(clustering, agreements["latent"], metrics, table)


@torch.no_grad()
def draw(
    decode: Decode, images: Encoded, scores: Scores, classes: tuple[str, ...], seed: int, folder: Path
) -> dict[str, Path]:
    """Draw a latent space: a map of it, its clusters, ways between images, and what its units do.

    Args:
        decode: latents [B, Z] to images [B, 3, H, W] in [0, 1].
        images: that are drawn.
        scores: of them.
        classes: names of the labels; none where there are no labels.
        seed: of the map, of the choice of images and of the samples.
        folder: that the pictures are written to.

    Returns:
        The files of the pictures, by name.
    """
    latents, num_images = images.features["latent"], len(images.index)
    names, colourings = name_clusters(scores, images, classes)
    captions = [classes[label] for label in images.labels] if classes else [""] * num_images
    rows = torch.from_numpy(latents).to(images.loader.device)
    ends = np.random.default_rng(seed).permutation(num_images)[: 2 * min(NUM_PAIRS, num_images // 2)]
    pictures = images.loader.pictures(images.index[ends])
    draws: dict[Path, Panel | Callable[[Path], object]] = {
        folder / "tsne.png": lambda path: draw_embedding(embed(latents, seed), colourings, path),
        folder / "clusters.png": cluster_panel(decode, rows, scores.clustering.assignments, names, seed),
        folder / "interpolations.png": interpolation_panel(decode, rows[ends], pictures, [captions[i] for i in ends]),
        folder / "traversals.png": traversal_panel(decode, rows, rows[ends[0]], pictures[0]),
    }
    return render(draws)


def name_clusters(scores: Scores, images: Encoded, classes: tuple[str, ...]) -> tuple[list[str], dict[str, Colouring]]:
    """Return a name for each cluster, and how the map is coloured.

    Where there are classes, a cluster is named after the class that most of its images have, and has its colour in a
    second map, of the true classes. So clusters of the same class have the same colour, and one entry of the legend.
    """
    assignments, agreed = scores.clustering.assignments, scores.agreed
    if agreed is None:
        names = [f"cluster {k}" for k in range(len(scores.clustering.centres))]
        return names, {"clusters of k-means": (assignments, dict(enumerate(names)))}
    shares = zip(agreed.majority, agreed.purity, strict=True)
    names = [f"{k}: {classes[majority]} {percent(purity, 0)}" for k, (majority, purity) in enumerate(shares)]
    by_colour = {}
    for label in np.unique(agreed.majority[assignments]).tolist():
        own = np.flatnonzero((agreed.majority == label) & (agreed.purity > 0))  # an empty cluster has no points
        by_colour[label] = f"{classes[label]} ({'cluster' if len(own) == 1 else 'clusters'} {', '.join(map(str, own))})"
    title = f"clusters of k-means in the colour of their majority, {percent(agreed.majority_accuracy)} right"
    return names, {
        title: (agreed.majority[assignments], by_colour),
        "true classes": (images.labels, dict(enumerate(classes))),
    }
