"""Runs side by side on this machine: where each runs, when it has ended, and how all are stopped or killed."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Generic, TypeVar

from models.core.processes import SECONDS_OF_ONE_REQUEST
from sweeps.local.launch import Run

SECONDS_BETWEEN_LOOKS = 0.1
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AnyRun = TypeVar("AnyRun", bound=Run)


class Pool(Generic[AnyRun]):
    """A number of slots, each for one run at a time and with its own part of the machine.

    A signal to this process does nothing but join `signals`, for the owner of the pool to act on.

    Args:
        devices: for each slot, the environment variables that give its runs their GPUs or their share of the cores.
    """

    def __init__(self, devices: Sequence[Mapping[str, str]]) -> None:
        self.devices = devices
        self.slots: list[AnyRun | None] = [None] * len(devices)
        self.signals: list[int] = []
        self.noted_at = 0.0  # when the newest of them came
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores that a terminal is closed
                signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; the same one within a second is the same request, which has come by two ways."""
        now = time.monotonic()
        if number not in self.signals or now - self.noted_at > SECONDS_OF_ONE_REQUEST:
            self.signals.append(number)
            self.noted_at = now

    @property
    def exit_code(self) -> int:
        """Exit code of a program that the first signal has ended; 0 without a signal."""
        return 128 + self.signals[0] if self.signals else 0

    @property
    def runs(self) -> list[AnyRun]:
        """The runs that have a slot."""
        return [run for run in self.slots if run is not None]

    def free_slots(self) -> list[int]:
        """Return the numbers of the slots that are free."""
        return [number for number, run in enumerate(self.slots) if run is None]

    def add(self, run: AnyRun, slot: int) -> None:
        """Give a run that has been started with the `devices` of a slot that slot."""
        self.slots[slot] = run

    def free(self, run: AnyRun) -> None:
        """Free the slot of a run that has ended."""
        self.slots[self.slots.index(run)] = None

    def ended(self) -> list[AnyRun]:
        """Return the runs that have ended, and kill those that were to end and take too long."""
        return [run for run in self.runs if run.has_ended()]

    def work(
        self,
        fill: Callable[[], None],
        note: Callable[[AnyRun], None],
        is_left: Callable[[], bool],
        is_over: Callable[[], bool],
    ) -> None:
        """Go on until no run is under way, and none is left to start; a second signal kills those that are.

        Args:
            fill: starts runs in the free slots.
            note: is told of each run that has ended.
            is_left: whether there are runs to start.
            is_over: whether no more are to be started, and those under way are to save their state and end.
        """
        try:
            while self.runs or (is_left() and not is_over()):
                for run in self.ended():
                    self.free(run)
                    note(run)
                if len(self.signals) > 1:
                    self.kill()
                if is_over():
                    self.stop("stopped")
                else:
                    fill()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:  # runs are left only where an exception has ended the loop: nobody reads the output any more
            self.close("stopped")

    def watch(self, starts: Iterable[Callable[[Mapping[str, str]], AnyRun]]) -> Iterator[tuple[AnyRun, bool]]:
        """Start runs in the free slots, one after the other, and look at all that are under way until they have ended.

        Args:
            starts: each starts a run on a device.

        Yields:
            At every look each run, and whether it has ended: then it is yielded for the last time.

        Raises:
            KeyboardInterrupt: a signal has come. Here and after any other error, the owner is to kill what is left.
        """
        waiting = list(starts)
        while waiting or self.runs:
            for slot in self.free_slots()[: len(waiting)]:
                self.add(waiting.pop(0)(self.devices[slot]), slot)
            for run in self.runs:
                if has_ended := run.has_ended():
                    self.free(run)
                yield run, has_ended
            if self.signals:
                raise KeyboardInterrupt
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def stop(self, reason: str) -> None:
        """Ask every run to save its state and end."""
        for run in self.runs:
            run.stop(reason)

    def has_ended(self) -> bool:
        """Return whether no run is under way any more; kill those that were to end and take too long."""
        return len(self.ended()) == len(self.runs)

    def close(self, reason: str) -> None:
        """Ask every run that is left to save its state and end, and wait until it has; a second signal kills them."""
        self.stop(reason)
        while not self.has_ended():
            if len(self.signals) > 1:
                self.kill()
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def kill(self) -> None:
        """Kill every run, and wait until all are dead."""
        for run in self.runs:
            run.kill()
        for run in self.runs:
            run.process.wait()
