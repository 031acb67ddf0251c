"""Which trials of a sweep wait at a rung, and which of them may go on, by what the storage has of all trials.

A trial has two notes there: `until`, the rung up to which it may run, and `waits`, the last rung at which its run has
ended with its state saved. It waits where they are equal; to promote it is to raise `until`. So whatever is killed in
between, the next agent finds a trial that waits, or one that goes on.
"""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from analysis.read.trials import REPEATS
from sweeps.local.early_terminate import Asha, Costs
from sweeps.local.sweep import Sweep

UNTIL, WAITS = "until", "waits"


def logged_costs(sweep: Sweep, trials: Sequence[FrozenTrial]) -> Costs:
    """Return the values that each trial has logged, with the sign at which less is better, by its number."""
    return {
        trial.number: [sweep.metric.cost(value) for _, value in sorted(trial.intermediate_values.items())]
        for trial in trials
    }


def is_waiting(sweep: Sweep, trial: FrozenTrial) -> bool:
    """Return whether a trial waits at a rung; none does once the sweep's file no longer asks for promotions."""
    notes = trial.user_attrs
    is_open = trial.state == TrialState.RUNNING and isinstance(sweep.early_terminate, Asha)
    return is_open and WAITS in notes and notes[WAITS] == notes.get(UNTIL)


def goal_of(sweep: Sweep, trial: FrozenTrial) -> int:
    """Return the rung up to which a trial runs when it is claimed; 0 if that is to its end."""
    rule, notes = sweep.early_terminate, trial.user_attrs
    if not isinstance(rule, Asha):
        return 0
    if UNTIL in notes and notes.get(WAITS) != notes[UNTIL]:  # it was under way
        return notes[UNTIL]
    return rule.rung_after(max(notes.get(UNTIL, 0), len(trial.intermediate_values) - 1))


def is_observed(trial: FrozenTrial) -> bool:
    """Return whether a trial's value so far counts for the search: it has ended, come to a rung, or had a seed."""
    has_ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return bool(trial.intermediate_values) and (has_ended or not trial.user_attrs.keys().isdisjoint((WAITS, REPEATS)))


def promotable(sweep: Sweep, trials: Sequence[FrozenTrial], count: int | None) -> list[int]:
    """Return the numbers of the waiting trials that may go on, in the order in which they should.

    Once all trials of the sweep have been started and wait, and none has come to its end, the best one goes on: a sweep
    of few trials ends with one that is trained to its end, too.

    Args:
        sweep: what is searched.
        trials: all of it, by number.
        count: number of trials of the whole sweep; None for no limit.
    """
    rule = sweep.early_terminate
    waiting = {trial.number: trial.user_attrs[WAITS] for trial in trials[:count] if is_waiting(sweep, trial)}
    if not isinstance(rule, Asha) or not waiting:
        return []
    costs = logged_costs(sweep, trials)
    if found := rule.to_promote(costs, waiting):
        return found
    started = trials[:count]
    is_under_way = any(trial.state == TrialState.RUNNING and trial.number not in waiting for trial in started)
    has_winner = any(trial.state == TrialState.COMPLETE for trial in started)
    return [] if len(started) != count or is_under_way or has_winner else rule.leader(costs, waiting)


def hopeless(sweep: Sweep, trials: Sequence[FrozenTrial], count: int | None) -> list[int]:
    """Return the numbers of the waiting trials that cannot be promoted any more, whatever comes; see `promotable`."""
    rule = sweep.early_terminate
    if not isinstance(rule, Asha) or count is None:
        return []
    waiting = {trial.number: trial.user_attrs[WAITS] for trial in trials if is_waiting(sweep, trial)}
    running = [trial.number for trial in trials if trial.state == TrialState.RUNNING and trial.number not in waiting]
    return rule.hopeless(logged_costs(sweep, trials), waiting, running, max(0, count - len(trials)))
