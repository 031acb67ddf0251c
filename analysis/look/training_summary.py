"""What a run's summary says of its training."""

import statistics
from pathlib import Path

from analysis.look.collapse import signs_of_collapse
from analysis.record import run_folder
from data.metrics import best_elsewhere
from models.core.training import Trainer


def result_so_far(trainer: Trainer, folder: Path) -> dict[str, object]:
    """Return how far a training has come and what was best in it, by its rows in the run's folder."""
    progress, rows = trainer.progress, run_folder.read_metrics(folder)
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    kept = trainer.kept()
    best = best_elsewhere(rows, kept)
    if trainer.objective.best_metric != "loss":  # a GAN's says nothing of how good it is
        best.pop("val/loss", None)
    return {
        **kept,
        "best": best,
        **signs_of_collapse(rows),
        "epochs": progress.epoch,
        "images_seen": progress.images_seen,
        "train_seconds": progress.train_seconds + progress.epoch_seconds,
        "images_per_second": statistics.median(rates) if rates else None,
    }
