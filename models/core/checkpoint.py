"""Where training stands, and how it is kept: whole or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data.files import replace_file
from models.core.objective import Phase


@dataclass
class Progress:
    """Where training stands; with the weights and the optimizers, all that a checkpoint holds."""

    epoch: int = 0  # finished epochs
    step: int = 0  # steps done of the epoch under way
    images_seen: int = 0
    terms: dict[str, list[Tensor]] = field(default_factory=dict)  # loss terms of those steps, by metric name
    sizes: dict[str, list[int]] = field(default_factory=dict)  # images behind each of them
    epoch_seconds: float = 0.0  # of training in the epoch under way
    train_seconds: float = 0.0  # of training in the finished epochs
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)  # validation metrics of the best epoch
    num_logged: int = 0

    def add(self, phase: str, terms: dict[str, Tensor], num_images: int) -> None:
        """Note the loss terms of one step of a phase, scalars that stay on the device."""
        for name, value in terms.items():
            self.terms.setdefault(f"train/{phase}/{name}", []).append(value)
            self.sizes.setdefault(f"train/{phase}/{name}", []).append(num_images)

    def step_terms(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """Loss terms of every step of the epoch so far, means over the processes: name -> [steps]."""
        return {key: accelerator.reduce(torch.stack(values), "mean") for key, values in self.terms.items()}

    def epoch_means(self, accelerator: Accelerator) -> dict[str, float]:
        """Loss terms, each the mean over the epoch's images."""
        means = {}
        for key, values in self.step_terms(accelerator).items():
            sizes = torch.tensor(self.sizes[key], dtype=torch.float64)
            means[key] = (values.cpu().double() @ sizes / sizes.sum()).item()
        return means

    def images_per_second(self) -> float:
        """Speed of training in the epoch under way."""
        return max(map(sum, self.sizes.values())) / self.epoch_seconds

    def finish_epoch(self) -> None:
        """Count the epoch under way as finished."""
        self.epoch += 1
        self.train_seconds += self.epoch_seconds
        self.step, self.epoch_seconds, self.terms, self.sizes = 0, 0.0, {}, {}


def save_training(
    path: Path,
    accelerator: Accelerator,
    objective: nn.Module,
    ema: nn.Module | None,
    phases: Sequence[Phase],
    progress: Progress,
) -> None:
    """Write a checkpoint of everything that training needs to go on; called by all processes.

    Raises:
        OSError: it could not be written, for want of space say; the one before is kept.
    """
    terms = progress.step_terms(accelerator)
    if accelerator.is_main_process:
        content = {
            "objective": objective.state_dict(),
            "ema": ema.state_dict() if ema else {},
            "optimizers": [phase.optimizer.state_dict() for phase in phases],
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
            "progress": {**vars(progress), "terms": terms},
        }
        save(path, content)
    accelerator.wait_for_everyone()


def restore_training(
    path: Path, accelerator: Accelerator, objective: nn.Module, ema: nn.Module | None, phases: Sequence[Phase]
) -> Progress:
    """Put a checkpoint's weights and optimizer states in place, and return where its training stood."""
    content = load(path)
    objective.load_state_dict(content["objective"])
    if ema:
        ema.load_state_dict(content["ema"])
    for phase, state in zip(phases, content["optimizers"], strict=True):
        phase.optimizer.load_state_dict(state)
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(content["scaler"])
    progress = Progress(**content["progress"])
    progress.terms = {key: list(values.to(accelerator.device)) for key, values in content["progress"]["terms"].items()}
    return progress


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a file under a temporary name and rename it, so that a kill leaves the one before.

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
