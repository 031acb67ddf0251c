"""A run on several machines: all read what the first process writes into the run's folder, and the same images."""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from data.errors import UserError

SECONDS_TO_APPEAR = 60.0  # NFS remembers for a while that a file is not there


def check_is_shared(runs_dir: Path) -> None:
    """Refuse a run on several machines that do not all see the same folder of runs; all processes call this together.

    Raises:
        UserError: they do not.
    """
    state = PartialState()
    if int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes)) == state.num_processes:
        return
    [name] = broadcast_object_list([f".shared-{secrets.token_hex(4)}"])
    if state.is_main_process:
        runs_dir.mkdir(parents=True, exist_ok=True)
        (runs_dir / name).touch()
    state.wait_for_everyone()
    is_seen = gather_object([has_appeared(runs_dir, name)])
    if state.is_main_process:
        (runs_dir / name).unlink()
    if not all(is_seen):
        raise UserError(f"--runs_dir={runs_dir} is not the same folder on all machines: name one that they share")


def check_images_agree(fingerprint: str) -> None:
    """Refuse a run whose processes read different images; all of them call this together.

    Args:
        fingerprint: of the images that this process has read.

    Raises:
        UserError: another process has read others.
    """
    if len(set(gather_object([fingerprint]))) > 1:
        raise UserError("--data_dir: the machines have different images there: copy them anew, or name a shared folder")


def has_appeared(folder: Path, name: str) -> bool:
    """Return whether there is a file of that name in a folder, or comes to be within a minute."""
    give_up = time.monotonic() + SECONDS_TO_APPEAR
    while True:
        with suppress(FileNotFoundError):
            if name in os.listdir(folder):  # which asks NFS anew, as looking for the file alone may not
                return True
        if time.monotonic() > give_up:
            return False
        time.sleep(1.0)
