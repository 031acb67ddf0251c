"""Measure how long a proposal takes, by the number of trials before it: python -m tests.search_quality.times."""

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import create_trial

from sweeps.local.search import Search, settings_of
from sweeps.local.sweep_file import parse_sweep
from tests.search_quality.problems import Problem, problems
from tests.search_quality.searchers import config_of

NUMS_TRIALS = (50, 200, 1000)
NUM_PROPOSALS = 5


def study_with(problem: Problem, num_trials: int) -> tuple[optuna.Study, Any]:
    """Return a study in memory with trials that have ended, and its sweep."""
    sweep = parse_sweep(config_of(problem, "bayes"))
    search = Search(sweep, seed=0)
    study = optuna.create_study(sampler=search)
    trials = []
    for number in range(num_trials):
        points = search.draw(number, [])
        settings: Mapping[str, Any] = sweep.told(points)
        value = problem.value(settings)
        notes = {"settings": dict(settings), "run_id": f"{number:03d}-run"}
        trials.append(
            create_trial(
                params=points,
                distributions=sweep.space,
                value=value,
                intermediate_values={1: value + 1, 2: value},
                user_attrs=notes,
            )
        )
    study.add_trials(trials)
    return study, sweep


def seconds_of_proposals(problem: Problem, num_trials: int) -> list[float]:
    """Return the seconds that proposals take, one after the other, while the trials before them are under way."""
    study, sweep = study_with(problem, num_trials)
    found = []
    for _ in range(NUM_PROPOSALS + 1):
        started = time.perf_counter()
        settings_of(sweep, study.ask())
        found.append(time.perf_counter() - started)
    return found[1:]  # the first one loads libraries


def main() -> None:
    """Print a table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"| problem | {' | '.join(f'{num:,} trials' for num in NUMS_TRIALS)} |")
    print("|---" * (1 + len(NUMS_TRIALS)) + "|")
    for name in ("branin", "mixed", "hartmann 6", "choices"):
        cells = []
        for num in NUMS_TRIALS:
            seconds = seconds_of_proposals(problems()[name], num)
            cells.append(f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.search_quality.times", description=__doc__).parse_args()
    main()
