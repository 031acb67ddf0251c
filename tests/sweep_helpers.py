"""What the tests of a sweep's parts share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from sweeps.local.search import Search, settings_of
from sweeps.local.sweep import Sweep
from sweeps.local.sweep_file import parse_sweep

ROOT = Path(__file__).parents[1]
LR = {"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1}


LEFT_OUT = object()


def content(changes: Mapping[Any, Any] = {}, **more: Any) -> dict[Any, Any]:
    """A sweep file's content, but for some changes."""
    whole = {
        "program": str(ROOT / "train.py"),
        "method": "bayes",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "parameters": {"lr": LR},
        **changes,
        **more,
    }
    return {key: value for key, value in whole.items() if value is not LEFT_OUT}


def sweep_of(parameters: Mapping[str, Any], **changes: Any) -> Sweep:
    return parse_sweep(content(parameters=dict(parameters), **changes))


def study_of(sweep: Sweep, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=Search(sweep, seed), direction=sweep.metric.goal)


def ask(sweep: Sweep, study: optuna.Study) -> tuple[optuna.Trial, dict[str, Any]]:
    trial = study.ask()
    return trial, settings_of(sweep, trial)


def tell(study: optuna.Study, trial: optuna.Trial, value: float, state: TrialState = TrialState.COMPLETE) -> None:
    trial.report(value, 1)
    study.tell(trial, value if state == TrialState.COMPLETE else None, state)
