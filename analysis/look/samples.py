"""Samples of a model, in batches of uint8 or as image files; the same seed gives the same ones, however many."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from analysis.look.panels import draw_grid
from analysis.look.trained_run import TrainedRun, best_device, load_run
from data.errors import UserError, check_known
from data.progress import progress_bar
from data.seeding import mix_seeds
from models.core.abilities import Samples
from models.core.panel import COLUMNS, MOST_CLASSES, ROWS_BY_CLASS, Panel
from models.core.precision import autocast_on

IMAGES_AT_ONCE = 256  # sampled with one seed, so that a sample depends on the seed and on its place alone

# `sample` of a model that `Samples`: number, seed and labels to images in [0, 1].
Sample = Callable[[int, int, Tensor | None], Tensor]


def load_sampling_run(
    folder: Path, data_dir: str = "", load: Callable[[Path, str], TrainedRun] = load_run
) -> TrainedRun:
    """Load a run whose model makes images of its own, the model on the machine's best device.

    Args:
        folder: of the run.
        data_dir: where its images are; empty for where they were.
        load: `load_run`, or `load_network` for a run without its images.

    Raises:
        UserError: as `load`, or the model makes none.
    """
    run = load(folder, data_dir)
    run.objective.to(best_device())
    if not isinstance(run.objective, Samples):
        raise UserError(f"{run.settings.model} makes no images of its own: vae, cvae, vq_vae and the GANs do")
    return run


def sampler(run: TrainedRun) -> Sample:
    """Return what samples by the model of a finished run, in the precision that it was trained in."""
    return autocast_on(best_device(), run.settings.mixed_precision)(run.objective.sample)


def to_pixels(pictures: Tensor) -> Tensor:
    """Return pictures in [0, 1] as an image file holds them, uint8."""
    return (pictures * 255).round().byte()


@torch.no_grad()
def sample_images(sample: Sample, num_images: int, seed: int, classes: Sequence[int] = ()) -> Iterator[Tensor]:
    """Sample images in batches, with a progress bar; the first ones are the same however many there are.

    Args:
        sample: of a model in evaluation mode.
        num_images: how many.
        seed: of all of them.
        classes: labels that take turns, for a conditional model; none leaves the labels to the model.

    Yields:
        [B, 3, H, W] uint8 on the model's device.
    """
    with progress_bar("sampling", num_images, "images") as bar:
        for block in range(ceil(num_images / IMAGES_AT_ONCE)):
            [own_seed] = mix_seeds(seed, block, num=1)
            first = block * IMAGES_AT_ONCE
            turns = [classes[(first + i) % len(classes)] for i in range(IMAGES_AT_ONCE) if classes]
            pictures = sample(IMAGES_AT_ONCE, own_seed, torch.tensor(turns) if turns else None)[: num_images - first]
            yield to_pixels(pictures)
            bar.update(len(pictures))


def choose_classes(chosen: Sequence[str], run: TrainedRun) -> list[int]:
    """Return the labels of the classes of these names, or of all classes; none for a model that knows no classes.

    Raises:
        UserError: an unknown class, or a class for a model that knows none.
    """
    known = run.info.classes
    if not run.objective.num_labels:
        if chosen:
            raise UserError(
                f"--classes={chosen[0]}: {run.settings.model} samples without regard to classes; leave it out"
            )
        return []
    for name in chosen:
        check_known(f"--classes={name}", name, known)
    return [known.index(name) for name in chosen] or list(range(len(known)))


def write_samples(run: TrainedRun, num_images: int, seed: int, labels: Sequence[int], out: Path) -> Path:
    """Write samples of a run as PNG files into `out`, and the first of them as a grid; return the file of the grid.

    Args:
        run: of a model that `Samples`.
        num_images: how many.
        seed: of the samples.
        labels: that take turns, each in a folder of its own named after the class; none for samples without labels.
        out: folder that is made.
    """
    names = run.info.classes
    folders = [out / names[label] for label in labels] or [out]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    columns = min(len(labels), MOST_CLASSES) or COLUMNS
    num_written, shown = 0, list[Tensor]()
    for images in sample_images(sampler(run), num_images, seed, labels):
        for number, pixels in enumerate(images.permute(0, 2, 3, 1).cpu().numpy(), num_written):
            Image.fromarray(pixels).save(folders[number % len(folders)] / f"{number:06d}.png")
        if num_written < ROWS_BY_CLASS * len(folders) * columns:
            shown.append(images.cpu())
        num_written += len(images)
    pictures = torch.cat(shown) / 255
    in_grid = [i for i in range(len(pictures)) if not labels or i % len(labels) < columns][: ROWS_BY_CLASS * columns]
    captions = tuple(names[labels[i % len(labels)]] for i in in_grid if labels)
    path = out.with_name(f"{out.name}-grid.png")
    draw_grid(Panel(pictures[in_grid], captions, columns=columns)).save(path)
    return path
