"""The sign of life that an agent gives the others."""

import threading
import time

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from sweeps.local.trials import Claim, Trials


class Heartbeat:
    """Beats in a thread of its own, since the agent itself may be busy for minutes; used as a context.

    Args:
        trials: of the agent.
        seconds: between beats.
    """

    def __init__(self, trials: Trials, seconds: float) -> None:
        self.trials = trials
        self.seconds = seconds
        self.held: tuple[float, set[int]] | None = None  # when the storage was last asked, and what the agent held then
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.beat, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.is_over.set()
        self.thread.join(self.seconds)

    def beat(self) -> None:
        """Beat until it is over."""
        while not self.is_over.wait(self.seconds):
            asked = time.monotonic()
            try:
                self.held = asked, self.trials.claims.beat()
            except (SQLAlchemyError, StorageInternalError):  # the agent itself finds out that the storage is away
                continue

    def has_lost(self, claim: Claim, since: float) -> bool:
        """Return whether another agent has taken over a trial that this one claimed before the time `since`."""
        if self.held is None:
            return False
        asked, held = self.held
        return since < asked and claim.trial_id not in held
