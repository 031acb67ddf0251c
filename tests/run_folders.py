"""Made-up runs folders, as train.py and sweeps/agent.py leave them: `python -m tests.run_folders FOLDER 5000`."""

import argparse
import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from analysis.record import run_folder
from data.files import write_json

START = datetime(2026, 11, 1, tzinfo=UTC)
SWEEP = """method: random
metric: {name: val/loss, goal: minimize}
parameters:
  lr: {distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-1}
  dropout: {min: 0.0, max: 0.5}
  batch_size: {values: [64, 128]}
"""
ENVIRONMENT = {"device": "a device", "num_processes": 1, "commit": "c" * 40, "packages": {"torch": "2.14.1"}}


def settings_of(folder: Path, **changes: Any) -> dict[str, Any]:
    # As many as a real run has.
    others = {f"setting_{i}": i for i in range(40)}
    return {"model": "cnn", "dataset": "digits", "lr": 1e-3, "tags": "", "run_id": folder.name, **others, **changes}


def rows_of(losses: list[float], accuracies: list[float] | None = None) -> list[dict[str, float]]:
    accuracies = accuracies or [1 - loss / 3 for loss in losses]
    return [
        {
            "epoch": i + 1,
            "images_seen": 1000 * (i + 1),
            "lr": 1e-3,
            "images_per_second": 2000.5,
            "epoch_seconds": 0.5,
            "peak_memory_gib": 0.78,
            "train/classify/loss": loss / 3,
            "train/classify/accuracy": 1 - loss / 4,
            "val/loss": loss,
            "val/accuracy": accuracy,
        }
        for i, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True))
    ]


def write_run(
    folder: Path,
    losses: list[float],
    accuracies: list[float] | None = None,
    *,
    state: str | None = "finished",
    days: float = 0,
    **settings: Any,
) -> Path:
    """Write a run with these validation losses, begun some days after START; with no state it has no summary."""
    folder.mkdir(parents=True)
    rows = rows_of(losses, accuracies)
    started = (START + timedelta(days=days)).isoformat(timespec="seconds")
    write_json(folder / run_folder.SETTINGS, settings_of(folder, **settings))
    write_json(folder / run_folder.ENVIRONMENT, {"started": started, **ENVIRONMENT})
    (folder / run_folder.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if state:
        best = min(rows, key=lambda row: row["val/loss"])
        summary = {"state": state, "val/loss": best["val/loss"], "val/accuracy": best["val/accuracy"]}
        summary |= {"epochs": len(rows), "best_epoch": best["epoch"], "train_seconds": 0.5 * len(rows)}
        write_json(folder / run_folder.SUMMARY, summary)
    return folder


def write_gans(sweep: Path) -> None:
    """Write two trials and two final runs of a GAN into the folder of a sweep by its FID; their losses say nothing."""
    for number, fid in enumerate((30.0, 20.0)):
        run = write_run(sweep / f"00{number}", [0.1], lr=0.1 + number)
        [row] = run_folder.read_metrics(run)
        (run / run_folder.METRICS).write_text(json.dumps({**row, "val/fid_x_60": fid}) + "\n")
    for seed, fid in enumerate((21.0, 23.0), 1):
        run = write_run(sweep / f"final-001-seed{seed}", [0.1], lr=1.1, seed=seed)
        figures = {"test/loss": 0.1, "test/fid_x_60": fid}
        write_json(run / run_folder.SUMMARY, {"state": "finished", "epochs": 1, **figures})


def write_study(folder: Path) -> None:
    """Write the database of a sweep with four trials, one of them never begun, as sweeps/local/trials.py leaves it."""
    import optuna  # imported late: takes half a second
    from optuna.trial import TrialState

    study = optuna.create_study(storage=f"sqlite:///{folder / 'study.db'}", study_name="lr")
    ends = [(TrialState.COMPLETE, 0.5), (TrialState.PRUNED, 2.0), (TrialState.FAIL, None)]
    for number, (state, best) in enumerate(ends):
        trial = study.ask()
        trial.set_user_attr("run_id", f"00{number}-run")
        trial.set_user_attr("settings", {"lr": 10.0**-number})
        if best is not None:
            trial.set_user_attr("best", best)
            trial.set_user_attr("best_epoch", 2 - number)
        study.tell(trial, best if state == TrialState.COMPLETE else None, state)
    study.ask()


def write_many(runs_dir: Path, num_runs: int, num_epochs: int) -> None:
    """Write runs of three models that learn the faster, the nearer lr is to 1e-3; half of them in five sweeps."""
    draw = random.Random(0)
    for i in range(num_runs):
        place = runs_dir / "sweeps" / f"sweep{i % 10}" if i % 2 else runs_dir
        lr = 10 ** draw.uniform(-5, -1)
        searched = {"lr": lr, "dropout": draw.uniform(0, 0.5), "batch_size": draw.choice((64, 128))}
        slope = draw.uniform(1, 2) * (1 + math.log10(lr / 1e-3) ** 2)
        losses = [2.3 / (1 + epoch / slope) + draw.uniform(0, 0.1) for epoch in range(num_epochs)]
        model, state = draw.choice(("mlp", "cnn", "vae")), draw.choice(("finished", "stopped", "failed", None))
        write_run(place / f"{i:05d}-run", losses, state=state, days=i / num_runs * 30, model=model, **searched)
    for folder in (runs_dir / "sweeps").iterdir():
        (folder / run_folder.SWEEP_FILE).write_text(SWEEP)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.run_folders", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new one")
    parser.add_argument("num_runs", type=int)
    options = parser.parse_args()
    write_many(options.folder, options.num_runs, num_epochs=100)
