"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, https://www.cs.toronto.edu/~kriz/cifar.html."""

import hashlib
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from data.dataset import Dataset, Source, Split
from data.errors import UserError, in_one_line
from data.files import UNFINISHED, locked

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# The two official layouts: folder -> {file: md5}; the test batch comes last.
BINARY = "cifar-10-batches-bin"
PYTHON = "cifar-10-batches-py"
CHECKSUMS = {
    BINARY: {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    PYTHON: {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
}


def load(data_dir: Path, image_size: int, max_corrupt_images: int) -> Dataset:
    """Return CIFAR-10 from either official layout in `data_dir`; if neither is there, download it first.

    Raises:
        UserError: a file is missing or damaged, the download failed, or the image size asked for is not 32.
    """
    if image_size not in (0, 32):
        told = f"--image_size / --eval_crop is {image_size} pixels, the side of CIFAR-10's images is 32"
        raise UserError(f"{told}: leave out --image_size")
    layout = next((name for name in CHECKSUMS if (data_dir / name).is_dir()), None)
    if layout is None:
        layout = PYTHON
        download(data_dir)
    paths = [data_dir / layout / name for name in CHECKSUMS[layout]]
    with ThreadPoolExecutor() as pool:
        contents = list(pool.map(read_checked, paths, CHECKSUMS[layout].values()))
    parse = parse_binary if layout == BINARY else parse_python
    images, labels = (np.concatenate(parts) for parts in zip(*map(parse, contents), strict=True))
    pixels, numbers = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    train, test = (Split(pixels[rows], numbers[rows]) for rows in (slice(50_000), slice(50_000, None)))
    # Both layouts hold the same images in the same order, so they share one fingerprint.
    return Dataset("cifar10", CLASSES, train, test, "cifar10-" + CHECKSUMS[BINARY]["data_batch_1.bin"][:8])


def read_checked(path: Path, md5: str) -> bytes:
    """Return the bytes of a file of the dataset, once it is certain that they are the official ones.

    Args:
        path: of the file.
        md5: the checksum of the official file, in hexadecimal digits.

    Raises:
        UserError: the file is missing, or has another checksum.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing, the download is incomplete: delete {path.parent} and start again")
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UserError(
            f"{path} is damaged ({len(content):,} bytes, wrong checksum): delete {path.parent} and start again"
        )
    return content


def parse_binary(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return images [10000, 3, 32, 32] and labels [10000] of a file whose records are a label and 3 x 1,024 bytes."""
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def parse_python(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return images [10000, 3, 32, 32] and labels [10000] of a pickle; call it only once the checksum is verified."""
    batch = pickle.loads(content, encoding="latin1")
    return batch["data"].reshape(-1, 3, 32, 32), np.array(batch["labels"])


def download(data_dir: Path) -> None:
    """Download and unpack the python layout with torchvision, unless another process does so at the same time.

    Raises:
        UserError: the download failed.
    """
    from torchvision.datasets import CIFAR10  # imported late: torchvision takes a second

    unfinished = data_dir / (PYTHON + UNFINISHED)  # until all files are there, so that nobody meets a half of them
    try:
        with locked(
            data_dir / f".{PYTHON}.lock", f"another process downloads CIFAR-10 into {data_dir}: waiting for it"
        ):
            if (data_dir / PYTHON).is_dir():
                return
            shutil.rmtree(unfinished, ignore_errors=True)  # of a download that was killed
            try:
                unfinished.mkdir()
                CIFAR10(str(unfinished), download=True)
                (unfinished / PYTHON).rename(data_dir / PYTHON)
            except OSError:  # on NFS another machine's, just made, is not seen at once
                if not (data_dir / PYTHON).is_dir():
                    raise
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except Exception as error:  # of urllib, http, tarfile and torchvision
        reason = in_one_line(error)
        raise UserError(
            f"{data_dir} holds no CIFAR-10 and downloading it failed ({reason}): put {BINARY} "
            f"or {PYTHON} there, or name their folder with --data_dir"
        ) from None


SOURCE = Source(load, 32, CLASSES)
