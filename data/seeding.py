"""Seeds for the random generators.

Training seeds them anew before every step, from numbers such as the run's seed and the epoch, so that a checkpoint need
not hold their states.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix_seeds(*parts: int, num: int) -> list[int]:
    """Return `num` 32-bit seeds made from several numbers, such as a seed, an epoch and a process.

    The same numbers always give the same seeds, and similar numbers give entirely different ones. But zeros at the end
    count for nothing: (1, 2) and (1, 2, 0) give the same, so that in process 0 the order of an epoch's images and the
    first step of the epoch have one seed. To change that would change the random numbers of all runs.
    """
    return np.random.SeedSequence(parts).generate_state(num).tolist()


def seed_everything(seed: int) -> None:
    """Seed the global random generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 100 us where CUDA is not in use
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def weights_drawn_from(seed: int) -> Iterator[None]:
    """Let weights that are made on the CPU depend on a seed alone; the state of torch's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
