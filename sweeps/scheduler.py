"""This suite's search for sweeps that W&B hosts: what `wandb sweep-scheduler` takes its proposals from.

The scheduler is a part of W&B's client, experimental in 0.31. A sweep file that has these lines

    method: custom
    scheduler: {engine: optuna, source: sweeps/scheduler.py, optimizer: study, search_space: settings}

is searched by `wandb sweep-scheduler ENTITY/PROJECT/ID`, started in this checkout, once for all agents. These are
started as ever, by `wandb agent`. The search is that of sweeps/agent.py then: by Bayesian optimisation or, where W&B
takes such a file, by another method of it and with its `early_terminate`.
"""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import optuna
from optuna.pruners import BasePruner
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from data.errors import UserError
from data.internals import trial_id
from sweeps.local.contract import checked
from sweeps.local.early_terminate import Asha, Costs
from sweeps.local.observations import points_of
from sweeps.local.search import Search, left_of_grid, settings_of
from sweeps.local.sweep import Sweep
from sweeps.local.sweep_file import parse_sweep

SEED = 3407
EXPONENTIAL = re.compile(r"-?[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]+")
LAST = 2**31 - 1  # a step after all others


class HostedSearch(Search):
    """The search of a sweep whose trials W&B keeps."""

    def is_exhausted(self, study: Study) -> bool:
        """Return whether a grid has been tried; the scheduler asks for it before each proposal."""
        return self.sweep.method == "grid" and not left_of_grid(self.sweep, study.trials)


class HostedTrial(Trial):
    """A trial whose values come from W&B."""

    def report(self, value: float, step: int) -> None:
        """Store a value that is finite: the local agent leaves out others, too, which are not better or worse."""
        if math.isfinite(float(value)):
            super().report(value, step)


class HostedStudy(Study):
    """Optuna's study of a sweep whose trials W&B keeps: it is made anew with each start of the scheduler."""

    sampler: HostedSearch

    def ask(self, *arguments: Any, **options: Any) -> Trial:
        """Return a new trial."""
        return HostedTrial(self, trial_id(super().ask(*arguments, **options)))

    def tell(self, trial: Any, values: Any = None, *arguments: Any, **options: Any) -> FrozenTrial:
        """Store how a trial has ended; its final value counts among those that it has logged, of which W&B samples."""
        if values is not None:
            trial.report(values, LAST)
        return super().tell(trial, values, *arguments, **options)

    def enqueue_trial(self, params: dict[str, Any], *arguments: Any, **options: Any) -> None:
        """Let the next trial be a run that W&B has, by its config; the scheduler does so with each as it starts.

        Raises:
            UserError: it has a value that cannot come out of the sweep's distributions.
        """
        sweep = self.sampler.sweep
        points = points_of(sweep, params)
        if points is None:
            raise UserError("its settings are none of this sweep")
        super().enqueue_trial(points, *arguments, **options)


class EarlyTermination(BasePruner):
    """Stops runs by the rule of a sweep file's `early_terminate`."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether a running trial is to be stopped."""
        rule = self.sweep.early_terminate
        if rule is None:
            return False
        trials = study.get_trials(deepcopy=False)
        finished = [other.number for other in trials if other.state == TrialState.COMPLETE]
        return trial.number in rule.to_stop(costs_by_epoch(self.sweep, trials), [trial.number], finished)


def costs_by_epoch(sweep: Sweep, trials: Sequence[FrozenTrial]) -> Costs:
    """Return the values of each trial, by its number, as if W&B had not sampled them, with less as the better.

    A value that is missing is the one before it. W&B's step is the place of a row, so that with `log_every` there are
    several to each value, as many as come before the first one of any trial.
    """
    logged = {trial.number: sorted(trial.intermediate_values.items()) for trial in trials}
    histories = {number: [(step, value) for step, value in rows if step != LAST] for number, rows in logged.items()}
    num_rows = min((history[0][0] + 1 for history in histories.values() if history), default=1)
    costs: dict[int, list[float]] = {}
    for number, history in histories.items():
        own = costs.setdefault(number, [])
        for step, value in history:
            cost = sweep.metric.cost(value)
            own += [own[-1] if own else cost] * (round((step + 1) / num_rows) - 1 - len(own)) + [cost]
    return costs


def study(info: Any) -> Study:
    """Return the study that searches a sweep of W&B.

    Args:
        info: the client's SweepInfo.

    Raises:
        ValueError: its sweep file is none that sweeps/agent.py takes.
    """
    sweep = checked(parse_sweep(with_numbers(info.config)))
    if "metrics" in sweep.content:
        raise UserError("sweeps/scheduler.py searches by one metric: write metric: in place of metrics:")
    if isinstance(sweep.early_terminate, Asha):
        raise UserError("W&B's runs cannot wait to be promoted: write type: hyperband in place of asha")
    storage = InMemoryStorage()
    optuna.create_study(storage=storage, study_name=info.id, direction=sweep.metric.goal)
    return HostedStudy(info.id, storage, HostedSearch(sweep, SEED), EarlyTermination(sweep))


def with_numbers(part: Any) -> Any:
    """Return a part of a sweep file with the numbers such as 1e-05 in it, which JSON writes, and YAML reads as text."""
    if isinstance(part, dict):
        return {key: with_numbers(value) for key, value in part.items()}
    if isinstance(part, list):
        return [with_numbers(value) for value in part]
    return float(part) if isinstance(part, str) and EXPONENTIAL.fullmatch(part) else part


def settings(trial: Trial) -> Mapping[str, Any]:
    """Return what a trial's run is told. The scheduler also tries it on a study of its own, where it is nothing."""
    search = trial.study.sampler
    return settings_of(search.sweep, trial) if isinstance(search, Search) else {}
