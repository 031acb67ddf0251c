"""Ways to search a space that depends on a choice, side by side: python -m tests.branch_methods 6.

Three functions of two or three branches, each with settings of its own; medians and quartiles over seeds of the best
value after 20 and 40 trials, whose optimum is 0. `ours` is sweeps/local/search.py. Beside it: random draws; Optuna's
TPE over groups; its Gaussian process over all settings at once, with those that do not apply in the middle.
"""

import argparse
import math
import statistics
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
from optuna.samplers import GPSampler, TPESampler
from optuna.trial import create_trial
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sweeps.local.search import Search, settings_of
from sweeps.local.sweep import Sweep
from tests.sweep_helpers import LR, ask, study_of, sweep_of, tell

UNIT = {"min": 0.0, "max": 1.0}
NUM_TRIALS = (20, 40)


def branched(own: dict[str, dict[str, Any]], shared: dict[str, Any]) -> Sweep:
    """A sweep whose parameter `model` chooses which others apply."""
    parameters = {name: entry for each in own.values() for name, entry in each.items()}
    sweep = sweep_of({"model": {"values": list(own)}, **shared, **parameters})
    limited = {
        name: replace(sweep.parameters[name], only_for=frozenset(model for model in own if name in own[model]))
        for name in parameters
    }
    return replace(sweep, parameters={**sweep.parameters, **limited}, chooser="model", is_flat=True)


def off(lr: float, best: float) -> float:
    return 0.5 * (math.log10(lr) - best) ** 2


def deceptive(model: str, lr: float, **own: float) -> float:
    """B is worse nearly everywhere, and better at its best."""
    if model == "A":
        return 0.3 + 0.3 * off(lr, -3) + 0.5 * (own["a1"] - 0.4) ** 2 + 0.02 * (own["a2"] - 4) ** 2
    return 2 * off(lr, -2.2) + 4 * (own["b1"] - 0.7) ** 2 + 4 * (own["b2"] - 0.3) ** 2 + 0.1 * (own["b3"] - 3) ** 2


def three(model: str, lr: float, **own: Any) -> float:
    """Three branches of one, three and five settings."""
    if model == "A":
        return 0.25 + off(lr, -2.5)
    if model == "B":
        return off(lr, -3) + 2 * (own["b1"] - 0.5) ** 2 + {"x": 0.5, "y": 0.0, "z": 0.2}[own["b2"]]
    return 0.15 + off(lr, -3.2) + sum((own[f"c{i}"] - 0.2 * i) ** 2 for i in range(1, 5))


def shared(model: str, lr: float, wd: float, **own: float) -> float:
    """Two branches that share most of what matters."""
    rest = 0.1 + (own["a1"] - 0.2) ** 2 if model == "A" else (own["b1"] - 0.8) ** 2
    return off(lr, -3) + 2 * (wd - 0.3) ** 2 + rest


FUNCTIONS: dict[str, tuple[Sweep, Callable[..., float]]] = {
    "deceptive": (
        branched(
            {"A": {"a1": UNIT, "a2": {"min": 1, "max": 8}}, "B": {"b1": UNIT, "b2": UNIT, "b3": {"min": 1, "max": 6}}},
            {"lr": LR},
        ),
        deceptive,
    ),
    "three": (
        branched(
            {"A": {}, "B": {"b1": UNIT, "b2": {"values": list("xyz")}}, "C": {f"c{i}": UNIT for i in range(1, 5)}},
            {"lr": LR},
        ),
        three,
    ),
    "shared": (branched({"A": {"a1": UNIT}, "B": {"b1": UNIT}}, {"lr": LR, "wd": UNIT}), shared),
}


class Grouped(Search):
    """Optuna's TPE over groups of settings, after as many random draws as ours makes without branches."""

    def bayes_by_branch(self, number: int, notes: Any, others: Any, settled: Any) -> dict[str, Any]:
        if len(others) < 2 * (1 + max(len(branch.space) for branch in self.branches.values())):
            return self.draw(number, others)
        sampler = TPESampler(seed=self.seed_of(number), n_startup_trials=0, multivariate=True, group=True)
        study = optuna.create_study(sampler=sampler)
        for trial in others:
            study.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=trial.value))
        proposal = study.ask()
        settings_of(self.sweep, proposal)
        return proposal.params


class Joint(Search):
    """One Gaussian process over all settings, those that do not apply in the middle of their ranges."""

    def bayes_by_branch(self, number: int, notes: Any, others: Any, settled: Any) -> dict[str, Any]:
        if len(others) < 2 * (1 + max(len(branch.space) for branch in self.branches.values())):
            return self.draw(number, others)
        middle = {name: self.sweep.parameters[name].draw(0.5) for name in self.space}
        study = optuna.create_study(sampler=GPSampler(seed=self.seed_of(number), n_startup_trials=0))
        for trial in others:
            params = {**middle, **trial.params}
            study.add_trial(create_trial(params=params, distributions=self.space, value=trial.value))
        with threadpool_limits(1):
            return self.without_others(study.ask(self.space).params)


class Chance(Search):
    """Random draws."""

    def bayes_by_branch(self, number: int, notes: Any, others: Any, settled: Any) -> dict[str, Any]:
        return self.draw(number, others)


METHODS = {"random": Chance, "grouped TPE": Grouped, "one GP": Joint, "ours": Search}


def best_values(name: str, method: str, seed: int) -> list[float]:
    """The best value after each of NUM_TRIALS."""
    sweep, function = FUNCTIONS[name]
    study, values = study_of(sweep, seed), []
    study.sampler = METHODS[method](sweep, seed)
    for _ in range(max(NUM_TRIALS)):
        trial, settings = ask(sweep, study)
        values.append(function(**settings))
        tell(study, trial, values[-1])
    return [min(values[:num]) for num in NUM_TRIALS]


def table(num_seeds: int) -> list[str]:
    """The rows of a table in Markdown."""
    rows = []
    for method in METHODS:
        cells = []
        for name in FUNCTIONS:
            for found in zip(*(best_values(name, method, seed) for seed in range(num_seeds)), strict=True):
                low, middle, high = statistics.quantiles(found, n=4)
                cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        rows.append(f"| {method} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.branch_methods", description=__doc__)
    parser.add_argument("num_seeds", type=int, help="two at least")
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    table(parser.parse_args().num_seeds)
