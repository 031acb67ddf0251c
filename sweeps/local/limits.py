"""How many trials a sweep has, how long one may take or say nothing, and how often one that crashes is tried again."""

import math
from dataclasses import dataclass

from optuna.trial import TrialState

from sweeps.local.trial_run import TrialRun


@dataclass(frozen=True)
class Limits:
    """What an agent allows trials.

    Attributes:
        count: trials of the whole sweep; None for no limit.
        retries: how often one that crashes, or says nothing, goes on from its checkpoint before it has failed.
        trial_minutes: for one trial, all its starts together; then it counts with its best value.
        silent_minutes: without a logged row.
        keep_weights: best trials that keep their weights; None for all.
    """

    count: int | None = None
    retries: int = 0
    trial_minutes: float = math.inf
    silent_minutes: float = math.inf
    keep_weights: int | None = None

    def enforce(self, run: TrialRun) -> None:
        """Ask a run to save its state and end if it has taken too long, or has said nothing for too long."""
        if run.seconds_in_all() > 60 * self.trial_minutes:
            run.end(f"over its {self.trial_minutes:g} minutes", TrialState.PRUNED)
        elif run.seconds_silent() > 60 * self.silent_minutes:
            run.end(f"silent for {self.silent_minutes:g} minutes", TrialState.FAIL)
