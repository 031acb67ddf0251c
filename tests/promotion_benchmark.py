"""Compare early terminations on recorded learning curves: python -m tests.promotion_benchmark.

What counts is the epochs that a sweep by random search trains, all trials together, until one has a value within 1 % of
the best of all curves. The curves are of real trainings on the digits that come with scikit-learn, small networks with
random settings; `--record SECONDS` trains those that the file lacks, as far as the seconds reach.
"""

import argparse
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.files import read_json, write_json
from data.metrics import metric_named, shown
from sweeps.local.early_terminate import Asha, EarlyTerminate, Hyperband, Median

CURVES = Path(__file__).parent / "promotion_curves.json"
NUM_EPOCHS, NUM_CURVES = 27, 128
NEAR = 0.01  # of the best, as a share
RULES: Mapping[str, EarlyTerminate | None] = {
    "none": None,
    "hyperband": Hyperband((1, 3, 9), eta=3),
    "asha": Asha((1, 3, 9), eta=3),
    "median": Median(min_iter=3, min_trials=5),
}


def settings_of(number: int) -> dict[str, Any]:
    """Return the settings of a curve: half of the networks are of each kind."""
    draw = random.Random(number)
    model = ("mlp", "cnn")[number % 2]
    return {
        "model": model,
        "lr": round(10 ** draw.uniform(-4.5, -1), 7),
        "width": draw.choice([16, 64, 256] if model == "mlp" else [2, 4, 8]),
        "weight_decay": round(10 ** draw.uniform(-6, 0), 7),
        "dropout": round(draw.uniform(0, 0.7), 2),
        "schedule": draw.choice(["constant", "cosine"]),
    }


def train(told: Mapping[str, Any]) -> dict[str, list[float]]:
    """Train a network; return its validation loss and accuracy after each epoch, as far as it did not diverge."""
    from analysis.record.evaluation import evaluate  # imported late, as are the others here: they load torch
    from models.core.processes import StopRequest
    from models.core.training import DivergedError, Trainer
    from models.loading import load_model, make_accelerator, read_data
    from models.resolve import validate

    fixed = {"dataset": "digits", "image_size": 8, "val_fraction": 0.5, "epochs": NUM_EPOCHS, "optimizer": "adamw"}
    own = {"depth": 2, "head_width": 32} if told["model"] == "cnn" else {}
    settings = validate({**fixed, **own, **told, "tracking": "off"}, {})
    info, splits = read_data(settings)
    splits.pop("test", None)
    accelerator = make_accelerator(settings, on_cpu=True)
    objective, loaders = load_model(settings, info, splits, accelerator)
    trainer, curves = Trainer(settings, accelerator, objective, loaders), dict[str, list[float]]()
    try:
        for _ in range(NUM_EPOCHS):
            trainer.train_epoch(StopRequest())
            found, _ = evaluate(accelerator, trainer.evaluated, loaders["val"], settings.eval_batch_size)
            for name in ("loss", "accuracy"):
                curves.setdefault(f"val/{name}", []).append(float(f"{found[name]:.4g}"))
            trainer.progress.finish_epoch()
    except DivergedError:
        pass
    return curves


def record(seconds: float) -> None:
    """Train what the file of curves lacks, as far as the seconds reach."""
    import torch  # imported late: takes seconds

    started, known = time.monotonic(), list(read_json(CURVES).get("curves", []))
    torch.set_num_threads(1)
    while len(known) < NUM_CURVES and time.monotonic() - started < seconds:
        told = settings_of(len(known))
        known.append({**told, **train(told)})
        write_json(CURVES, {"curves": known})
    print(f"{CURVES}: {len(known)} of {NUM_CURVES} curves")


class Spent(NamedTuple):
    """What a sweep has cost until it was as near as that: epochs of all trials, trials that were begun."""

    epochs: int
    trials: int
    has_arrived: bool


def search(rule: EarlyTerminate | None, curves: Sequence[Sequence[float]], goal: float, num_workers: int) -> Spent:
    """Run a sweep over curves in their order, as the agent does, an epoch of every worker at a time.

    Args:
        rule: of early termination.
        curves: of each trial, with the sign at which less is better.
        goal: the sweep ends with a value that is no worse.
        num_workers: trials at a time.
    """
    costs: dict[int, list[float]] = {}
    until, waiting, finished, running = dict[int, int](), dict[int, int](), list[int](), list[int]()
    spent = 0
    while True:
        while len(running) < num_workers:
            promoted = rule.to_promote(costs, waiting) if isinstance(rule, Asha) else []
            if isinstance(rule, Asha) and not promoted and not running and not finished and len(costs) == len(curves):
                promoted = rule.leader(costs, waiting)
            if promoted:
                trial = promoted[0]
                del waiting[trial]
            elif len(costs) < len(curves):
                trial = len(costs)
                costs[trial] = []
            else:
                break
            until[trial] = rule.rung_after(until.get(trial, 0)) if isinstance(rule, Asha) else 0
            running.append(trial)
        if not running:
            return Spent(spent, len(costs), False)
        for trial in running:
            costs[trial].append(curves[trial][len(costs[trial])])
            spent += 1
            if costs[trial][-1] <= goal:
                return Spent(spent, len(costs), True)
        finished += [trial for trial in running if len(costs[trial]) == len(curves[trial])]
        waiting |= {
            trial: until[trial] for trial in running if trial not in finished and len(costs[trial]) == until[trial]
        }
        running = [trial for trial in running if trial not in finished and trial not in waiting]
        stopped = rule.to_stop(costs, running, finished) if rule else []
        running = [trial for trial in running if trial not in stopped]


def main() -> None:
    """Record curves, or print a table with a row for each rule."""
    parser = argparse.ArgumentParser(prog="python -m tests.promotion_benchmark", description=__doc__)
    parser.add_argument("--record", type=float, metavar="SECONDS", help="train curves that the file lacks")
    parser.add_argument("--seeds", type=int, default=10, help="orders of the trials; default: 10")
    parser.add_argument("--workers", type=int, default=4, help="trials at a time; default: 4")
    parser.add_argument(
        "--metric", choices=("val/accuracy", "val/loss"), default="val/accuracy", help="what is searched"
    )
    options = parser.parse_args()
    if options.record is not None:
        record(options.record)
        return
    metric = metric_named(options.metric)
    curves = [entry[metric.name] for entry in read_json(CURVES)["curves"]]
    best = min((value for curve in curves for value in curve), key=metric.cost)
    goal = metric.cost(best) + NEAR * abs(best)
    num_near = sum(min(map(metric.cost, curve)) <= goal for curve in curves)
    print(f"{len(curves)} curves, best {shown(metric.name, best)}; {num_near} come within {NEAR:.0%} of it")
    print(f"{options.seeds} orders, {options.workers} workers")
    print(f"{'rule':<10} {'epochs':>7} {'quartiles':>14} {'trials':>7} {'arrived':>8}")
    for name, rule in RULES.items():
        found = []
        for seed in range(options.seeds):
            order = [[metric.cost(value) for value in curve] for curve in curves]
            random.Random(seed).shuffle(order)
            found.append(search(rule, order, goal, options.workers))
        low, middle, high = statistics.quantiles([each.epochs for each in found], n=4, method="inclusive")
        trials = statistics.median(each.trials for each in found)
        arrived = f"{sum(each.has_arrived for each in found)}/{len(found)}"
        print(f"{name:<10} {middle:>7.0f} {f'{low:.0f} to {high:.0f}':>14} {trials:>7.0f} {arrived:>8}")


if __name__ == "__main__":
    main()
