"""Whether an agent can go on with a study: its database is undamaged, and its trials are comparable with new ones."""

from collections.abc import Iterable, Mapping
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from analysis.read.sweep_content import metrics_of
from analysis.read.trials import FOLDS, NOTES, NUMBER, check_notes, check_seeds, seeds_done
from analysis.record.wandb_start import NOT_APPLICABLE
from data.errors import UserError
from data.visible import counted
from sweeps.local.agreement import AMOUNTS, leaves_of
from sweeps.local.observations import observations
from sweeps.local.promotion import UNTIL, WAITS
from sweeps.local.sweep import Sweep

# Notes beside those that others read, too:
OWN_NOTES = {
    "seconds": NUMBER,
    "tries": int,
    "tried_at": int,
    "failures": int,
    "error": str,
    "ending": str,
    "peak_gib": NUMBER,
    "alone": bool,
    "halvings": int,
    "accumulation_steps": int,
    NOT_APPLICABLE: list,
    UNTIL: int,
    WAITS: int,
}


def check_study(study: Study, sweep: Sweep, known: Mapping[str, Any]) -> None:
    """Refuse a study that no agent has left so: something else has written to its database.

    Args:
        study: its trials.
        sweep: by the present file.
        known: content of the file that the study was last run with.

    Raises:
        Exception: of nearly any type, with what is wrong.
    """
    if len(study.directions) != 1:
        raise ValueError("it has lost its goal")
    leaves_of(known.get("parameters", {})), metrics_of(known)  # to see whether they can be read
    observations(sweep, study.user_attrs, [])  # likewise
    if not all(num is None or isinstance(num, int) for num in dict(study.user_attrs.get(AMOUNTS, {})).values()):
        raise TypeError(f"it has the {AMOUNTS} {str(study.user_attrs[AMOUNTS])[:100]}")
    for number, trial in enumerate(study.get_trials(deepcopy=False)):
        if trial.number != number:
            raise ValueError(f"trial {number} has the number {trial.number}")
        if not all(isinstance(value, float) for value in trial.intermediate_values.values()):
            raise TypeError(f"trial {number} has values that are no numbers")
        check_notes(number, trial.user_attrs, NOTES | OWN_NOTES)
        check_seeds(number, trial.user_attrs)


def check_amounts(name: str, started: Iterable[FrozenTrial], sweep: Sweep) -> None:
    """Refuse another number of folds or seeds than the trials so far have, since their values are not comparable.

    A lucky one of few seeds would beat means of many. A trial that is under way may still come to have as many, and one
    that was ended early has fewer in any case.

    Args:
        name: of the sweep.
        started: its trials that have a run.
        sweep: by the present file.

    Raises:
        UserError: with the number.
    """
    for trial in started:
        if (folds := trial.user_attrs.get(FOLDS, 0)) != sweep.folds:
            had, now = (f"{num} folds" if num else "no folds" for num in (folds, sweep.folds))
            raise UserError(f"the trials of {name} have {had}, not {now}: leave that, or give another --name")
        num = max(1, len(seeds_done(trial.user_attrs)))
        if num > sweep.repeats or (num < sweep.repeats and trial.state == TrialState.COMPLETE):
            raise UserError(
                f"trials of {name} have {counted(num, 'seed')}, not {sweep.repeats}: leave that, or give another --name"
            )
