"""A trained run, read from its folder: settings, data, and the network with its best weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from analysis.record import run_folder
from data.dataset import DatasetInfo, Split
from data.errors import UserError
from data.paths import default_runs_dir


class TrainedRun(NamedTuple):
    """What a run was, on the CPU."""

    settings: Any  # a models.core.settings.Settings
    info: DatasetInfo
    splits: dict[str, Split]
    objective: Any  # a models.core.objective.Objective, in evaluation mode, with the weights of its best epoch


def best_device() -> torch.device:
    """The machine's accelerator, else its CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def find_run(name: str) -> Path:
    """Folder of a run, from its path or its id in runs/.

    Raises:
        UserError: there is none.
    """
    own = default_runs_dir() / name
    for folder in (Path(name), own):
        if run_folder.read_json(folder / run_folder.SETTINGS):
            return folder
    raise UserError(f"{name} is no run: neither it nor {own} is a folder with a {run_folder.SETTINGS}")


def load_run(folder: Path, data_dir: str = "") -> TrainedRun:
    """Load what `train.py` made in a folder.

    Args:
        folder: holds the run's settings.
        data_dir: where its images are, if no longer where the run was told.

    Raises:
        UserError: it has no weights yet, its data is missing or has changed, or its settings are no longer known.
    """
    from models.core import checkpoint  # imported late: models draw panels
    from models.core.settings import resolve
    from models.registry import MODELS
    from models.timm_classifier import TimmSettings
    from train import build_objective, read_data

    if not (folder / run_folder.BEST).is_file():
        raise UserError(f"{folder} has no weights yet: {run_folder.BEST} is written with the first epoch's evaluation")
    told = [f"--runs_dir={folder.parent}", f"--run_id={folder.resolve().name}"]
    settings = resolve([*told, *([f"--data_dir={data_dir}"] if data_dir else [])], {}, MODELS)
    info, splits = read_data(settings)
    known = run_folder.read_json(folder / run_folder.ENVIRONMENT).get("data", info.fingerprint)
    if known != info.fingerprint:
        raise UserError(
            f"{info.name} holds other images ({info.fingerprint}) than run {settings.run_id} was trained on ({known}): "
            f"give those with --data_dir"
        )
    if isinstance(settings, TimmSettings):  # the run's own weights hold all that the pretrained ones became
        settings = replace(settings, pretrained=False, weights="")
    objective = build_objective(settings, info)
    objective.load_state_dict(checkpoint.load(folder / run_folder.BEST))
    return TrainedRun(settings, info, splits, objective.eval())
