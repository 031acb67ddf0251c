"""Rows that are logged every few training steps: losses, learning rate, gradient norms, speed."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from models.core.checkpoint import Progress


class StepLog:
    """Writes a row every few steps, with the figures of this process.

    Args:
        every: steps from one row to the next; 0 for none.

    Attributes:
        write: function that logs a row; train.py sets it.
        norms: phase -> norm of its gradients before they are clipped, in a step that a row is due for.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.write: Callable[[dict[str, float]], None] = lambda row: None
        self.norms: dict[str, Tensor] = {}
        self.since = 0.0, 0  # when the latest row was due or training began, and how many images were seen by then

    def start(self, images_seen: int) -> None:
        """Note that training begins, or goes on after an evaluation."""
        self.since = time.perf_counter(), images_seen

    def is_due(self, step: int, num: int = 1) -> bool:
        """Return whether a row is due after this many steps, or after one of the `num` - 1 steps that follow."""
        return bool(self.every) and (step + num - 1) // self.every > (step - 1) // self.every

    def end_step(self, progress: Progress, steps_per_epoch: int, lr: float, turns: Mapping[str, int]) -> None:
        """Write the row of the step that has just been counted, if one is due.

        Args:
            progress: with the loss terms of the epoch's steps.
            steps_per_epoch: steps.
            lr: of the step.
            turns: phase -> steps from one in which it takes place to the next.
        """
        step = progress.epoch * steps_per_epoch + progress.step
        if not self.is_due(step):
            return
        means = {}
        for key, values in progress.terms.items():
            phase = key.split("/")[1]
            num = sum(each % turns[phase] == 0 for each in range(step - self.every, step))
            if recent := values[-num:] if num else []:
                name = f"step/{key.removeprefix('train/')}"
                means[name] = torch.stack(recent).cpu().double().mean().item()
        norms = {f"step/{key}/gradient_norm": value.item() for key, value in self.norms.items()}
        seconds, images = time.perf_counter() - self.since[0], progress.images_seen - self.since[1]
        self.write(
            {
                "epoch": step / steps_per_epoch,
                "images_seen": progress.images_seen,
                "step": step,
                "step/lr": lr,
                "step/images_per_second": images / seconds,
                **means,
                **norms,
            }
        )
        self.norms = {}
        self.start(progress.images_seen)
