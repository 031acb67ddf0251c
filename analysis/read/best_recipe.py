"""The settings of a sweep's best trial, as a file that `train.py --config` takes."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from analysis.read.recipe import FINAL_OVERRIDES, FINAL_SETTINGS, NO_LIMITS, flags, model_and_dataset, recipe_of
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from analysis.record import run_folder
from data.datasets import has_test_images
from data.errors import UserError
from data.files import read_json, replace_file
from data.metrics import shown
from data.visible import counted, visible
from models.core.settings import Settings

FILE = run_folder.BEST_RECIPE
# How a trial was judged, which is no part of its recipe:
NOT_IN_RECIPE = ("seed", "best_by", *FINAL_SETTINGS, *FINAL_OVERRIDES, *NO_LIMITS)


def best_recipe(sweep: SweepRecord, picked: Trial | None = None, path: Path = Path(FILE)) -> str:
    """Return the recipe of a sweep's best trial, or of one that was picked, as YAML; it ends at the trial's best epoch.

    Args:
        sweep: whose trial it is.
        picked: None for the best one.
        path: where the recipe will be found.

    Raises:
        UserError: no trial has a value yet.
    """
    if not sweep.leaders:
        raise UserError(f"sweep {sweep.name} has no trial with a {sweep.metric.name} yet: let one end, or pause it")
    trial = picked or sweep.leaders[0]
    told = {key: value for key, value in precision_of(sweep, trial).items() if value != getattr(Settings, key)}
    settings = {key: value for key, value in (told | recipe_of(trial.settings)).items() if key not in NOT_IN_RECIPE}
    if trial.best_epoch:
        settings["epochs"] = trial.best_epoch
    dataset, data_dir = model_and_dataset(trial.settings)[1], trial.settings.get("data_dir", "")
    is_tested = has_test_images(str(dataset), str(data_dir))
    judged = {key: trial.settings[key] for key in ("val_fraction", "best_by") if trial.settings.get(key, "") != ""}
    again = f"On all training images{', and tested once' if is_tested else ' but those held out'}:"
    header = [
        f"{choice_in_words(sweep, picked)} of the images that it was judged by.",
        again,
        shlex.join([*command_with(path, trial), *flags({**(FINAL_SETTINGS if is_tested else judged), "seed": 1})]),
    ]
    lines = "".join(f"# {visible(line)}\n" for line in header)
    return lines + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def choice_in_words(sweep: SweepRecord, picked: Trial | None = None) -> str:
    """Return which trial's recipe it is, and how good that is; `picked` as for `best_recipe`."""
    trial = picked or sweep.leaders[0]
    which = f"The {'one picked' if picked else 'best'} of {counted(len(sweep.leaders), 'trial')} of {sweep.name}"
    return f"{which}: {trial.run_id}, {sweep.metric.name} {shown(sweep.metric.name, trial.value)}"


def precision_of(sweep: SweepRecord, trial: Trial) -> dict[str, Any]:
    """Return the precision that a trial was trained in, by its folder: the environment of its agent may have set it."""
    own = next((each.run_id for each in sweep.trials if each.number == trial.number), trial.run_id)
    saved = read_json(Path(sweep.source) / own / run_folder.SETTINGS)
    return {key: saved[key] for key in ("mixed_precision",) if key in saved}


def command_with(file: Path, trial: Trial) -> list[str]:
    """Return the words of the command that trains a trial's recipe out of a file, which holds no place of images."""
    place = {key: value for key, value in trial.settings.items() if key == "data_dir" and value}
    return ["python", "train.py", *flags({"config": file, **place})]


def write_best(sweep: SweepRecord, path: Path, picked: Trial | None = None) -> None:
    """Write the recipe of a sweep's best trial, or of one that was picked, to a file, whose folder is made for it.

    Raises:
        UserError: no trial has a value yet.
    """
    text = best_recipe(sweep, picked, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
