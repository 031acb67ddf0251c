"""The searches that are compared: ours, at random, W&B's own engine, and Optuna's samplers as they come."""

import json
import subprocess
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState

from sweeps.local.search import Search, settings_of
from sweeps.local.sweep import Sweep
from sweeps.local.sweep_file import parse_sweep
from tests.search_quality.problems import Problem

Proposals = Generator[dict[str, Any], float, None]  # gives settings, and is sent the loss that came of them
ENGINE = Path(__file__).with_name("wandb_engine.py")


def config_of(problem: Problem, method: str) -> dict[str, Any]:
    """Return the content of a sweep file."""
    metric = {"name": "loss", "goal": "minimize"}
    return {"program": __file__, "method": method, "metric": metric, "parameters": dict(problem.parameters)}


def by_sampler(problem: Problem, method: str, sampler_of: Callable[[Sweep], BaseSampler]) -> Proposals:
    """Search as the local agent does with one worker, by any sampler of Optuna."""
    sweep = parse_sweep(config_of(problem, method))
    study = optuna.create_study(sampler=sampler_of(sweep))
    while True:
        trial = study.ask()
        loss = yield settings_of(sweep, trial)
        trial.report(loss, 1)
        study.tell(trial, loss, TrialState.COMPLETE)


def ours(problem: Problem, seed: int) -> Proposals:
    """Search by `method: bayes`."""
    return by_sampler(problem, "bayes", lambda sweep: Search(sweep, seed))


def at_random(problem: Problem, seed: int) -> Proposals:
    """Search by `method: random`."""
    return by_sampler(problem, "random", lambda sweep: Search(sweep, seed))


def tpe(problem: Problem, seed: int) -> Proposals:
    """Search by Optuna's tree of Parzen windows."""
    return by_sampler(problem, "bayes", lambda sweep: TPESampler(seed=seed))


def gaussian_process(problem: Problem, seed: int) -> Proposals:
    """Search by Optuna's Gaussian process."""
    return by_sampler(problem, "bayes", lambda sweep: GPSampler(seed=seed))


class Engine:
    """W&B's own engine, in a process of its own.

    Args:
        python: the interpreter of an environment that has `sweeps`.
    """

    def __init__(self, python: Path) -> None:
        self.process = subprocess.Popen(
            [python, "-I", ENGINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Tell it something; return its next proposal."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(told), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def search(self, problem: Problem, seed: int) -> Proposals:
        """Search by `method: bayes` of W&B."""
        settings = self.ask({"config": config_of(problem, "bayes"), "seed": seed})
        while True:
            loss = yield settings
            settings = self.ask({"value": loss})

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
