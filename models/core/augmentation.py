"""The random changes to training images that a run's settings ask for, and the size of the images in each epoch."""

import torch

from data.augmentation import Augmentation
from data.dataset import Batch
from data.errors import UserError, is_of_the_machine
from models.core.objective import Objective
from models.core.settings import Settings

FULL_SIZE_FROM = 2 / 3  # of the epochs, with the setting start_size


def augmentation_of(settings: Settings, epoch: int, image_size: int) -> Augmentation:
    """Return the random changes to training images that settings ask for in an epoch, counted from 0."""
    side = side_in(epoch, settings, image_size)
    return Augmentation(
        kind=settings.augmentation,
        crop_scale=settings.crop_scale,
        crop_ratio=settings.crop_ratio,
        rotation=settings.rotation,
        colour_jitter=settings.colour_jitter,
        cutout=round(settings.cutout * side / image_size) if side else settings.cutout,
        erasing=settings.erasing,
        side=side,
    )


def side_in(epoch: int, settings: Settings, image_size: int) -> int:
    """Return the side in pixels to which training images are reduced in an epoch; 0 where they have their own size.

    It grows as the setting `start_size` says, in multiples of 4 pixels.
    """
    if not settings.start_size:
        return 0
    share = min(1.0, epoch / (FULL_SIZE_FROM * settings.epochs))
    side = max(4, round((settings.start_size + share * (image_size - settings.start_size)) / 4) * 4)
    return side if side < image_size else 0


def check_start_size(settings: Settings, objective: Objective, device: torch.device) -> None:
    """Refuse a `start_size` for a network that takes images of one size alone.

    Raises:
        UserError: the network is one of these or enlarges what it gets, or the size is not below that of the images.
    """
    image_size = objective.info.image_size
    sides = {side_in(epoch, settings, image_size) for epoch in range(settings.epochs)}
    told = f"--start_size={settings.start_size}"
    if not side_in(0, settings, image_size):
        raise UserError(f"{told} is not below the {image_size} pixels of the images: lower it, or leave it out")
    if input_size := getattr(settings, "input_size", 0):
        raise UserError(f"{told}: --input_size={input_size} would enlarge the images again: leave out one of the two")
    objective.eval()
    labels = objective.info.blank_labels(1).to(device)
    for side in sorted(sides - {0}):
        try:
            with torch.no_grad():
                objective.evaluate(Batch(torch.zeros(1, 3, side, side, device=device), labels))
        except (RuntimeError, AssertionError, ValueError) as error:
            if is_of_the_machine(error):
                raise
            fault = f"{settings.model} takes no images of {side} pixels"
            raise UserError(f"{told}: {fault}: leave it out, or take resnet18 or cnn --pooling=mean") from None
