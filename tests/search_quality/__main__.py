"""Compare our search with others on functions and on real trainings: python -m tests.search_quality (see --help).

Each search is done again with 20 seeds. The table has the medians of how far the best of the first 10, 20 and 40
trials is from the lowest value, with 95 % intervals by the bootstrap. What has been done is kept in a file, so that the
same command goes on.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import optuna
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tests.search_quality.problems import Problem, problems
from tests.search_quality.searchers import Engine, Proposals, at_random, gaussian_process, ours, tpe

NUM_TRIALS = (10, 20, 40)
NUM_RESAMPLES = 4000
OURS = "ours"
SEARCHERS: Mapping[str, Callable[[Problem, int], Proposals]] = {
    OURS: ours,
    "random": at_random,
    "Optuna TPE": tpe,
    "Optuna GP": gaussian_process,
}
ENGINE = "W&B"
Results = dict[tuple[str, str, int], list[float]]  # of a problem, a searcher and a seed: distances at NUM_TRIALS


def options_of() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.search_quality", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("search_quality.jsonl"), help="file of what has been done")
    parser.add_argument("--wandb", type=Path, metavar="PYTHON", help="interpreter that has `sweeps` of PyPI; else not")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="problems and searchers, by their names")
    parser.add_argument("--seeds", type=int, default=20, help="default: 20")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which it stops; the same goes on")
    return parser.parse_args()


def distances(problem: Problem, search: Proposals, seed: int) -> list[float]:
    """Return how far the trial that seems best lies above the lowest value, after each of NUM_TRIALS trials."""
    generator = np.random.default_rng([seed, 1])
    seemed, best, found = math.inf, math.inf, []
    settings = next(search)
    for number in range(1, max(NUM_TRIALS) + 1):
        value = problem.value(settings)
        told = value + problem.noise * float(generator.standard_normal())
        if told < seemed:
            seemed, best = told, value
        if number in NUM_TRIALS:
            found.append(best - problem.best)
        if number < max(NUM_TRIALS):
            settings = search.send(told)
    return found


def read(path: Path) -> Results:
    """Return what has been done."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {(problem, searcher, seed): found for problem, searcher, seed, found in map(json.loads, lines)}


def chosen(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """Return those that are asked for; all where none of them is named."""
    return [name for name in names if name in only] or list(names)


def search_all(options: argparse.Namespace, results: Results) -> bool:
    """Do what has not been done; return whether all of it has been."""
    started, all_problems = time.monotonic(), problems()
    with ExitStack() as stack, options.results.open("a", encoding="utf-8") as file:
        searchers = dict(SEARCHERS)
        if options.wandb:
            engine = Engine(options.wandb)
            stack.callback(engine.close)
            searchers[ENGINE] = engine.search
        for seed in range(options.seeds):
            for name in chosen(list(all_problems), options.only):
                for searcher in chosen(list(searchers), options.only):
                    if (name, searcher, seed) in results:
                        continue
                    if time.monotonic() - started > options.seconds:
                        return False
                    problem = all_problems[name]
                    found = distances(problem, searchers[searcher](problem, seed), seed)
                    results[name, searcher, seed] = found
                    print(json.dumps([name, searcher, seed, found]), file=file, flush=True)
    return True


def median_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, and the ends of its 95 % interval by the bootstrap."""
    drawn = np.random.default_rng(0).choice(values, (NUM_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, 1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def table(results: Results) -> tuple[list[str], bool]:
    """Return the table's lines, in Markdown, and whether ours is first or level everywhere."""
    names = list(dict.fromkeys(name for name, _, _ in results))
    searchers = [name for name in (*SEARCHERS, ENGINE) if any(name == key[1] for key in results)]
    lines = [f"| problem | trials | {' | '.join(searchers)} |", "|---" * (2 + len(searchers)) + "|"]
    is_ahead = True
    for name in problems():
        if name not in names:
            continue
        for i, num in enumerate(NUM_TRIALS):
            found = {}
            for searcher in searchers:
                values = [each[i] for key, each in results.items() if key[:2] == (name, searcher)]
                if values:
                    found[searcher] = median_and_interval(values)
            cells = [cell(found.get(searcher)) for searcher in searchers]
            if OURS in found:
                first = min(found.values())
                is_level = found[OURS][1] <= first[2] or found[OURS][0] <= first[0]
                is_ahead &= is_level
                cells[searchers.index(OURS)] += "" if is_level else " behind"
            lines.append(f"| {name} | {num} | {' | '.join(cells)} |")
    return lines, is_ahead


def cell(found: tuple[float, float, float] | None) -> str:
    """Write a median with its interval."""
    return "" if found is None else "{} ({}-{})".format(*map(short, found))


def short(number: float) -> str:
    """Write a number with two digits that count."""
    return f"{number:.2g}" if abs(number) >= 1e-3 or number == 0 else f"{number:.0e}".replace("e-0", "e-")


def main() -> int:
    """Compare, and print the table; the exit code is 0 if ours is first or level everywhere."""
    options = options_of()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    results = read(options.results)
    with threadpool_limits(1):
        is_done = search_all(options, results)
    lines, is_ahead = table(results)
    print(*lines, sep="\n")
    if not options.wandb and not any(searcher == ENGINE for _, searcher, _ in results):
        print("Without W&B's engine: --wandb names the Python of an environment with `pip install sweeps 'numpy<2'`")
    if not is_done:
        print(f"{len(results)} searches are done: the same command goes on")
    return int(not is_ahead)


if __name__ == "__main__":
    sys.exit(main())
