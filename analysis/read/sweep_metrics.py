"""The metrics of sweeps by their files alone, where nothing is asked of their trials."""

from collections.abc import Iterable
from pathlib import Path

from analysis.read.records import RunRecord
from analysis.read.sweep_content import is_sweep, metrics_of, read_yaml
from analysis.read.wandb_runs import read_wandb_sweeps
from analysis.record import run_folder
from data.metrics import Metric


def metrics_of_sweeps(records: Iterable[RunRecord], project: str = "") -> dict[str, list[Metric]]:
    """Return the metrics of each sweep of some runs, that which ranks its trials first; one not to be read is left out.

    Args:
        records: the runs; those of no sweep are passed over.
        project: entity/project on W&B, to be asked in place of the folders of the runs' sweeps.

    Raises:
        UserError: the project cannot be read.
    """
    folders = {record.sweep: Path(record.source).parent for record in records if record.sweep}
    if project:
        contents = {sweep.name: sweep.content for sweep in read_wandb_sweeps(project) if sweep.name in folders}
    else:
        contents = {name: read_yaml(folder / run_folder.SWEEP_FILE) for name, folder in folders.items()}
    return {name: metrics_of(content) for name, content in contents.items() if is_sweep(content)}
