"""Sweeps that W&B keeps: their runs' settings, best values and epochs, read over the network."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.tracking import find_obstacle
from data.errors import UserError


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One run of a sweep, by its best epoch."""

    name: str
    state: str
    settings: dict[str, Any] = field(hash=False)
    value: float
    best_epoch: int


def read_wandb_sweep(path: str) -> tuple[dict[str, Any], list[TrialRecord]]:
    """Content of the sweep's file, and its runs that have a finite value, the best first.

    Args:
        path: entity/project/sweep_id.

    Raises:
        UserError: the sweep cannot be read, or names no metric.
    """
    import wandb

    if obstacle := find_obstacle(wandb.setup().settings):
        raise UserError(f"sweep {path} cannot be read from W&B: {obstacle}")
    try:
        sweep = wandb.Api().sweep(path)
        content = dict(sweep.config)
        metric = content.get("metric", {}).get("name", "")
        keys = ["epoch", metric]
        ranked = sweep.runs if metric else []
        runs = [(run.id, run.state, dict(run.config), list(run.scan_history(keys))) for run in ranked]
    except Exception as error:  # W&B has no class for all that its transport raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"sweep {path} cannot be read ({reason}): give the entity/project/id that W&B shows") from None
    if not metric:
        raise UserError(f"sweep {path} names no metric to rank its runs by: give one that does")
    is_better = max if content["metric"].get("goal") == "maximize" else min
    trials = []
    for name, state, settings, rows in runs:
        if values := finite_values(rows, metric):
            best_epoch = is_better(values, key=lambda epoch: values[epoch])
            trials.append(TrialRecord(name, state, settings, float(values[best_epoch]), best_epoch))
    return content, sorted(trials, key=lambda trial: trial.value, reverse=is_better is max)


def finite_values(rows: Iterable[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """A metric by epoch, from the rows of a history; W&B gives NaN and infinity as text."""
    values = {int(row["epoch"]): row[metric] for row in rows if "epoch" in row and metric in row}
    return {key: value for key, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}
