"""A cache on disk for the features of a frozen network: each image's are computed once and then shared by all runs.

There is one folder for each combination of network, image size and precision; the folder's name ends in a hash of
these. An image is recognised by the hash of its pixels. The folder holds two files with one row for each image, to
which rows are only ever appended:

    features  the image's features, bfloat16 or float32
    images    the hash of the image's pixels, 16 bytes; written after the features

Only rows that are complete in both files count. If a process is killed or the disk is full, the rows that were not
yet written are lost, and no others.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock
from torch import Tensor

from data.errors import UserError
from data.files import locked
from data.progress import progress_bar

HASH_BYTES = 16
SECONDS_BETWEEN_WRITES = 5.0
HASHED_AT_ONCE = 1024  # images
FEATURE_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Images(Protocol):
    """Images that are asked for some at a time, as those of a tensor or of a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor: ...  # [B] -> [B, 3, H, W] uint8, in main memory


class FeatureCache:
    """The cached features of one network, kept in a folder of its own below `root`.

    Args:
        root: folder of all caches.
        network: everything but the image that the features depend on; includes "arch" and "precision".
        num_features: numbers that the network computes for an image.
    """

    def __init__(self, root: Path, network: Mapping[str, object], num_features: int) -> None:
        self.description = json.dumps(network, sort_keys=True, indent=1)
        key = hashlib.sha256(self.description.encode()).hexdigest()[:16]
        self.folder = root / f"{network['arch']}-{key}"
        self.dtype = FEATURE_DTYPES[str(network["precision"])]
        self.num_features = num_features
        self.row_bytes = num_features * self.dtype.itemsize

    def rows(self) -> dict[bytes, int]:
        """Return the number of each image's row, by the image's hash."""
        num_rows = self.num_rows()
        if not num_rows:
            return {}
        content = (self.folder / "images").read_bytes()
        return {content[row * HASH_BYTES : (row + 1) * HASH_BYTES]: row for row in range(num_rows)}

    def num_rows(self) -> int:
        """Return the number of rows that are complete in both files.

        Raises:
            UserError: one of them is no file, as a pipe is none.
        """
        row_bytes = {"images": HASH_BYTES, "features": self.row_bytes}
        paths = {name: self.folder / name for name in row_bytes}
        if odd := [path for path in paths.values() if path.exists() and not path.is_file()]:
            raise UserError(f"{odd[0]} is no file: delete {self.folder}, it is computed anew")
        return min(size_of(path) // row_bytes[name] if path.exists() else 0 for name, path in paths.items())

    def read(self, hashes: list[bytes]) -> Tensor:
        """Return the features [N, D] of the images with these N hashes, in main memory.

        Raises:
            UserError: the features of some of them are not in the cache.
        """
        rows = self.rows()
        if not rows.keys() >= set(hashes):
            raise UserError(
                f"{self.folder} lacks features that another machine of this run stored: share --feature_dir"
            )
        size = (max(rows.values()) + 1) * self.num_features
        stored = torch.from_file(str(self.folder / "features"), shared=False, size=size, dtype=self.dtype)
        return stored.view(-1, self.num_features).index_select(0, torch.tensor([rows[key] for key in hashes]))

    def take(self, other: "FeatureCache", hashes: list[bytes]) -> None:
        """Add the features that another cache of the same network has of images with these hashes."""
        if known := sorted((other.rows().keys() & hashes) - self.rows().keys()):
            self.append(known, other.read(known))

    def append(self, hashes: list[bytes], features: Tensor) -> None:
        """Add the features [N, D] of N images; several processes may call this at the same time.

        Raises:
            OSError: they cannot be written; with the remedy.
        """
        content = features.to(self.dtype).contiguous().view(torch.uint8).numpy()
        with self.naming_remedy():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write(content.data, b"".join(hashes))

    def write(self, content: memoryview, hashes: bytes) -> None:
        """Write rows behind those that are complete."""
        note = self.folder / "network.json"
        with (
            FileLock(self.folder / "append.lock", mode=0o666),  # any user of a shared cache
            (self.folder / "images").open("ab") as images,
            (self.folder / "features").open("ab") as rows,
        ):
            if not note.exists():
                note.write_text(self.description, "utf-8")
            num_rows = self.num_rows()
            images.truncate(num_rows * HASH_BYTES)
            rows.truncate(num_rows * self.row_bytes)
            rows.write(content)
            rows.flush()
            os.fsync(rows.fileno())
            images.write(hashes)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold the lock that one process has while it computes features.

        Raises:
            OSError: the lock cannot be had; with the remedy.
        """
        with ExitStack() as held:
            with self.naming_remedy():
                notice = f"another process computes features of {self.folder.name}: waiting for it"
                held.enter_context(locked(self.folder / "compute.lock", notice))
            yield

    @contextmanager
    def naming_remedy(self) -> Iterator[None]:
        """Have errors of the disk name the folder and the remedy; their number, by which programs know them, stays."""
        try:
            yield
        except OSError as error:
            remedy = f"{error.strerror or error}: make room or leave to write, or name another with --feature_dir"
            raise OSError(error.errno, remedy, str(self.folder)) from None


def size_of(path: Path) -> int:
    """Return the bytes of a file, also of one that another machine has just written on NFS, which opening it tells."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size


def hash_images(images: Images) -> list[bytes]:
    """Return the hash of each image's pixels."""
    hashes = []
    for index in torch.arange(len(images)).split(HASHED_AT_ONCE):
        rows = images[index].contiguous().flatten(1).numpy()
        hashes += [hashlib.blake2b(row, digest_size=HASH_BYTES).digest() for row in rows]
    return hashes


def cached_features(
    cache: FeatureCache,
    images: Images,
    compute: Callable[[Tensor], Tensor],
    batch_size: int,
    accelerator: Accelerator,
    known: FeatureCache | None = None,
) -> Tensor:
    """Return the features of images; those that the cache lacks are computed and added to it first.

    All processes of a run must call this together, and they share the work.

    Args:
        cache: the cache of the network.
        images: N images.
        compute: function from images [B, 3, H, W] uint8 in main memory to features [B, D] on the device.
        batch_size: images that each process passes to `compute` at once.
        accelerator: the run's.
        known: another cache of the network, whose features are taken where it has them.

    Returns:
        [N, D] in main memory, in the cache's dtype.

    Raises:
        UserError: some process computed a feature that is not a finite number; raised in all processes.
        OSError: the features cannot be kept, for example because the disk is full; with the remedy.
    """
    hashes = hash_images(images)
    if known is not None:
        cache.take(known, hashes)
    # Hash -> index of the first image that has it.
    first = dict(zip(reversed(hashes), reversed(range(len(hashes))), strict=True))
    [is_complete] = broadcast_object_list([first.keys() <= cache.rows().keys()])
    if not is_complete:
        with cache.computing() if accelerator.is_main_process else nullcontext():
            missing = sorted(first[key] for key in first.keys() - cache.rows().keys())
            [missing] = broadcast_object_list([missing])  # as the main process sees it, which holds the lock
            share = missing[accelerator.process_index :: accelerator.num_processes]
            quiet = not accelerator.is_local_main_process
            is_finite = compute_missing(cache, images, hashes, share, compute, batch_size, quiet)
            # This waits for all processes.
            num_failed = accelerator.reduce(torch.tensor(float(not is_finite), device=accelerator.device))
        if num_failed:
            remedy = "give other --weights" if cache.dtype == torch.float32 else "give --feature_precision=fp32"
            raise UserError(f"{cache.folder.name}: a feature is not a finite number: {remedy}")
    return cache.read(hashes)


def compute_missing(
    cache: FeatureCache,
    images: Images,
    hashes: list[bytes],
    missing: list[int],
    compute: Callable[[Tensor], Tensor],
    batch_size: int,
    quiet: bool,
) -> bool:
    """Compute the features of the images whose indices are in `missing`, and add them to the cache.

    Unless `quiet`, a progress bar shows the speed and the time left.

    Returns:
        True if all went well; False if a feature was not a finite number, upon which the computation stopped.
    """
    waiting: list[tuple[list[int], Tensor]] = []  # indices and features of batches that are not yet stored
    stored = time.monotonic()
    with progress_bar(f"features of {cache.folder.name}", len(missing), "images", quiet=quiet) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            waiting.append((batch, compute(images[torch.tensor(batch)])))
            bar.update(len(batch))
            if time.monotonic() - stored > SECONDS_BETWEEN_WRITES or start + batch_size >= len(missing):
                indices, features = zip(*waiting, strict=True)
                together = torch.cat(features).cpu()
                if not together.isfinite().all():
                    return False
                cache.append([hashes[index] for index in chain(*indices)], together)
                waiting, stored = [], time.monotonic()
    return True
