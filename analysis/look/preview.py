"""What training will see, drawn before its first step: the first batch, augmented, with its labels."""

from pathlib import Path

import torch

from analysis.look.panels import render
from models.core.panel import Panel
from models.core.training import Trainer

NAME = "training_images.png"


def draw_preview(trainer: Trainer, folder: Path) -> None:
    """Draw the first images of a run's first batch into `folder`, as the setting `preview` asks; not if it is 0.

    They are changed at random as in that step, but for mixup and CutMix; of a network on stored features, which sees no
    images, they are drawn as they are.
    """
    num, info = trainer.settings.preview, trainer.loader.info
    if not num or (folder / NAME).exists():
        return
    batch = trainer.first_batch()
    images, labels = batch.images[:num], batch.labels[:num]
    if images.ndim == 4:
        pictures = info.to_unit_range(images)
    else:
        first = torch.arange(min(num, len(trainer.loader)))
        pictures, labels = trainer.loader.pictures(first), trainer.loader.labels[: len(first)]
    captions = tuple(map(info.named, labels)) if info.classes else ()
    render({folder / NAME: Panel(pictures, captions)})
