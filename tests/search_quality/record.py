"""Record tables of real trainings for the comparison of searches: python -m tests.search_quality.record NAME.

Each table holds the best validation loss of a small network on the digits that come with scikit-learn, at every point
of a grid of settings. What has been trained is kept, so that the same command goes on.
"""

import argparse
import itertools
import math
import time
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from analysis.record.evaluation import evaluate
from data.files import read_json, write_json
from models.core.processes import StopRequest
from models.core.training import DivergedError, Trainer
from models.loading import load_model, make_accelerator, read_data
from models.resolve import validate

FOLDER = Path(__file__).parent / "tables"
DIGITS = {"dataset": "digits", "val_fraction": 0.2, "seed": 1, "resident": "device", "tracking": "off"}
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
GRIDS: dict[str, dict[str, Any]] = {
    "mlp": {
        "fixed": {**DIGITS, "model": "mlp", "image_size": 8, "epochs": 10},
        "axes": {
            "lr": RATES,
            "weight_decay": [1e-5, 1e-3, 1e-1],
            "width": [16, 64, 256],
            "dropout": [0.0, 0.35, 0.7],
            "optimizer": ["sgd", "adamw"],
        },
    },
    "cnn": {
        "fixed": {**DIGITS, "model": "cnn", "image_size": 8, "depth": 2, "head_width": 32, "epochs": 5},
        "axes": {
            "lr": RATES,
            "batch_size": [16, 64, 256],
            "width": [2, 4, 8, 16],
            "dropout": [0.0, 0.4, 0.8],
        },
    },
}


def best_loss(told: dict[str, Any]) -> float:
    """Train a network; return its best validation loss, infinity if it diverged before there was one."""
    settings = validate(told, {})
    info, splits = read_data(settings)
    splits.pop("test", None)
    accelerator = make_accelerator(settings, on_cpu=True)
    objective, loaders = load_model(settings, info, splits, accelerator)
    trainer = Trainer(settings, accelerator, objective, loaders)
    found = math.inf
    try:
        for _ in range(settings.epochs):
            trainer.train_epoch(StopRequest())
            loss = evaluate(accelerator, trainer.evaluated, loaders["val"], settings.eval_batch_size).metrics["loss"]
            found = min(found, loss if math.isfinite(loss) else math.inf)
            trainer.progress.finish_epoch()
    except DivergedError:
        pass
    return found


def main() -> None:
    """Train what a table lacks, as far as the seconds reach."""
    parser = argparse.ArgumentParser(prog="python -m tests.search_quality.record", description=__doc__)
    parser.add_argument("name", choices=GRIDS)
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which it stops; the same goes on")
    options = parser.parse_args()
    started, grid = time.monotonic(), GRIDS[options.name]
    path = FOLDER / f"{options.name}_digits.json"
    table = read_json(path) or {**grid, "losses": []}
    points = list(itertools.product(*grid["axes"].values()))
    torch.set_num_threads(1)
    with threadpool_limits(1):
        while len(table["losses"]) < len(points) and time.monotonic() - started < options.seconds:
            point = dict(zip(grid["axes"], points[len(table["losses"])], strict=True))
            table["losses"].append(round(best_loss({**grid["fixed"], **point}), 5))
    FOLDER.mkdir(exist_ok=True)
    write_json(path, table)
    print(f"{path}: {len(table['losses'])} of {len(points)} trainings")


if __name__ == "__main__":
    main()
