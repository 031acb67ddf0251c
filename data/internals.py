"""Private names of libraries, all of them in this one file: look here first when a new version breaks something."""

import atexit
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def trial_id(trial: Any) -> int:
    """Return the id of an Optuna trial in its database, which differs from its number in the study."""
    return trial._trial_id


def report_values(trial: Any, values: Mapping[int, float]) -> None:
    """Store values of an Optuna trial by step, all in one transaction: one by one, each would wait for the disk.

    Args:
        trial: of a study in a database.
        values: those of steps that are stored already are left out.

    Raises:
        UpdateFinishedTrialError: the trial has ended.
    """
    from optuna.storages._rdb import models, storage
    from sqlalchemy import select

    backend, own_id, model = trial.storage._backend, trial_id(trial), models.TrialIntermediateValueModel
    with storage._create_scoped_session(backend.scoped_session) as session:
        backend.check_trial_is_updatable(own_id, models.TrialModel.find_or_raise_by_id(own_id, session).state)
        known = set(session.scalars(select(model.step).where(model.trial_id == own_id)))
        for step in values.keys() - known:
            stored, kind = model.intermediate_value_to_stored_repr(float(values[step]))
            session.add(model(trial_id=own_id, step=step, intermediate_value=stored, intermediate_value_type=kind))


def cpu_has_bf16() -> bool:
    """Return whether this machine's processor multiplies matrices in bf16 itself."""
    import torch

    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def hub_file(config: Any) -> tuple[str, str | None, str]:
    """Return repository, revision and file name of the weights that timm's pretrained config names."""
    from timm.models import _hub

    repository, revision = _hub.hf_split(config.hf_hub_id)
    return repository, revision, config.hf_hub_filename or _hub.HF_SAFE_WEIGHTS_NAME


def connect_wandb_api(run: Any) -> None:
    """Let a W&B run open its connection to the public API, which tables and artifacts need, while the server is up."""
    import wandb

    with suppress(wandb.errors.Error):
        run._public_api()


def run_exit_handlers() -> None:
    """Run what was registered with atexit, ahead of an exit that skips it."""
    atexit._run_exitfuncs()
