"""How many trials a sweep has, how long one may take or say nothing, and how often one that crashes is tried again."""

import math
from dataclasses import dataclass

from optuna.trial import TrialState

from analysis.read.sweep_command import is_ours, told_by_command
from data.errors import UserError
from sweeps.local.sweep import Sweep
from sweeps.local.trial_run import TrialRun

MOST_REPEATS = 1000


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


def check_repeats(sweep: Sweep) -> None:
    """Refuse more runs of each trial than a sweep can have.

    Raises:
        UserError: its trials differ in their seeds already, or are told a fold, or have several metrics.
    """
    repeats = f"{sweep.repeats} {'folds' if sweep.folds else 'repeats'}"
    if sweep.repeats > 1 and not sweep.folds and "seed" in sweep.varied({}):
        raise UserError(f"{repeats}: the sweep searches the seed itself, leave one of them out")
    if sweep.folds and not is_ours(sweep.program):
        raise UserError(f"{repeats}: {sweep.program} may not know what a fold is: give --repeats")
    if sweep.folds and "fold" in {**told_by_command(sweep.content), **sweep.parameters}:
        raise UserError(f"{repeats}: the sweep tells its runs a fold itself, leave one of them out")
    if sweep.folds == 1:
        raise UserError("folds: 1 is no cross-validation: give at least 2")
    if sweep.repeats > 1 and len(sweep.objectives.metrics) > 1:
        raise UserError(f"{repeats} are for a single metric: leave them out, or write metric: for metrics:")
    if sweep.repeats > MOST_REPEATS:
        raise UserError(f"{repeats} are more runs than a trial will have: give at most {MOST_REPEATS}")
