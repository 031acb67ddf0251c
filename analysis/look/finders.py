"""Looked for before a training, by short tries that leave no run behind: a learning rate, and a batch size."""

import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from analysis.record.environment import peak_memory_bytes
from data.errors import UserError, lack_of_memory
from data.residence import GIB, free_memory
from data.seeding import mix_seeds, seed_everything
from data.visible import percent, say
from models.core.settings import Settings
from models.core.training import Trainer

LOWEST_LR, HIGHEST_LR = 1e-6, 10.0
NUM_STEPS = 120  # from the lowest learning rate to the highest
SMOOTHING = 0.8  # decay of the moving average of the losses, per step to either side
NUM_FLAT = 12  # first steps, at rates too low to change much: their losses differ by chance
DIVERGED = 3.0  # times the fall of the loss, or its size at first, above the losses at first: the search ends
SMALLEST_BATCH = 8  # or a little larger, so that its micro-batches are equal
WARM_UP, TIMED, SECONDS = 2, 30, 1.0  # steps before those that are timed, and the most of them and of their seconds
LONGEST_STEP = 20.0  # seconds, of which the next size would take twice as many
GOOD_SHARE = 0.95  # of the greatest speed
MEMORY_SHARE = 0.9  # of a machine's free memory


class Tried(NamedTuple):
    """What a batch size came to."""

    size: int
    images_per_second: float
    gib: float  # peak memory


def is_asked_for(settings: Settings) -> bool:
    """Return whether settings ask for something to be found, in place of a run."""
    return settings.find_lr or settings.find_batch_size


def find(trainer: Trainer) -> None:
    """Find what the settings ask for, and say it.

    Raises:
        UserError: it cannot be found for this model, or for several processes.
    """
    settings = trainer.settings
    if trainer.accelerator.num_processes > 1:
        raise UserError("--find_lr and --find_batch_size try things on one device: start one process")
    if settings.find_lr:
        find_lr(trainer)
    if settings.find_batch_size:
        find_batch_size(trainer)


def find_lr(trainer: Trainer) -> None:
    """Train with a learning rate that rises from step to step; say and draw at which one the loss falls best.

    The learning rate range test of Smith 2017, https://arxiv.org/abs/1506.01186.

    Raises:
        UserError: the model has no one loss that it descends.
    """
    settings = trainer.settings
    if len(trainer.phases) > 1 or trainer.phases[0].searches:
        raise UserError(f"--find_lr: {settings.model} has no one loss that one learning rate brings down: search --lr")
    ratio = (HIGHEST_LR / LOWEST_LR) ** (1 / (NUM_STEPS - 1))
    rates = [LOWEST_LR * ratio**step for step in range(NUM_STEPS)]
    trainer.lr_factor = lambda step: rates[step] / settings.lr
    losses: list[float] = []
    for loss in take_steps(trainer, NUM_STEPS):
        if has_diverged([*losses, loss]):
            break
        losses.append(loss)
    smoothed = smooth(losses)
    best = min(range(NUM_FLAT, len(smoothed)), key=smoothed.__getitem__, default=0)
    if best < NUM_FLAT + 2:
        raise UserError(f"--find_lr: the loss falls at no learning rate from {LOWEST_LR:g} to {HIGHEST_LR:g}")
    steepest = NUM_FLAT + steepest_fall(smoothed[NUM_FLAT : best + 1])
    path = Path(settings.runs_dir, f"find_lr_{settings.model}_{settings.dataset.replace('/', '_')}.png")
    draw(path, rates[: len(losses)], losses, smoothed, rates[steepest])
    say(f"the loss falls steepest at lr {rates[steepest]:.2g}, and is least at {rates[best]:.2g}: {path}")
    highest = f", or up to {rates[best] / 3:.2g} with a schedule" if rates[best] > 3 * rates[steepest] else ""
    say(f"try --lr={rates[steepest]:.2g}{highest}")


def has_diverged(losses: Sequence[float]) -> bool:
    """Return whether the last of some losses, which may be below 0, is far beyond those before."""
    highest, least = max(losses[:NUM_FLAT]), min(losses)
    return not math.isfinite(losses[-1]) or losses[-1] > highest + DIVERGED * max(abs(highest), highest - least)


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the moving average of losses over the steps before and after each: one of those before would lag behind.

    A lag of 9 steps would be a learning rate that is more than three times as high.
    """
    forth, back = averages(losses), averages(losses[::-1])[::-1]
    return [(one + other) / 2 for one, other in zip(forth, back, strict=True)]


def averages(losses: Sequence[float]) -> list[float]:
    """Return the moving average of losses over the steps up to each, free of the bias of its start."""
    mean, means = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**number))
    return means


def steepest_fall(losses: Sequence[float]) -> int:
    """Return the place at which losses, at equal distances, fall by most from the place before to the one after."""
    return min(range(1, len(losses) - 1), key=lambda i: losses[i + 1] - losses[i - 1])


def draw(path: Path, rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], chosen: float) -> None:
    """Draw the loss over the learning rate."""
    from matplotlib.figure import Figure  # imported late: takes a second

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(rates, losses, color="0.7", label="loss of the step")
    axes.semilogx(rates, smoothed, color="C0", label="moving average")
    axes.axvline(chosen, color="C3", linestyle="--", label=f"steepest fall: {chosen:.2g}")
    axes.set(xlabel="learning rate", ylabel="training loss")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def find_batch_size(trainer: Trainer) -> None:
    """Train a few steps with ever larger batches; say how fast each is and what memory it takes, and which to take.

    It ends with what there are images for, what the memory holds, or steps that take too long.

    Raises:
        UserError: the model takes all images in each step, or not even the smallest batch can be tried.
    """
    if trainer.phases[0].searches:
        raise UserError(f"--find_batch_size: {trainer.settings.model} takes all images in each step: leave it out")
    largest, tried = len(trainer.loader), list[Tried]()
    least = trainer.settings.accumulation_steps * trainer.loader.fewest
    size, end = -(-SMALLEST_BATCH // least) * least, "there are no more images"
    if size > largest:
        raise UserError(f"--find_batch_size begins with {size} images, and there are {largest} to train on: take more")
    while size <= largest:
        try:
            found = try_batch_size(trainer, size)
        except (MemoryError, RuntimeError) as error:
            if not lack_of_memory(error):
                raise
            end = f"{size} images do not fit into the memory"
            break
        tried.append(found)
        say(f"batch size {size:>6}: {found.images_per_second:>9,.0f} images/s, peak memory {found.gib:.2f} GiB")
        if why := why_to_stop(trainer, tried):
            end = why
            break
        size *= 2
    if not tried:
        raise UserError(f"--find_batch_size: {end}: lower --image_size or the model's sizes")
    greatest = max(each.images_per_second for each in tried)
    good = next(each for each in tried if each.images_per_second >= GOOD_SHARE * greatest)
    larger = "the fastest" if good is tried[-1] else f"larger ones are at most {percent(1 / GOOD_SHARE - 1, 0)} faster"
    say(f"{end}; try --batch_size={good.size}: {larger}")


def try_batch_size(trainer: Trainer, size: int) -> Tried:
    """Take a few steps with batches of that size, and return how fast they were and what memory they took."""
    device, micro = trainer.accelerator.device, trainer.settings.accumulation_steps
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    trainer.batch_size, trainer.progress.step = size, 0
    trainer.steps_per_epoch = trainer.loader.steps_per_epoch(size, micro)
    steps = take_steps(trainer, WARM_UP + TIMED)
    for _ in islice(steps, WARM_UP):
        pass
    start, seen = time.perf_counter(), trainer.progress.images_seen
    for _ in steps:
        if time.perf_counter() - start > SECONDS:
            break
    rate = (trainer.progress.images_seen - seen) / (time.perf_counter() - start)
    return Tried(size, rate, peak_memory_bytes(device) / GIB)


def why_to_stop(trainer: Trainer, tried: Sequence[Tried]) -> str:
    """Return why no larger batch is tried; "" if one is. A GPU says by itself that its memory is too small."""
    newest = tried[-1]
    if newest.size / newest.images_per_second > LONGEST_STEP / 2:
        return f"a step of {2 * newest.size} images would take longer than {LONGEST_STEP:.0f} s"
    if trainer.accelerator.device.type != "cpu" or len(tried) < 2:
        return ""
    growth = 2 * (newest.gib - tried[-2].gib)
    if growth > MEMORY_SHARE * free_memory() / GIB:
        return f"{2 * newest.size} images would take about {newest.gib + growth:.1f} GiB, more than is free"
    return ""


def take_steps(trainer: Trainer, num: int) -> Iterator[float]:
    """Take so many training steps, in as many epochs as they need; yield the loss of each.

    An epoch ends before a batch that is smaller than the others: the loss of a few images tells nothing.
    """
    progress, phase = trainer.progress, trainer.phases[-1].name
    num_whole = max(1, len(trainer.loader) // trainer.batch_size)
    trainer.objective.train()
    for _ in range(num):
        epoch, step = divmod(progress.step, num_whole)
        if step == 0:
            batches = trainer.batches(epoch)
        seed_everything(mix_seeds(trainer.settings.seed, progress.step, num=1)[0])
        trainer.train_step(next(batches))
        progress.step += 1
        yield progress.terms[f"train/{phase}/loss"][-1].item()
