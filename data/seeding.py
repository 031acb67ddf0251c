"""Random numbers as a function of the seed and of where training stands, so that a checkpoint need not hold them."""

import random

import numpy as np
import torch


def mix_seeds(*parts: int, num: int) -> list[int]:
    """Well-spread 32-bit seeds from several small numbers (a seed, an epoch, a process), always the same ones."""
    return np.random.SeedSequence(parts).generate_state(num).tolist()


def seed_everything(seed: int) -> None:
    """Seed the global generators of python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 100 us where CUDA is not in use
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
