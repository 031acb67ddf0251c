"""The settings of a run, which may go on from a folder that exists."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.record import run_folder
from analysis.record.wandb_artifacts import fetch_checkpoint
from data.dataset import DatasetInfo
from data.errors import UserError
from data.files import read_json
from data.paths import expanded
from data.visible import counted, say
from models.core.settings import Settings
from models.resolve import Told, merge, not_applicable, parse, validate


def resolve(arguments: Iterable[str], environment: Mapping[str, str]) -> Settings:
    """Return the settings of a run, with those of its folder in place of the defaults where it is resumed.

    Raises:
        UserError: as `parse`, `saved_settings` and `validate`.
    """
    told = parse(arguments, environment)
    saved = saved_settings(told)
    settings = validate(merge(told, saved), saved)
    has_other_epochs = bool(saved) and settings.epochs != saved.get("epochs", settings.epochs)
    if has_other_epochs and run_folder.state(settings.folder) == "finished":
        raise UserError(
            f"run {settings.run_id!r} has finished after {counted(saved['epochs'], 'epoch')}, and kept no checkpoint "
            f"to go on from: give another --run_id to train {settings.epochs}, or to start from its weights with "
            f"--init_from={settings.run_id}"
        )
    return settings


def resolve_with_checkpoint(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Return the settings of a run that is about to start, whose checkpoint may have to be brought from W&B first.

    A run without an id gets a fresh one.

    Raises:
        UserError: as `resolve` and `fetch_checkpoint`.
    """
    settings = resolve(arguments, environment)
    if names := not_applicable(parse(arguments, environment).sweep, settings.model):
        say(f"{settings.model} has no {', '.join(names)}: what the sweep gives for other models is left out")
    if not settings.run_id:
        return replace(settings, run_id=run_folder.fresh_run_id())
    may_be_there = settings.checkpoint_artifact == "on" and not settings.dry_run
    if may_be_there and run_folder.state(settings.folder) != "finished" and fetch_checkpoint(settings, settings.folder):
        return resolve(arguments, environment)
    return settings


def saved_settings(told: Told) -> dict[str, Any]:
    """Return the settings of the run that is to be resumed; empty for a fresh one.

    Raises:
        UserError: a run is to be resumed, and there is none.
    """
    runs_dir = expanded(told.text("runs_dir", Settings.runs_dir))
    run_id, resume = told.text("run_id"), told.text("resume").lower() == "true"
    if resume and not run_id:
        run_id = run_folder.latest_unfinished(runs_dir) or ""
        if not run_id:
            raise UserError(f"--resume found no unfinished run in {runs_dir}: give --run_id, or start a new run")
    saved = read_json(runs_dir / run_id / run_folder.SETTINGS) if run_id else {}
    if resume and not saved:
        raise UserError(f"--run_id={run_id} has no run in {runs_dir} to resume: leave out --resume to start it")
    if run_id and not saved and (runs_dir / run_id / run_folder.CHECKPOINT).exists():
        path = runs_dir / run_id / run_folder.SETTINGS
        raise UserError(f"{path} is missing or damaged, beside a checkpoint: restore it, or give another --run_id")
    return {**saved, "run_id": run_id} if saved else {}


def check_images(folder: Path, info: DatasetInfo) -> None:
    """Refuse other images than those that a run was trained on so far.

    Raises:
        UserError: the run's folder notes another fingerprint than that of `info`.
    """
    known = read_json(folder / run_folder.ENVIRONMENT).get("data", info.fingerprint)
    if known != info.fingerprint:
        raise UserError(
            f"{info.name} holds other images ({info.fingerprint}) than run {folder.name} was trained on ({known}): "
            f"give those with --data_dir"
        )
