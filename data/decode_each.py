"""Images that are decoded whenever they are used: of more images than a disk holds decoded."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import torch
from torch import Tensor

from data.cores import num_cores
from data.errors import UserError, exit_code, in_one_line, is_of_the_machine
from data.pixels import Picture
from data.stores import Stored

NUM_TIMED = 64  # images whose decoding is timed


class DecodedEachTime(Stored):
    """Images [N, 3, S, S] uint8 in files, decoded whenever they are asked for.

    Args:
        decode: function of a name, that returns the image or the error if it cannot be read.
        names: of the images.
        image_size: side in pixels.
    """

    def __init__(self, decode: Callable[[str], Picture | Exception], names: Sequence[str], image_size: int) -> None:
        self.decode = decode
        self.names = names
        self.shape = torch.Size((len(names), 3, image_size, image_size))

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """Threads that decode; Pillow does so outside the interpreter lock."""
        return ThreadPoolExecutor(num_cores())

    def read_into(self, images: Tensor, index: Tensor) -> None:
        """Decode images.

        Raises:
            UserError: one of them can no longer be read.
        """
        names = [self.names[place] for place in index.tolist()]
        for row, name, picture in zip(images, names, self.pool.map(self.decode, names), strict=True):
            if isinstance(picture, Exception):
                if is_of_the_machine(picture) and exit_code(picture) == 1:  # a file that is gone is the user's
                    raise picture
                raise UserError(f"{name} can no longer be read ({in_one_line(picture)}): bring it back, or start anew")
            row.copy_(torch.from_numpy(picture.pixels.copy()))

    def rate(self) -> float:
        """Return how many images are decoded in a second, by the first ones."""
        some = torch.arange(min(NUM_TIMED, len(self)))
        start = time.perf_counter()
        self.index_select(0, some)
        return len(some) / (time.perf_counter() - start)
