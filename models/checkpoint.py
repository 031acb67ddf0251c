"""Checkpoints: whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from analysis.run_folder import replace_file


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name and rename it, so that a kill leaves the one before.

    Raises:
        OSError: it could not be written, for want of space say; the one before is kept.
    """
    try:
        replace_file(path, lambda unfinished: torch.save(content, unfinished))
    except RuntimeError as error:  # torch's writer reports a full disk so
        raise OSError(f"{path} could not be written: {str(error).splitlines()[0]}") from error


def load(path: Path) -> dict[str, Any]:
    """Content of a checkpoint, its tensors in main memory; weights and plain values only, no code is run."""
    return torch.load(path, map_location="cpu", weights_only=True)
