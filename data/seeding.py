"""Random numbers as a function of the seed and of where training stands, so that a checkpoint need not hold them."""

import random

import numpy as np
import torch


def mix_seed(*parts: int) -> int:
    """One well-spread 32-bit seed from several small numbers (a seed, an epoch, a step, a process)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def seed_everything(*parts: int) -> None:
    """Seed the global generators of python, numpy and torch from several small numbers."""
    seed = mix_seed(*parts)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 100 us where CUDA is not in use
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
