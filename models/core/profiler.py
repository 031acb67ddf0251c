"""A trace of some training steps, by torch's profiler."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from data.errors import UserError
from data.visible import counted, say
from models.core.settings import Settings

TRACE = "trace.json.gz"  # in the run's folder
SKIPPED = 5  # steps before those that are recorded, in which memory is allocated and kernels are chosen


def check_profile(settings: Settings, steps_per_epoch: int) -> None:
    """Refuse to record steps of a run that has only those that are passed over.

    Raises:
        UserError: it is too short.
    """
    num_steps = settings.epochs * steps_per_epoch
    if settings.profile and num_steps <= SKIPPED:
        raise UserError(
            f"--profile={settings.profile} records from step {SKIPPED + 1} on, and the run has {num_steps}: give it "
            f"more --epochs"
        )


class Profiler:
    """Records the steps of this process after the first five, up to the end of the epoch, and writes their trace.

    Args:
        num_steps: that are recorded; 0 for none.
        folder: that the trace is written into.
    """

    def __init__(self, num_steps: int, folder: Path) -> None:
        self.num_steps = num_steps
        self.path = folder / TRACE
        self.step = 0
        self.running: profile | None = None

    def begin_step(self) -> None:
        """Begin to record with the first step after those that are passed over."""
        if self.step == SKIPPED and self.num_steps:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self.running = profile(activities=activities)
            self.running.start()

    def end_step(self) -> None:
        """Count a step; write the trace after the last one that is recorded."""
        self.step += 1
        if self.step == SKIPPED + self.num_steps:
            self.close()

    def close(self) -> None:
        """Write what has been recorded, if anything has."""
        if self.running is None:
            return
        self.running.stop()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.running.export_chrome_trace(str(self.path))
        self.running = None
        say(f"trace of {counted(self.step - SKIPPED, 'step')}: {self.path}, to be opened in ui.perfetto.dev")
