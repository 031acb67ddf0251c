"""Where images are stored: in a tensor, in a file that may be larger than memory, or in two such places."""

import errno
import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Stored(ABC):
    """Images [M, 3, H, W] uint8 that lie in no tensor, with as much of a tensor's interface as splits need.

    Attributes:
        shape: of all images together.
    """

    shape: torch.Size
    dtype = torch.uint8

    def __len__(self) -> int:
        return self.shape[0]

    def element_size(self) -> int:
        """Return the bytes of a value."""
        return 1

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return a copy of the images with these indices [B]; `dim` is that of the images, 0."""
        assert dim == 0
        images = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        self.read_into(images, index)
        return images

    @abstractmethod
    def read_into(self, images: Tensor, index: Tensor) -> None:
        """Overwrite images [B, 3, H, W] with those that have these indices [B]."""


Store = Tensor | Stored


class ImageFile(Stored):
    """Images in an npy file.

    Chosen images are read by their places in the file. Through mapped memory they would come page by page, each with
    many around it that nobody has asked for: 60 images of 224 pixels a second in place of 2,000.

    Args:
        path: of the file.
        num: of its images, the first ones, that count.

    Attributes:
        mapped: all images, in memory that is mapped from the file; copy-on-write, since torch wants a writable array.
    """

    def __init__(self, path: Path, num: int) -> None:
        array = np.load(path, mmap_mode="c")
        self.offset = array.offset
        self.mapped = torch.from_numpy(array[:num])
        self.shape = self.mapped.shape
        self.file = path.open("rb", buffering=0)

    def read_into(self, images: Tensor, index: Tensor) -> None:
        """Read images from the file.

        Raises:
            OSError: the file has become shorter.
        """
        for row, place in zip(images.flatten(1).numpy(), index.tolist(), strict=True):
            start, read = self.offset + place * row.nbytes, 0
            while read < row.nbytes:
                num = os.preadv(self.file.fileno(), [row[read:]], start + read)
                if not num:
                    raise OSError(f"{self.file.name} has been cut: delete it, it is made anew")
                read += num


def allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Return a new array of bytes in a file, for which there is room on the disk: else a write would end the process.

    Raises:
        OSError: there is no room for it.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # which macOS lacks
        with path.open("rb+") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot tell
                    raise
    return array


class Joined(Stored):
    """Images of two stores as if they lay in one, which would be a copy of both."""

    def __init__(self, first: Store, second: Store) -> None:
        self.first = first
        self.second = second
        self.shape = torch.Size((len(first) + len(second), *first.shape[1:]))

    def read_into(self, images: Tensor, index: Tensor) -> None:
        is_first = index < len(self.first)
        for part, chosen, start in ((self.first, is_first, 0), (self.second, ~is_first, len(self.first))):
            images[chosen] = part.index_select(0, index[chosen] - start)
