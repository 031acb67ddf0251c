"""A trained run, read from its folder: its settings, its data, and the model with its best weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from analysis.read.recipe import command_of
from analysis.record import run_folder
from analysis.record.data_file import saved_backbone, saved_info
from analysis.record.resume import check_images, resolve
from data.dataset import DatasetInfo, Split, split_looked_at
from data.errors import UserError
from data.files import read_json
from models.core import checkpoint
from models.core.settings import Settings
from models.frozen_backbone import FrozenSettings
from models.loading import build_objective, read_data
from models.timm_classifier import TimmSettings


class TrainedRun(NamedTuple):
    """A run as `train.py` left it, on the CPU."""

    settings: Settings
    info: DatasetInfo
    splits: dict[str, Split]  # none of a run that was loaded without its images
    objective: Any  # an Objective in evaluation mode, with the weights of its best epoch, and whatever it is able to do

    def split(self, name: str) -> Split:
        """Return a split of the run's images, see `split_name`."""
        return self.splits[self.split_name(name)]

    def split_name(self, asked: str) -> str:
        """Return the name of the split that is asked for, or for "" of the one to look at.

        Raises:
            UserError: the run has no such split.
        """
        there = self.splits or self.info.num_images  # which is known before the images are read
        if asked and asked not in there:
            raise UserError(f"--split={asked}: the run has {', '.join(there)}")
        return asked or split_looked_at(there)


def best_device() -> torch.device:
    """Return the machine's accelerator, else its CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def load_run(folder: Path, data_dir: str = "") -> TrainedRun:
    """Load a run from its folder, and its images from where they are.

    Args:
        folder: holds the run's settings and weights.
        data_dir: where its images are; empty for where they were when it was trained.

    Raises:
        UserError: it has no weights yet or any more, its images are missing or have changed, or its settings are not
            known any more.
    """
    return with_images(folder, load_network(folder, data_dir))


def with_images(folder: Path, run: TrainedRun) -> TrainedRun:
    """Return a run that was loaded without its images together with these, for whoever asks things of it before.

    Raises:
        UserError: they are missing or have changed.
    """
    if run.splits:  # read to know what an old run has not written down
        return run
    info, splits = read_data(run.settings)
    check_images(folder, info)
    return run._replace(info=info, splits=splits)


def load_network(folder: Path, data_dir: str = "") -> TrainedRun:
    """Load a run from its folder alone, without its images, where it is not so old that they have to be read.

    Args:
        folder: holds the run's settings, its weights and what is to be known of its images.
        data_dir: of a run that is older than the last: where its images are; empty for where they were.

    Raises:
        UserError: as `load_run`; of the images only where the run is as old as that.
    """
    settings = settings_of(folder, data_dir)
    info = saved_info(folder)
    splits: dict[str, Split] = {}
    if info is None:
        info, splits = read_data(settings)
        check_images(folder, info)
    return TrainedRun(settings, info, splits, load_objective(folder, settings, info))


def settings_of(folder: Path, data_dir: str) -> Settings:
    """Return the settings of a run that has weights.

    Raises:
        UserError: it has none yet or any more, or its settings are not known any more.
    """
    if not (folder / run_folder.BEST).is_file():
        if run_folder.state(folder) == "finished":
            again = command_of(read_json(folder / run_folder.SETTINGS))
            raise UserError(
                f"{folder / run_folder.BEST} is gone, though the run is finished; to make it again: {again}"
            )
        raise UserError(f"{folder} has no weights yet: {run_folder.BEST} is written with the first epoch's evaluation")
    place = folder.resolve()  # a link to it may have another name
    told = [f"--runs_dir={place.parent}", f"--run_id={place.name}"]
    return resolve([*told, *([f"--data_dir={data_dir}"] if data_dir else [])], {})


def load_objective(folder: Path, settings: Settings, info: DatasetInfo) -> Any:
    """Return a run's model with its best weights, in evaluation mode.

    Raises:
        UserError: the weights are damaged, or do not fit the settings.
    """
    if isinstance(settings, TimmSettings):  # the run's own weights hold all that became of the pretrained ones
        settings = replace(settings, pretrained=False, weights="")
    elif isinstance(settings, FrozenSettings) and settings.pretrained and (weights := saved_backbone(folder)):
        settings = replace(settings, weights=str(weights))
    objective = build_objective(settings, info)
    checkpoint.load_weights(folder / run_folder.BEST, objective)
    return objective.eval()
