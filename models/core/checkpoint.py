"""Checkpoints: the state of training, how it is saved, and how it is restored.

A checkpoint is written completely or not at all: a failed write leaves the one before in place.
"""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from data.errors import UserError, is_of_the_machine
from data.files import replace_file
from models.core.objective import Phase


@dataclass
class Progress:
    """How far training has come. A checkpoint holds this, the weights and the states of the optimizers."""

    epoch: int = 0  # number of finished epochs
    step: int = 0  # finished steps of the current epoch
    images_seen: int = 0
    terms: dict[str, list[Tensor]] = field(default_factory=dict)  # metric name -> loss term of each of those steps
    sizes: dict[str, list[int]] = field(default_factory=dict)  # metric name -> images that each loss term is of
    epoch_seconds: float = 0.0  # spent on training in the current epoch
    train_seconds: float = 0.0  # spent on training in the finished epochs
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)  # validation metrics of the best epoch
    judged_epoch: int = 0  # the last in which the metric of `best_by` was measured
    num_logged: int = 0  # rows of metrics that the run has written

    def add(self, phase: str, terms: dict[str, Tensor], num_images: int) -> None:
        """Add the loss terms of one step of a phase: scalars, which stay on the device."""
        for name, value in terms.items():
            self.terms.setdefault(f"train/{phase}/{name}", []).append(value)
            self.sizes.setdefault(f"train/{phase}/{name}", []).append(num_images)

    def step_terms(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """Return the loss terms of the current epoch's steps, averaged over the processes: metric name -> [steps]."""
        return {key: accelerator.reduce(torch.stack(values), "mean") for key, values in self.terms.items()}

    def epoch_means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return each loss term's mean over all images of the current epoch."""
        means = {}
        for key, values in self.step_terms(accelerator).items():
            sizes = torch.tensor(self.sizes[key], dtype=torch.float64)
            means[key] = (values.cpu().double() @ sizes / sizes.sum()).item()
        return means

    def images_per_second(self) -> float:
        """Return the speed of training in the current epoch."""
        return max(map(sum, self.sizes.values())) / self.epoch_seconds

    def finish_epoch(self) -> None:
        """Count the current epoch as finished and begin the next one."""
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
    """Write a checkpoint with everything that training needs to go on. All processes must call this together.

    Raises:
        OSError: the file could not be written, for example because the disk is full; the file before is kept.
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
    """Load a checkpoint into the model and the optimizers, and return how far its training had come.

    Raises:
        UserError: the file is damaged, or of a run with other settings or of another version.
    """
    content = load(path)
    with refusing_misfits(path):
        objective.load_state_dict(content["objective"])
        if ema:
            ema.load_state_dict(content["ema"])
        for phase, state in zip(phases, content["optimizers"], strict=True):
            both = state["param_groups"], phase.optimizer.param_groups
            saved, own = ([len(group["params"]) for group in groups] for groups in both)
            if saved != own:
                raise UserError(
                    f"{path} is of a version that also gave class tokens, positions or codes weight decay: finish the "
                    f"run with that version, or start a new one by another --run_id"
                )
            phase.optimizer.load_state_dict(state)
            check_shapes(phase.optimizer)
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(content["scaler"])
        terms = {key: list(values.to(accelerator.device)) for key, values in content["progress"]["terms"].items()}
        progress = Progress(**{**content["progress"], "terms": terms})
        for name, default in vars(Progress()).items():
            if type(getattr(progress, name)) is not type(default):
                raise TypeError(f"its {name} is {getattr(progress, name)!r}")
    return progress


def check_shapes(optimizer: Optimizer) -> None:
    """Refuse a state of other shapes than the parameters for fused kernels, which would read and write beyond it.

    Raises:
        ValueError: it has another shape.
    """
    for parameter, state in optimizer.state.items() if optimizer.defaults.get("fused") else ():
        for name, value in state.items():
            if name != "step" and value is not None and value.shape != parameter.shape:
                raise ValueError(f"its {name} has the shape {list(value.shape)}, not {list(parameter.shape)}")


@contextmanager
def refusing_misfits(path: Path) -> Iterator[None]:
    """Report any error in the block as one that says that the file does not fit this run.

    Raises:
        UserError: there was an error, other than one of the machine.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # torch raises nearly anything
        if is_of_the_machine(error):
            raise
        raise UserError(
            f"{path} does not fit its run's settings ({reason_of(error)}): restore both, or start a new run by another "
            f"--run_id"
        ) from None


def reason_of(error: Exception) -> str:
    """Return the message of an error, shortened."""
    lines = [line for line in str(error).splitlines() if not line.startswith("Error(s) in loading")]
    return textwrap.shorten(lines[0] if lines else type(error).__name__, 100, placeholder="...")


def load_weights(path: Path, objective: nn.Module) -> None:
    """Load the weights in a file into a model.

    Raises:
        UserError: the file is damaged, or of a model with other settings.
    """
    content = load(path)
    with refusing_misfits(path):
        objective.load_state_dict(content)


def images_seen(path: Path) -> int:
    """Return how far the training in a checkpoint has come.

    Raises:
        UserError: the file is damaged.
    """
    with refusing_misfits(path):
        return load(path)["progress"]["images_seen"]


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a file under a temporary name, then rename it; if the process is killed, the file before is kept.

    Raises:
        OSError: the file could not be written, for example because the disk is full; the file before is kept.
    """

    def write(unfinished: Path) -> None:
        try:
            with unfinished.open("wb") as file:  # given a path, torch keeps the file open, and the room taken
                torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # which torch hides
                raise error.__context__ from None
            raise

    replace_file(path, write)


def load(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, with its tensors in main memory.

    Only tensors and plain values are read; a file that would run code while it is loaded is refused.

    Raises:
        UserError: the file is damaged, or no checkpoint.
        OSError: it cannot be read, or there is none.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that was cut can make torch and its zip reader raise nearly anything
        if is_of_the_machine(error):
            raise
        reason = reason_of(error)
        raise UserError(f"{path} is damaged ({reason}): restore it, or start a new run by another --run_id") from None
