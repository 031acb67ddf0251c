"""Which values the next trial of a sweep tries: by Optuna's Bayesian optimisation, at random, or the next of a grid."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from data.seeding import mix_seeds
from sweeps.local.distributions import Point
from sweeps.local.sweep_file import Sweep

SUGGEST: Mapping[type[BaseDistribution], Callable[[Trial, str, Any], Point]] = {
    FloatDistribution: lambda trial, name, space: trial.suggest_float(name, space.low, space.high, log=space.log),
    IntDistribution: lambda trial, name, space: trial.suggest_int(name, space.low, space.high),
    CategoricalDistribution: lambda trial, name, space: trial.suggest_categorical(name, space.choices),
}


class Search(BaseSampler):
    """The sampler of a sweep's study.

    What it proposes depends on the seed, the trial's number and the trials so far alone: an agent that is killed and
    started again makes the same trials as one that was not.

    Args:
        sweep: what is searched, and how.
        seed: of all random draws.
    """

    def __init__(self, sweep: Sweep, seed: int) -> None:
        self.sweep = sweep
        self.seed = seed
        self.space = sweep.space
        self.propose = {"bayes": self.bayes, "random": self.draw, "grid": self.next_of_grid}[sweep.method]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Point]:
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        return self.propose(trial.number, others)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is not in the sweep's space")

    def draw(self, number: int, others: Sequence[FrozenTrial]) -> dict[str, Point]:
        """Return a random point, drawn from the distributions of the sweep file."""
        generator = random.Random(self.seed_of(number))
        return {name: self.sweep.parameters[name].draw(generator.random()) for name in self.space}

    def next_of_grid(self, number: int, others: Sequence[FrozenTrial]) -> dict[str, Point]:
        """Return the combination of a grid that has the trial's number."""
        combinations = self.sweep.grid()
        combination = combinations[number % len(combinations)]
        return {name: combination[name] for name in self.space}

    def bayes(self, number: int, others: Sequence[FrozenTrial]) -> dict[str, Point]:
        """Return the point at which a model of the trials so far expects the greatest improvement.

        Trials that were stopped early count with the best value that they had, failed ones with the worst of all.
        """
        known = {
            trial.number: self.sweep.metric.cost(self.sweep.best_value(trial))
            for trial in others
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.intermediate_values
        }
        if len(known) < max(4, 2 * len(self.space)):
            return self.draw(number, others)  # too few for a model
        worst = max(known.values())
        study = optuna.create_study(sampler=self.model(number))
        for trial in others:
            if trial.params.keys() != self.space.keys():
                continue
            is_running = trial.state == TrialState.RUNNING
            study.add_trial(
                create_trial(
                    params=trial.params,
                    distributions=self.space,
                    value=None if is_running else known.get(trial.number, worst),
                    state=TrialState.RUNNING if is_running else TrialState.COMPLETE,
                )
            )
        with threadpool_limits(1):  # the matrices are so small that threads would only wait for each other
            proposal = study.ask(self.space).params
        was_tried = any(trial.params == proposal for trial in others)  # at the end of a range, for example
        return self.draw(number, others) if was_tried else proposal

    def model(self, number: int) -> BaseSampler:
        """Return Optuna's Gaussian process or, where no parameter has an order, its tree of Parzen windows."""
        seed = self.seed_of(number)
        if all(isinstance(distribution, CategoricalDistribution) for distribution in self.space.values()):
            return TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
        return GPSampler(seed=seed, n_startup_trials=0)

    def seed_of(self, number: int) -> int:
        """Return the seed of one trial's draws."""
        return mix_seeds(self.seed, number, num=1)[0]


def settings_of(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """Return the settings of a trial in the order of the sweep file, constants included; the first call draws them."""
    points = {name: SUGGEST[type(space)](trial, name, space) for name, space in sweep.space.items()}
    return {name: parameter.value(points.get(name)) for name, parameter in sweep.parameters.items()}
