"""What training will see, drawn before its first step: the first batch, augmented, with its labels."""

from pathlib import Path

import torch

from analysis.look.panels import render
from analysis.record import run_folder
from models.core.panel import Panel
from models.core.training import Trainer

NAME = f"{run_folder.PREVIEW}.png"


def draw_preview(trainer: Trainer, folder: Path) -> dict[str, Path]:
    """Draw the first images of a run's first batch into `folder`, and return the file by its name; none at preview=0.

    They are changed at random as in that step, but for mixup and CutMix; of a network on stored features, which sees no
    images, they are drawn as they are.
    """
    num, info = trainer.settings.preview, trainer.loader.info
    path = folder / NAME
    if not num:
        return {}
    if path.exists():
        return {path.stem: path}
    batch = trainer.first_batch()
    images, labels = batch.images[:num], batch.labels[:num]
    if images.ndim == 4:
        pictures = info.to_unit_range(images)
    else:
        first = torch.arange(min(num, len(trainer.loader)))
        pictures, labels = trainer.loader.pictures(first), trainer.loader.labels[: len(first)]
    captions = tuple(map(info.named, labels)) if info.classes else ()
    return render({path: Panel(pictures, captions)})
