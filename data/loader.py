"""Batches from uint8 images that live on the device, or in main memory where the device is too small.

Everything random is a function of the seed and of where training stands, so that nothing need be saved to go on
from the middle of an epoch.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.augmentation import AUGMENTATIONS, cutout
from data.dataset import Batch, DatasetInfo, Split
from data.errors import UserError
from data.seeding import mix_seeds

PREFETCH = 3  # batches gathered ahead where images live in main memory


@dataclass(frozen=True)
class Shard:
    """Which of the processes this is."""

    rank: int = 0
    num_processes: int = 1


class Loader:
    """Batches of one split, normalised, and augmented where they are for training.

    Args:
        split: images and labels in main memory; they are moved to the device once.
        info: the normalisation.
        device: where batches are wanted.
        shard: this process's share of every batch.
        resident: "device", "host", or "auto" for the device where the images take at most half of its free memory.
        channels_last: memory layout of the batches.
    """

    def __init__(
        self,
        split: Split,
        info: DatasetInfo,
        device: torch.device,
        *,
        shard: Shard = Shard(),
        resident: str = "auto",
        channels_last: bool = False,
    ) -> None:
        self.info = info
        self.device = device
        self.shard = shard
        self.channels_last = channels_last
        self.on_device = lives_on_device(split.images, device, resident)
        home = device if self.on_device else torch.device("cpu")
        # Stored in the layout of the batches, since a batch is then gathered in it for free.
        images = split.images.permute(0, 2, 3, 1) if channels_last else split.images
        self.images = images.contiguous().to(home)  # [N, 3, H, W], or [N, H, W, 3] for channels_last
        self.labels = split.labels.to(home)
        self.shift = 255 * torch.tensor(info.mean, device=device).view(3, 1, 1)
        self.scale = 1 / (255 * torch.tensor(info.std, device=device).view(3, 1, 1))

    def __len__(self) -> int:
        return len(self.labels)

    def steps_per_epoch(self, batch_size: int, micro_batches: int = 1) -> int:
        """Training steps of one epoch.

        Args:
            batch_size: images of a step over all processes.
            micro_batches: parts that each process computes its share in.

        Raises:
            UserError: the batch is larger than the split, or cannot be shared out evenly.
        """
        parts = self.shard.num_processes * micro_batches
        if batch_size > len(self):
            raise UserError(f"--batch_size={batch_size} is larger than the {len(self)} training images: lower it")
        if batch_size % parts:
            raise UserError(
                f"--batch_size={batch_size} cannot be shared by {self.shard.num_processes} processes x "
                f"{micro_batches} micro-batches: make it a multiple of {parts}"
            )
        return len(self) // batch_size + (len(self) % batch_size >= parts)

    def largest_batch(self, micro_batches: int) -> int:
        """Images of a step over all processes that holds the whole split, but for those that cannot be shared out."""
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
        augmentation: str,
        cutout_size: int,
    ) -> Iterator[Batch]:
        """This process's share of every step of an epoch, from step `start` on, in an order of its own each epoch.

        The last step may be smaller; of its images, those that cannot be shared out evenly wait for a later epoch.

        Args:
            seed: of the order.
            epoch: counted from 0.
            batch_size: images of a step over all processes.
            start: first step, to go on from the middle of an epoch.
            micro_batches: parts that each process computes its share in.
            augmentation: a key of AUGMENTATIONS.
            cutout_size: side of the cutout square in pixels, 0 for none.
        """
        [order_seed] = mix_seeds(seed, epoch, num=1)
        generator = torch.Generator().manual_seed(order_seed)
        order = torch.randperm(len(self), generator=generator)
        parts = self.shard.num_processes * micro_batches
        shares = []
        for step in range(start, self.steps_per_epoch(batch_size, micro_batches)):
            whole = order[step * batch_size : (step + 1) * batch_size]
            share = len(whole) // parts * micro_batches
            shares.append(whole[self.shard.rank * share : (self.shard.rank + 1) * share])
        for images, labels in self.gather(shares):
            yield Batch(self.for_training(images, augmentation, cutout_size), labels)

    def evaluation_batches(self, batch_size: int, shard: Shard | None = None) -> Iterator[Batch]:
        """The split in its own order, unchanged but for the normalisation: this process's share, or `shard`'s."""
        shard = shard or self.shard
        bounds = np.linspace(0, len(self), shard.num_processes + 1).astype(int)
        share = torch.arange(bounds[shard.rank], bounds[shard.rank + 1])
        for images, labels in self.gather(list(share.split(batch_size)) if len(share) else []):
            yield Batch(self.for_evaluation(images), labels)

    def batch(self, index: Tensor) -> Batch:
        """The images of these indices [B], whatever the process."""
        images, labels = next(self.gather([index]))
        return Batch(self.for_evaluation(images), labels)

    def pictures(self, index: Tensor) -> Tensor:
        """The images of these indices [B] as people see them: [B, 3, H, W] in [0, 1]."""
        images, _ = next(self.gather([index]))
        return images.float() / 255

    def gather(self, shares: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 images [B, 3, H, W] and labels [B] on the device, for each tensor of indices."""
        if not shares:
            return
        if self.on_device:
            index = torch.cat(shares).to(self.device)  # one copy for the whole epoch
            for part in index.split([len(share) for share in shares]):
                # A seventh of the time of images[part] on a CPU.
                yield self.in_order(self.images.index_select(0, part)), self.labels.index_select(0, part)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting = iter(shares)
            queue = [pool.submit(self.fetch, share) for share in islice(waiting, PREFETCH)]
            while queue:
                images, labels = queue.pop(0).result()
                queue += [pool.submit(self.fetch, share) for share in islice(waiting, 1)]
                images, labels = (part.to(self.device, non_blocking=True) for part in (images, labels))
                yield self.in_order(images), labels

    def fetch(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels in main memory, page-locked where that makes the copy to the device faster."""
        images, labels = self.images.index_select(0, share), self.labels.index_select(0, share)
        return (images.pin_memory(), labels.pin_memory()) if self.device.type == "cuda" else (images, labels)

    def for_training(self, images: Tensor, augmentation: str, cutout_size: int) -> Tensor:
        """A gathered batch as the network is trained on it."""
        images = self.normalise(AUGMENTATIONS[augmentation](images))
        return cutout(images, cutout_size) if cutout_size else images

    def for_evaluation(self, images: Tensor) -> Tensor:
        """A gathered batch as the network is evaluated on it."""
        return self.normalise(images)

    def in_order(self, images: Tensor) -> Tensor:
        """A gathered batch as [B, 3, H, W], whatever the layout in memory."""
        return images.permute(0, 3, 1, 2) if self.channels_last else images

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] to float32 as `info` says, in the layout of the batches."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout).float().sub_(self.shift).mul_(self.scale)


class FeatureLoader(Loader):
    """Batches of features in place of their images: of a random copy of each in training, of the first in evaluation.

    Args:
        split: images, labels and features.
        info, device, options: as for `Loader`, but that features have no layout.
    """

    def __init__(self, split: Split, info: DatasetInfo, device: torch.device, **options: Any) -> None:
        assert split.features is not None
        super().__init__(Split(split.features, split.labels), info, device, **{**options, "channels_last": False})
        self.originals = split.images

    def for_training(self, images: Tensor, augmentation: str, cutout_size: int) -> Tensor:  # [B, V, D] -> [B, D]
        num, copies, _ = images.shape
        return images[torch.arange(num, device=self.device), torch.randint(copies, (num,), device=self.device)].float()

    def for_evaluation(self, images: Tensor) -> Tensor:  # [B, V, D] -> [B, D]
        return images[:, 0].float()

    def pictures(self, index: Tensor) -> Tensor:
        return self.originals[index].float() / 255


def lives_on_device(images: Tensor, device: torch.device, resident: str) -> bool:
    """Whether the images of a split are to live on the device, see `Loader`."""
    if resident == "auto" and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return images.nbytes <= free / 2
    return resident != "host"
