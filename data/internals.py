"""Private names of libraries, all of them in this one file: look here first when a new version breaks something."""

import atexit
from contextlib import suppress
from typing import Any


def trial_id(trial: Any) -> int:
    """Return the id of an Optuna trial in its database, which differs from its number in the study."""
    return trial._trial_id


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
