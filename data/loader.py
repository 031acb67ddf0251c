"""Loaders, which make batches of the uint8 images of a split.

The images are kept on the device or, if they are too many for it, where they are stored, in main memory or in a file.
The order of the images depends only on the seed and the epoch, so that training can go on from the middle of an epoch
without any saved state.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.augmentation import NO_CHANGE, Augmentation
from data.balanced_order import balanced_order
from data.dataset import Batch, DatasetInfo, Split
from data.errors import UserError
from data.photographs import centre_crop
from data.prefetch import prefetched
from data.progress import progress_bar
from data.residence import Residence, choose_residence
from data.seeding import mix_seeds
from data.splitting import stratified_order
from data.visible import counted

PREFETCH = 3  # batches made ready ahead of their use, if the images are not kept on the device


@dataclass(frozen=True)
class Shard:
    """The part of the work that falls to one process: its number `rank`, counted from 0, among all processes."""

    rank: int = 0
    num_processes: int = 1


class Loader:
    """A maker of normalised batches of one split; batches for training are also augmented.

    Args:
        split: images and labels.
        info: the dataset's facts, for its normalisation.
        device: where the batches are put.
        shard: decides which part of every batch this process gets.
        residence: where the images are kept; None to choose by the free memory, for this split alone.
        channels_last: whether the batches have the memory layout channels last.
        keep_whole: whether batches for training also hold the images before parts of them are blanked out.
        fewest: images that the model needs at once in training; 2 for batch norm, which has no statistics of one, and
            for mixup.
    """

    def __init__(
        self,
        split: Split,
        info: DatasetInfo,
        device: torch.device,
        *,
        shard: Shard = Shard(),
        residence: Residence | None = None,
        channels_last: bool = False,
        keep_whole: bool = False,
        fewest: int = 1,
    ) -> None:
        self.info = info
        self.names = split.names
        self.device = device
        self.shard = shard
        self.fewest = fewest
        self.channels_last = channels_last
        self.keep_whole = keep_whole
        self.residence = residence or choose_residence(bytes_of(split), device, "auto", shard.num_processes)
        self.labels = split.labels
        if self.residence.on_device:
            self.images = resident_images(split, device, channels_last)
            self.labels = self.labels.to(device)
        else:
            self.split = split
        self.shift = 255 * torch.tensor(info.mean, device=device).view(3, 1, 1)
        self.scale = 1 / (255 * torch.tensor(info.std, device=device).view(3, 1, 1))

    def __len__(self) -> int:
        return len(self.labels)

    def steps_per_epoch(self, batch_size: int, micro_batches: int = 1) -> int:
        """Return the number of training steps in one epoch.

        The last step may be smaller, down to `fewest` images in each process and micro-batch. With fewer images it is
        left out, and they wait for a later epoch.

        Args:
            batch_size: images of a step, all processes together.
            micro_batches: parts into which each process divides its share of a step.

        Raises:
            UserError: the batch is larger than the split, cannot be divided evenly, or is divided into too few images.
        """
        parts = self.shard.num_processes * micro_batches
        processes = counted(self.shard.num_processes, "process", "processes")
        shares = f"{processes} x {counted(micro_batches, 'micro-batch', 'micro-batches')}"
        if batch_size > len(self):
            there = counted(len(self), "training image")
            raise UserError(f"--batch_size={batch_size} is larger than the {there}: lower it")
        if batch_size % parts:
            raise UserError(f"--batch_size={batch_size} cannot be shared by {shares}: make it a multiple of {parts}")
        least = parts * self.fewest  # images of a last step
        if batch_size < least:
            raise UserError(
                f"--batch_size={batch_size} gives {shares} {batch_size // parts} image each, too few for batch norm or "
                f"mixup: make it {least} or more"
            )
        return len(self) // batch_size + (len(self) % batch_size >= least)

    def largest_batch(self, micro_batches: int) -> int:
        """Return the size of a batch of the whole split, without the images that are left over when it is shared out.

        Args:
            micro_batches: parts into which each process divides its share of the batch.
        """
        parts = self.shard.num_processes * micro_batches
        return len(self) // parts * parts

    def training_batches(
        self,
        *,
        seed: int,
        epoch: int,
        batch_size: int,
        start: int = 0,
        micro_batches: int = 1,
        sampling: str = "uniform",
        augmentation: Augmentation = NO_CHANGE,
    ) -> Iterator[Batch]:
        """Yield this process's share of every step of an epoch, from step `start` on; each epoch has another order.

        The last step may be smaller than the others. If its images cannot be divided evenly, the few that are left
        over are not used in this epoch.

        Args:
            seed: another seed gives another order.
            epoch: counted from 0.
            batch_size: images of a step, all processes together.
            start: first step to yield; above 0 to go on from the middle of an epoch.
            micro_batches: parts into which each process divides its share of a step.
            sampling: "uniform" for each image once, "balanced" for as many, of all classes equally often.
            augmentation: random changes to the images.
        """
        [order_seed] = mix_seeds(seed, epoch, num=1)
        generator = torch.Generator().manual_seed(order_seed)
        if sampling == "balanced":
            order = balanced_order(self.labels.cpu(), generator)
        else:
            order = torch.randperm(len(self), generator=generator)
        parts = self.shard.num_processes * micro_batches
        shares = []
        for step in range(start, self.steps_per_epoch(batch_size, micro_batches)):
            whole = order[step * batch_size : (step + 1) * batch_size]
            share = len(whole) // parts * micro_batches
            shares.append(whole[self.shard.rank * share : (self.shard.rank + 1) * share])
        for images, labels in self.gather(shares):
            batch = Batch(self.for_training(images, augmentation), labels)
            batch = batch._replace(whole=batch.images) if self.keep_whole else batch
            yield batch._replace(images=augmentation.blanked(batch.images))

    def evaluation_batches(
        self, batch_size: int, shard: Shard | None = None, what: str = "evaluating"
    ) -> Iterator[Batch]:
        """Yield the images of this process's share of the split, in order, normalised and not augmented.

        The first process shows how far it is.

        Args:
            batch_size: images of a batch of this process.
            shard: share to yield in place of this process's; `Shard()` is the whole split.
            what: is going on, for the bar.
        """
        shard = shard or self.shard
        bounds = np.linspace(0, len(self), shard.num_processes + 1).astype(int)
        share = torch.arange(bounds[shard.rank], bounds[shard.rank + 1])
        with progress_bar(what, len(share), "images", quiet=self.shard.rank > 0) as bar:
            for images, labels in self.gather(list(share.split(batch_size)) if len(share) else []):
                yield Batch(self.for_evaluation(images), labels)
                bar.update(len(images))

    def batch(self, index: Tensor) -> Batch:
        """Return the images with these indices [B] as they are evaluated, the same in every process."""
        images, labels = next(self.gather([index]))
        return Batch(self.for_evaluation(images), labels)

    @cached_property
    def stratified(self) -> Tensor:
        """All indices [N] in a random order of which every stretch has all classes in proportion: always the same."""
        return stratified_order(self.labels.cpu(), seed=0)

    def some(self, num: int) -> Tensor:
        """Return the indices of so many images, of all classes in proportion, or all of them: always the same."""
        return self.stratified[:num].sort().values

    def labels_in_proportion(self, num: int) -> Tensor:
        """Return the labels of `some` images, [num], in an order of which every stretch has all in proportion."""
        return self.labels.cpu()[self.stratified[:num]]

    def pictures(self, index: Tensor) -> Tensor:
        """Return the images with these indices [B] as people see them: [B, 3, H, W] in [0, 1]."""
        images, _ = next(self.gather([index]))
        return centre_crop(images, self.info.image_size).float() / 255

    def gather(self, shares: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the uint8 images [B, 3, H, W] and labels [B] of each tensor of indices, on the device."""
        if not shares:
            return
        if self.residence.on_device:
            index = torch.cat(shares).to(self.device)  # one copy for the whole epoch
            for part in index.split([len(share) for share in shares]):
                # On a CPU, index_select takes a seventh of the time of images[part].
                images = self.images.index_select(0, part)
                yield images.permute(0, 3, 1, 2) if self.channels_last else images, self.labels.index_select(0, part)
            return
        for images, labels in prefetched(self.fetch, shares, PREFETCH, PREFETCH):
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def fetch(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels in main memory; for a GPU, page-locked, which makes the copy to it faster."""
        images, labels = self.split.gather(share), self.labels.index_select(0, share)
        return (images.pin_memory(), labels.pin_memory()) if self.device.type == "cuda" else (images, labels)

    def for_training(self, images: Tensor, augmentation: Augmentation) -> Tensor:
        """Return images as the model gets them in training, changed at random and normalised; nothing is blanked yet.

        Args:
            images: [B, 3, H, W] uint8, as large as they are kept.
            augmentation: the random changes.

        Returns:
            [B, 3, S, S] float32, as large as the model sees them.
        """
        return self.normalise(augmentation.of_pixels(images, self.info.image_size))

    def for_evaluation(self, images: Tensor) -> Tensor:
        """Return the central square of images as the model gets it in evaluation: [B, 3, H, W] uint8 -> float32."""
        return self.normalise(centre_crop(images, self.info.image_size))

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 images [B, 3, H, W] into normalised float32 images with the memory layout of the batches."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout).float().sub_(self.shift).mul_(self.scale)


def bytes_of(split: Split) -> int:
    """Return the bytes that the images of a split take or, where it has features, these."""
    stored = split.stored if split.features is None else split.features
    return len(split.labels) * math.prod(stored.shape[1:]) * stored.element_size()


def resident_images(split: Split, device: torch.device, channels_last: bool) -> Tensor:
    """Return the images of a split on a device, in the memory layout of the batches, so that no batch is converted.

    They are moved some at a time: main memory need not have room for a copy, in every process, of what a GPU holds.

    Returns:
        [N, 3, H, W], or [N, H, W, 3] for channels_last; on a CPU the stored images themselves, if they can be.
    """
    if device.type == "cpu" and not channels_last:
        return split.images.contiguous()
    channels, *sides = split.image_shape
    shape = (*sides, channels) if channels_last else (channels, *sides)
    images = torch.empty(len(split.labels), *shape, dtype=split.stored.dtype, device=device)
    for part, place in zip(split.parts(), images.split(split.num_at_once()), strict=True):
        place.copy_(part.permute(0, 2, 3, 1) if channels_last else part)
    return images


class FeatureLoader(Loader):
    """A loader whose batches hold the features of images, as a frozen network computed them, and not the pixels.

    The split has features of one or more copies of each image, say of the image itself and of its mirror image. A batch
    for training holds those of a copy drawn at random; a batch for evaluation holds those of the first copy.

    Args:
        split: images, labels and features.
        info, device, options: as for `Loader`; `channels_last` has no effect on features.
    """

    def __init__(self, split: Split, info: DatasetInfo, device: torch.device, **options: Any) -> None:
        assert split.features is not None
        features = split._replace(stored=split.features, rows=None)
        super().__init__(features, info, device, **{**options, "channels_last": False})
        self.originals = split

    def for_training(self, images: Tensor, augmentation: Augmentation) -> Tensor:
        """Return the features of one copy of each image, drawn at random: [B, V, D] -> [B, D]."""
        num, copies, _ = images.shape
        return images[torch.arange(num, device=self.device), torch.randint(copies, (num,), device=self.device)].float()

    def for_evaluation(self, images: Tensor) -> Tensor:
        """Return the features of the first copy of each image: [B, V, D] -> [B, D]."""
        return images[:, 0].float()

    def pictures(self, index: Tensor) -> Tensor:
        return self.originals.gather(index).float() / 255
