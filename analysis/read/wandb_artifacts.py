"""Artifacts of a project on W&B that nobody needs any more."""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from analysis.read.wandb_runs import ask_wandb, list_runs
from analysis.record.run_folder import NAME_OF_FINAL
from analysis.record.wandb_artifacts import CHECKPOINT, MODEL, NOT_IN_NAMES

KINDS = (CHECKPOINT, MODEL)
UNDER_WAY = ("pending", "running", "preempting", "preempted")  # as W&B names states of runs
OWN_ALIASES = {"latest", "best", "final"}  # which our runs give; another is somebody's mark, and keeps an artifact


class Needless(NamedTuple):
    """An artifact that nobody needs, and why."""

    name: str
    num_bytes: int
    reason: str
    artifact: Any  # W&B's own object


class Owner(NamedTuple):
    """What is known of the run that an artifact belongs to."""

    state: str = "gone"  # as W&B names it, if it is still there
    sweep: str = ""  # of a trial


def find_needless(project: str, losers: Collection[str]) -> list[Needless]:
    """Return the artifacts of a project that nobody needs, see `reason_of`.

    Args:
        project: entity/project.
        losers: ids of the trials that are not among the best of their sweeps, whose weights nobody needs.

    Raises:
        UserError: the project cannot be read.
    """

    def read(api: Any) -> list[Needless]:
        owners = {run.id: owner_of(run) for run in list_runs(api, project)}
        return [
            Needless(artifact.name, artifact.size, reason, artifact)
            for kind in KINDS
            for run_id, artifact in artifacts_of(api, project, kind)
            if (reason := reason_of(kind, artifact, owners.get(run_id, Owner()), run_id in losers))
        ]

    return ask_wandb(read, f"project {project}", "entity/project")


def artifacts_of(api: Any, project: str, kind: str) -> Iterator[tuple[str, Any]]:
    """Yield every artifact of a type, with the id of its run."""
    known = {each.name for each in api.artifact_types(project)}
    for collection in api.artifact_type(kind, project).collections() if kind in known else ():
        for artifact in collection.artifacts():
            yield collection.name.removeprefix(f"{kind}-"), artifact


def owner_of(run: Any) -> Owner:
    """Return what is known of a run, by W&B's own object."""
    is_trial = run.job_type == "trial" or (run.sweep_name and not NAME_OF_FINAL.fullmatch(run.id))
    return Owner(run.state, (run.sweep_name or run.group or "") if is_trial else "")


def reason_of(kind: str, artifact: Any, owner: Owner, is_loser: bool) -> str:
    """Return why nobody needs an artifact of a run; empty if somebody may."""
    is_latest = "latest" in artifact.aliases
    if kind == CHECKPOINT:
        has_ended = owner.state in ("finished", "gone")
        return f"its run is {owner.state}" if has_ended else "" if is_latest else "a later one is there"
    if set(artifact.aliases) - {*OWN_ALIASES, NOT_IN_NAMES.sub("-", owner.sweep)}:
        return ""
    if not is_latest:
        return "a later one is there"
    is_over = owner.sweep and owner.state not in UNDER_WAY
    return f"a trial of {owner.sweep}, not among its best" if is_loser and is_over else ""


def delete(project: str, needless: Collection[Needless]) -> None:
    """Delete artifacts on W&B.

    Raises:
        UserError: W&B refuses one of them.
    """

    def delete_all(api: Any) -> None:
        for each in needless:
            each.artifact.delete(delete_aliases=True)

    ask_wandb(delete_all, f"artifacts of {project}", "entity/project", "deleted from")
