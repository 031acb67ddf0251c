"""The metrics of sweeps by their files alone, where nothing is asked of their trials."""

from collections.abc import Collection
from pathlib import Path

from analysis.read.sweeps import is_sweep, metric_of, read_yaml
from analysis.read.wandb_runs import read_wandb_sweeps
from analysis.record import run_folder
from data.metrics import Metric
from data.paths import default_runs_dir


def metrics_of_sweeps(names: Collection[str], runs_dir: Path | None, project: str = "") -> dict[str, Metric]:
    """Return the metric that each sweep of these names is ranked by; one that cannot be read is left out.

    Args:
        names: of the sweeps; "" is none.
        runs_dir: the runs folder; None for the default one.
        project: entity/project on W&B, to be asked in place of a folder.

    Raises:
        UserError: the project cannot be read.
    """
    if project:
        contents = {sweep.name: sweep.content for sweep in read_wandb_sweeps(project) if sweep.name in names}
    else:
        sweeps = (runs_dir or default_runs_dir()) / run_folder.SWEEPS
        contents = {name: read_yaml(sweeps / name / run_folder.SWEEP_FILE) for name in names if name}
    return {name: metric_of(content) for name, content in contents.items() if is_sweep(content)}
