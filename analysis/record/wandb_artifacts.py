"""What a run keeps on W&B as artifacts: its weights, and the checkpoint with which another machine goes on."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from analysis.record import run_folder
from analysis.record.wandb_login import choose_mode, client_settings, find_obstacle
from analysis.record.wandb_start import labels_in
from data.errors import UserError, message_of
from data.files import read_json
from data.visible import say
from models.core.settings import Settings

CHECKPOINT, MODEL, DATASET = "checkpoint", "model", "dataset"  # types of artifacts
NOT_IN_NAMES = re.compile(r"[^\w.-]")
# All that a run needs to go on elsewhere. The checkpoint comes last: a folder that has it has the others, too.
TRAVELLING = (
    run_folder.SETTINGS,
    run_folder.ENVIRONMENT,
    run_folder.METRICS,
    run_folder.BEST,
    run_folder.CHECKPOINT,
)
API_TIMEOUT_SECONDS = 30


def log_checkpoint(run: Any, folder: Path) -> None:
    """Upload what a run needs to go on; W&B's client has sent it when the run is finished there."""
    from models.core.checkpoint import images_seen  # imported late: loads torch

    seen = images_seen(folder / run_folder.CHECKPOINT)
    files = [folder / name for name in TRAVELLING]
    run.log_artifact(artifact_of(f"{CHECKPOINT}-{run.id}", CHECKPOINT, files, {"images_seen": seen}))


def log_model(run: Any, weights: Path, sweep: str, metadata: Mapping[str, Any]) -> None:
    """Upload a run's weights, with its settings, and note which images they come from.

    Args:
        run: of W&B's client.
        weights: file in the run's folder; its name without the ending becomes an alias of the artifact.
        sweep: name of the run's sweep, which becomes an alias too; empty for none.
        metadata: on the run: metrics, settings, data, classes, commit.
    """
    files = [weights, weights.parent / run_folder.SETTINGS, weights.parent / run_folder.DATA]
    aliases = ["latest", weights.stem, *([NOT_IN_NAMES.sub("-", sweep)] if sweep else [])]
    run.log_artifact(artifact_of(f"{MODEL}-{run.id}", MODEL, files, metadata), aliases=aliases)
    if run.offline or find_obstacle(run.settings):  # W&B's client refuses to use an artifact, or waits for the server
        return
    settings, data = metadata["settings"], metadata["data"]
    images = artifact_of(NOT_IN_NAMES.sub("-", f"{DATASET}-{settings['dataset']}"), DATASET, [], {"fingerprint": data})
    # The images themselves stay where they are.
    images.add_reference(f"fingerprint://{settings['dataset']}/{data}", name="images", checksum=False)
    run.use_artifact(images)


def artifact_of(name: str, kind: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> Any:
    """Return an artifact of W&B's with those of some files that exist; they are not copied, as W&B would by itself."""
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
    for file in files:
        if file.exists():
            artifact.add_file(str(file), name=file.name, policy="immutable", skip_cache=True)
    return artifact


def fetch_checkpoint(settings: Settings, folder: Path) -> bool:
    """Bring a run's checkpoint from W&B into its folder if it is further than the one there; return whether it was.

    Raises:
        UserError: W&B does not say whether there is one, or the run is in progress on this machine.
    """
    mode, reason = choose_mode(settings.tracking)
    if mode != "online":
        say(f"W&B: {mode}{reason}: a checkpoint there is not looked for")
        return False
    from models.core.checkpoint import images_seen  # imported late: loads torch

    path = folder / run_folder.CHECKPOINT
    entity = labels_in(read_json(folder / run_folder.ENVIRONMENT)).get("entity") or client_settings().entity
    try:
        known = checkpoints_of(entity, settings.project, settings.run_id)
        newest = next((each for each in known if "latest" in each.aliases), None)
        if newest is None or (path.exists() and images_seen(path) >= newest.metadata["images_seen"]):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        bring(newest, folder)
    except (UserError, OSError):
        raise
    except Exception as error:  # W&B has no one class for what its transport raises
        why = message_of(error)
        raise UserError(
            f"--checkpoint_artifact=on: W&B does not give the checkpoint of run {settings.run_id} ({why}): "
            f"try again, or give off"
        ) from None
    say(f"W&B: run {settings.run_id} goes on from the checkpoint that another machine has left there")
    return True


def bring(artifact: Any, folder: Path) -> None:
    """Download the files of a checkpoint into a run's folder, each of them whole or not at all.

    Raises:
        UserError: the run is in progress on this machine.
    """
    lock = run_folder.take(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            artifact.download(scratch, skip_cache=True)
            for name in TRAVELLING:
                with suppress(FileNotFoundError):
                    os.replace(Path(scratch) / name, folder / name)
    finally:
        lock.release()


def delete_checkpoints(run: Any, and_latest: bool) -> None:
    """Delete the checkpoints that a run has left on W&B, but for the latest, or all; what fails is left there."""
    with suppress(Exception):  # W&B has no one class for what its transport raises
        for artifact in checkpoints_of(run.entity, run.project, run.id):
            if and_latest or "latest" not in artifact.aliases:
                artifact.delete(delete_aliases=True)


def checkpoints_of(entity: str | None, project: str, run_id: str) -> Iterator[Any]:
    """Return W&B's own objects for the checkpoints that a run has there; without an entity, in the user's own."""
    import wandb

    api = wandb.Api(timeout=API_TIMEOUT_SECONDS)
    name = f"{entity or api.default_entity}/{project}/{CHECKPOINT}-{run_id}"
    return iter(api.artifacts(CHECKPOINT, name)) if api.artifact_collection_exists(name, CHECKPOINT) else iter(())
