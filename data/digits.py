"""Handwritten digits that come with scikit-learn, so nothing is downloaded: 1,797 grey images of 8x8 pixels."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from data.dataset import Dataset, Source, Split
from data.splitting import stratified_order

CLASSES = tuple("0123456789")
NUM_TEST = 360


def load(data_dir: Path, image_size: int, max_corrupt_images: int) -> Dataset:
    """Return the digits in three equal channels, scaled to `image_size` pixels (0 for 32).

    A fifth of them are test images, the same ones in every run.
    """
    # sklearn.datasets.load_digits reads the same file, but importing it would delay every run by a second.
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    rows = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    grey = torch.from_numpy(rows[:, :64]).float().view(-1, 1, 8, 8) / 16  # [1797, 1, 8, 8] in [0, 1]
    large = F.interpolate(grey, size=image_size or 32, mode="bilinear", align_corners=False)
    images = (large * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(rows[:, 64]).long()
    order = stratified_order(labels, seed=0)
    test, train = (Split(images[rows], labels[rows]) for rows in (order[:NUM_TEST], order[NUM_TEST:]))
    side = large.shape[-1]
    preparation = f"8x8 -> {side}x{side}" if side != 8 else ""
    return Dataset("digits", CLASSES, train, test, "digits-scikit-learn", preparation=preparation)


SOURCE = Source(load, 32, CLASSES)
