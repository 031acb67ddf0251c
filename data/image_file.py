"""Images in a file of numpy, of which some are read at a time: the file may be larger than memory."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class ImageFile:
    """Images [M, C, H, W] uint8 in an npy file, with as much of a tensor's interface as splits need.

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
        self.file = path.open("rb", buffering=0)

    def __len__(self) -> int:
        return len(self.mapped)

    @property
    def shape(self) -> torch.Size:
        """Shape of all images together."""
        return self.mapped.shape

    def element_size(self) -> int:
        """Return the bytes of a value."""
        return 1

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return the images with these indices [B], read from the file.

        Raises:
            OSError: the file has become shorter.
        """
        assert dim == 0
        images = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        rows = images.flatten(1).numpy()
        for row, place in zip(rows, index.tolist(), strict=True):
            start, read = self.offset + place * row.nbytes, 0
            while read < row.nbytes:
                num = os.preadv(self.file.fileno(), [row[read:]], start + read)
                if not num:
                    raise OSError(f"{self.file.name} has been cut: delete it, it is made anew")
                read += num
        return images
