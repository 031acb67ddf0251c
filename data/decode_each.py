"""Images that are decoded whenever they are used: of more images than a disk holds decoded."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import torch
from torch import Tensor

from data.errors import UserError, in_one_line
from data.pixels import Picture

NUM_TIMED = 64  # images whose decoding is timed


class DecodedEachTime:
    """Images [N, 3, S, S] uint8 in files, with as much of a tensor's interface as splits need.

    Args:
        decode: function of a name, that returns the image or the error if it cannot be read.
        names: of the images.
        image_size: side in pixels.
    """

    def __init__(self, decode: Callable[[str], Picture | Exception], names: Sequence[str], image_size: int) -> None:
        self.decode = decode
        self.names = names
        self.shape = torch.Size((len(names), 3, image_size, image_size))

    def __len__(self) -> int:
        return len(self.names)

    def element_size(self) -> int:
        """Return the bytes of a value."""
        return 1

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """Threads that decode; Pillow does so outside the interpreter lock."""
        return ThreadPoolExecutor(os.cpu_count())

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return the images with these indices [B], decoded.

        Raises:
            UserError: one of them can no longer be read.
        """
        assert dim == 0
        images = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        names = [self.names[place] for place in index.tolist()]
        for row, name, picture in zip(images, names, self.pool.map(self.decode, names), strict=True):
            if isinstance(picture, Exception):
                raise UserError(f"{name} can no longer be read ({in_one_line(picture)}): bring it back, or start anew")
            row.copy_(torch.from_numpy(picture.pixels.copy()))
        return images

    def rate(self) -> float:
        """Return how many images are decoded in a second, by the first ones."""
        some = torch.arange(min(NUM_TIMED, len(self)))
        start = time.perf_counter()
        self.index_select(0, some)
        return len(some) / (time.perf_counter() - start)
