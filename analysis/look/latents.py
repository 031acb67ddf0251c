"""A closer look at a latent space: what it holds of the classes, beside raw pixels and an untrained net; pictures.

At the end of every run of a vae, or of a finished run by `python -m analysis.latent RUN`.
"""

import csv
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from analysis.command_line import Parser, run_program, whole_number
from analysis.look.latent_figures import (
    Decode,
    cluster_panel,
    draw_embedding,
    embed,
    interpolation_panel,
    traversal_panel,
)
from analysis.look.latent_scores import Agreement, Clustering, agreement, cluster, compare
from analysis.look.panels import draw_grid
from analysis.look.trained_run import best_device, find_run, load_run
from analysis.record.tracker import Analysis, Table
from data.errors import UserError
from data.loader import Loader

NUM_CLUSTERS = 10  # where there are no classes
NUM_PAIRS = 8  # of images that are interpolated between

Encode = Callable[[Tensor], Tensor]  # a batch's images to latents [B, Z]


def sample(loader: Loader, num_images: int, seed: int) -> Tensor:
    """Indices of random images of a split, in order; all where it has no more."""
    order = torch.randperm(len(loader), generator=torch.Generator().manual_seed(seed))
    return order[:num_images].sort().values


@torch.no_grad()
def extract(loader: Loader, index: Tensor, batch_size: int, encoders: Mapping[str, Encode]) -> dict[str, np.ndarray]:
    """Features [N, Z] of the images of these indices, by the encoder's name; `pixels` are those in [0, 1]."""
    parts: dict[str, list[Tensor]] = {name: [] for name in (*encoders, "pixels")}
    for some in index.split(batch_size):
        images = loader.batch(some).images
        for name, encode in encoders.items():
            parts[name].append(encode(images).flatten(1).float().cpu())
        parts["pixels"].append(loader.pictures(some).flatten(1).cpu())
    return {name: torch.cat(columns).numpy() for name, columns in parts.items()}


def analyse_latents(
    encode: Encode,
    decode: Decode,
    random_encode: Encode,
    loaders: Mapping[str, Loader],
    split: str,
    folder: Path,
    batch_size: int,
    classes: tuple[str, ...],
    seed: int,
    num_images: int = 10_000,
) -> Analysis:
    """Look closely at a model's latent space on one split; probes and neighbours learn from training images.

    For 10,000 images of CIFAR-10 and 128 units, one CPU core takes about a minute beside the networks' own time:
    half of it is t-SNE's, the rest the raw pixels'.

    Args:
        encode: images as the model sees them to the posterior's means [B, Z].
        decode: latents [B, Z] to images [B, 3, H, W] in [0, 1].
        random_encode: as `encode`, by an untrained network of the same kind, in evaluation mode.
        loaders: of the splits, among them train.
        split: which is looked at.
        folder: where the pictures and the table are written.
        batch_size: images at once.
        classes: their names; without them there are clusters, but nothing to compare them with.
        seed: of the choice of images, the clusters and the pictures.
        num_images: of each split, at most.
    """
    loader, encoders = loaders[split], {"latent": encode, "random": random_encode}
    index = sample(loader, num_images, seed)
    test = extract(loader, index, batch_size, encoders)
    latents = test["latent"]
    num_clusters = min(len(classes) or NUM_CLUSTERS, len(index))
    found = cluster(latents, num_clusters, seed)
    metrics: dict[str, float] = {}
    tables: dict[str, Table] = {}
    names = [f"cluster {k}" for k in range(num_clusters)]
    colourings = {"clusters of k-means": (found.assignments, dict(enumerate(names)))}
    captions = [""] * len(index)
    if classes:
        labels = loader.batch(index).labels.cpu().numpy()
        others = {name: cluster(test[name], num_clusters, seed) for name in test if name != "latent"}
        agreements = {name: agreement(it, labels) for name, it in {"latent": found, **others}.items()}
        train_index = sample(loaders["train"], num_images, seed)
        train = extract(loaders["train"], train_index, batch_size, encoders)
        train_labels = loaders["train"].batch(train_index).labels.cpu().numpy()
        features = {name: (train[name], test[name]) for name in test}
        tables["latent"], figures = compare(features, agreements, train_labels, labels)
        metrics |= figures
        with (folder / "latent.csv").open("w", newline="") as file:
            csv.writer(file).writerows([tables["latent"].columns, *tables["latent"].rows])
        names, colourings = tell_classes(found, agreements["latent"], labels, classes)
        captions = [classes[label] for label in labels]

    paths = {name: folder / f"{name}.png" for name in ("tsne", "clusters", "interpolations", "traversals")}
    draw_embedding(embed(latents, seed), colourings, paths["tsne"])
    rows = torch.from_numpy(latents).to(loader.device)
    num_pairs = min(NUM_PAIRS, len(index) // 2)
    ends = np.random.default_rng(seed).permutation(len(index))[: 2 * num_pairs]
    pictures = loader.pictures(index[ends])
    panels = {
        "clusters": cluster_panel(decode, rows, found.assignments, names, seed),
        "interpolations": interpolation_panel(decode, rows[ends], pictures, [captions[i] for i in ends]),
        "traversals": traversal_panel(decode, rows, rows[ends[0]], pictures[0]),
    }
    for name, panel in panels.items():
        draw_grid(panel).save(paths[name])
    return Analysis(metrics, paths, tables)


def tell_classes(
    clustering: Clustering, agreed: Agreement, labels: np.ndarray, classes: tuple[str, ...]
) -> tuple[list[str], dict[str, tuple[np.ndarray, dict[int, str]]]]:
    """Names of clusters by their majority, and colours for them: a cluster takes that of the class it is matched with.

    Returns:
        A name for each cluster, and what `draw_embedding` colours points by.
    """
    shares = zip(agreed.majority, agreed.purity, strict=True)
    names = [f"{k}: {classes[majority]} {purity:.0%}" for k, (majority, purity) in enumerate(shares)]
    by_colour = dict(sorted(zip(agreed.matched.tolist(), names, strict=True)))
    title = f"clusters of k-means and their majority, {agreed.majority_accuracy:.1%} right"
    return names, {
        title: (agreed.matched[clustering.assignments], by_colour),
        "true classes": (labels, dict(enumerate(classes))),
    }


@torch.no_grad()
def analyse_run(options: Namespace) -> None:
    """Look closely at the latents of a finished run, print figures and where the pictures are.

    Raises:
        UserError: no such run or split, no weights, or a model without latents.
    """
    run = load_run(find_run(options.run), options.data_dir)
    if not hasattr(run.objective, "latent_means"):
        raise UserError(f"{run.settings.model} has no latents to look at: vae has")
    if options.split not in run.splits:
        raise UserError(f"--split={options.split}: the run has {', '.join(run.splits)}")
    device = best_device()
    loaders = {name: Loader(split, run.info, device) for name, split in run.splits.items()}
    objective = run.objective.to(device)
    objective.settings = replace(run.settings, latent_images=options.num_images)
    options.out.mkdir(parents=True, exist_ok=True)
    analysis = objective.analyse(loaders, options.split, options.out)
    print(*(f"{name:<28}{value:10.4f}" for name, value in analysis.metrics.items()), sep="\n")
    print(*analysis.images.values(), sep="\n")


def main(arguments: Sequence[str]) -> int:
    """Analyse a run, or say in one line what keeps it from being analysed; returns the exit code."""
    parser = Parser(prog="python -m analysis.latent", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="folder of a run, or its id in runs/ ($VISION_SWEEPS_RUNS)")
    parser.add_argument("--split", default="test", help="whose images are looked at (default: test)")
    parser.add_argument(
        "--num_images", type=whole_number, default=10_000, help="of each split, at most (default: 10000)"
    )
    parser.add_argument("--out", type=Path, default=Path("latent"), help="folder of the pictures (default: latent)")
    parser.add_argument("--data_dir", default="", help="as for train.py; default: as the run was told")
    return run_program("latent", lambda: analyse_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
