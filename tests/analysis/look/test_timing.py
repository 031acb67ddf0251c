"""What the stopwatch of the benchmarks counts on a device that works on by itself."""

import time

from analysis.look.timing import seconds

STEP_SECONDS = 0.2


class Accelerator:
    """A device whose work is queued, and takes its time only where somebody waits for it."""

    def __init__(self):
        self.queued = 0

    def is_available(self):
        return True

    def synchronize(self):
        time.sleep(STEP_SECONDS * self.queued)
        self.queued = 0

    def launch(self):
        self.queued += 1


def test_work_is_timed_to_its_end_and_not_what_was_queued_before(monkeypatch):
    device = Accelerator()
    monkeypatch.setattr("torch.accelerator", device)
    for _ in range(3):
        device.launch()  # a warm-up, such as that of the bare loop
    assert STEP_SECONDS <= seconds(device.launch) < 2 * STEP_SECONDS
