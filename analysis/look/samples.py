"""Images that a model draws, as uint8: the same ones for the same seed, whoever asks for them and for however many."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from analysis.look.trained_run import TrainedRun, best_device, load_run
from data.errors import UserError
from data.seeding import mix_seeds

IMAGES_AT_ONCE = 256  # drawn with one seed, so that an image depends on the seed and on its place alone

# `sample` of a models.core.objective.Samples: number, seed and labels to images in [0, 1].
Sample = Callable[[int, int, Tensor | None], Tensor]


def load_drawing_run(folder: Path, data_dir: str = "") -> TrainedRun:
    """Load a run whose model draws images, the model on the machine's best device.

    Raises:
        UserError: as `load_run`, or the model draws none.
    """
    from models.core.objective import Samples  # imported late: models draw, too

    run = load_run(folder, data_dir)
    run.objective.to(best_device())
    if not isinstance(run.objective, Samples):
        raise UserError(f"{run.settings.model} draws no images: vae, cvae, vq_vae and the like do")
    return run


def to_pixels(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] as an image file would hold them, uint8."""
    return (pictures * 255).round().byte()


@torch.no_grad()
def draw(
    sample: Sample, num_images: int, seed: int, classes: Sequence[int] = (), quiet: bool = False
) -> Iterator[Tensor]:
    """Draw images in batches, with a progress bar; the first of them are the same however many are drawn.

    Args:
        sample: a model's, which must be in evaluation mode.
        num_images: how many.
        seed: of all of them.
        classes: that take turns, for a conditional model; none leaves the classes to it.
        quiet: no bar.

    Yields:
        [B, 3, H, W] uint8 on the model's device.
    """
    with tqdm(desc="drawing", total=num_images, unit=" images", leave=False, disable=True if quiet else None) as bar:
        for block in range(ceil(num_images / IMAGES_AT_ONCE)):
            [own_seed] = mix_seeds(seed, block, num=1)
            first = block * IMAGES_AT_ONCE
            turns = [classes[(first + i) % len(classes)] for i in range(IMAGES_AT_ONCE) if classes]
            pictures = sample(IMAGES_AT_ONCE, own_seed, torch.tensor(turns) if turns else None)[: num_images - first]
            yield to_pixels(pictures)
            bar.update(len(pictures))
