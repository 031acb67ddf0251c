"""Start a run of W&B's client for a run of ours, under the name that it has there."""

import logging
import os
import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from analysis.record import run_folder
from data.errors import UserError, first_line
from data.internals import connect_wandb_api, forget_wandb_import_hooks, wandb_steps
from data.visible import say
from models.registry import find_model
from models.setting_groups import settings_for

LONGEST_NAME = 128  # characters that W&B takes
ENVIRONMENT = "environment"  # in W&B's config
INITIAL = "initial_weights"  # in it: a hash of those of another run that training started from
NOT_APPLICABLE = "not_applicable"  # in it: what a sweep of several models gave that this model has not
NUM_LOST = "rows_lost"  # in a run's environment: of its rows, those that its folder has no longer, and W&B may have
RECORDED = ("data", "num_processes", "commit", INITIAL, NOT_APPLICABLE)  # of it
SWEEP_ID = "WANDB_SWEEP_ID"  # set by W&B's agent for the runs of its sweep
ADDRESS = "wandb"  # in a run's environment: of its page on W&B, as soon as it has one
JOB_TYPE, LABELS = "job_type", "wandb_labels"  # in it: what the run is in its sweep, and its labels on W&B
LABELLED_BY = {  # W&B's variable for each label: what it says counts
    "entity": "WANDB_ENTITY",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "notes": "WANDB_NOTES",
    "tags": "WANDB_TAGS",
}
# Of these W&B is told once it is known whether it has the run; with None, the client would take the variables.
UNLABELLED: Mapping[str, Any] = {"name": "", "notes": "", "tags": ()}


@dataclass(frozen=True)
class RunFacts:
    """What there is to say of a run as it starts.

    Attributes:
        folder: its own.
        settings: its settings by name.
        environment: command, commit, versions, hardware and the fingerprint of its images.
        sweep: the values that a sweep gave, in their groups, those that do not apply to the model among them.
        earlier: its environment as it was noted when it was started before; empty for a fresh run.
    """

    folder: Path
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    sweep: Mapping[str, Any]
    earlier: Mapping[str, Any] = field(default_factory=dict)

    @property
    def job_type(self) -> str:
        """What the run is in its sweep, if it has one: "trial", "final" or "run"; by hand it goes on as what it was."""
        is_final = run_folder.NAME_OF_FINAL.fullmatch(self.settings["run_id"])
        is_trial = self.sweep or self.earlier.get(JOB_TYPE) == "trial"
        return "final" if is_final else "trial" if is_trial else "run"

    @property
    def earlier_labels(self) -> dict[str, str]:
        """Its labels on W&B when it was started before; empty if it was not tracked then."""
        return labels_in(self.earlier)

    @property
    def labels(self) -> dict[str, str]:
        """What it is called and tagged on W&B, and so on: by W&B's variables, as it was before, or as we call it."""
        told, earlier = {key: os.environ.get(name, "") for key, name in LABELLED_BY.items()}, self.earlier_labels
        told["tags"] = told["tags"] or str(self.settings["tags"] or "")
        own = {"name": name_on_wandb(self), "group": os.environ.get(SWEEP_ID, ""), "job_type": self.job_type}
        labels = {key: told[key] or earlier.get(key) or own.get(key, "") for key in LABELLED_BY}
        return labels | {"entity": earlier.get("entity") or told["entity"]}  # it stays where it is, as in its project


def labels_in(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels on W&B that a run's environment notes; empty if it was not tracked.

    Runs of 0.1.0 have noted their address alone, which tells the entity: https://HOST/ENTITY/PROJECT/runs/ID.
    """
    noted, parts = environment.get(LABELS), str(environment.get(ADDRESS, "")).split("/")
    if isinstance(noted, dict):
        return {key: str(noted[key]) for key in LABELLED_BY if noted.get(key)}
    return {"entity": unquote(parts[-4])} if len(parts) > 6 and parts[-2] == "runs" else {}


def start_wandb(facts: RunFacts, mode: str, reason: str) -> Any:
    """Start the W&B run and print where it goes; return W&B's own run object."""
    import wandb

    logging.raiseExceptions = False  # else the client's log prints a traceback for each line when the disk is full
    os.environ.setdefault("WANDB_DATA_DIR", str(facts.folder / "wandb"))  # else artifacts wait outside the run folder
    try:
        run = init_wandb(facts, mode)
    except wandb.errors.Error as error:  # an expired key, say, or a server that does not answer
        tracking, fault = facts.settings["tracking"], first_line(error)
        if tracking != "auto" or mode == "offline":
            raise UserError(f"--tracking={tracking}: {fault}; give offline, or off") from None
        wandb.teardown()  # else the run's id stays taken, and the second start fails of it
        return start_wandb(facts, "offline", f" ({fault})")
    for key, value in facts.sweep.items():
        if run.config.get(key, value) != value:  # else W&B would record one value and the run train at another
            run.finish(exit_code=1)
            raise UserError(f"W&B records {key}={run.config[key]} where the sweep gave {value}: start a new run")
    forget_wandb_import_hooks()
    run.define_metric("*", step_metric="epoch")
    if mode == "online":
        say(f"W&B: {run.url}")
        connect_wandb_api(run)
    else:
        say(f"W&B: offline{reason}; to upload later: {upload_command(run, facts.folder)}")
    return run


def upload_command(run: Any, folder: Path) -> str:
    """Return the command that uploads a run that is offline, with all parts of it that wait for that.

    An earlier part that was online may have had rows to send when it ended. It is not known here which, so that the
    rows that W&B lacks are then sent from the run's folder, without the pictures of the parts that were offline. So are
    those of a part that was uploaded while it was under way: `wandb sync` would leave them out, or send all once more.
    """
    if any(log.parent.name.startswith("run-") or is_uploaded_in_part(log) for log in earlier_logs(run)):
        return command_for_the_rest(folder)
    return shlex.join(["wandb", "sync", *map(str, [*waiting_parts(run), Path(run.dir).parent])])


def command_for_the_rest(folder: Path) -> str:
    """Return the command that sends what W&B lacks of a run from its folder."""
    return shlex.join(["python", "-m", "analysis.record.wandb_end", "0", str(folder)])


def marker_of(log: Path) -> Path:
    """Return the file by which `wandb sync` marks the log of W&B's client as uploaded."""
    return log.with_suffix(".wandb.synced")


def is_uploaded_in_part(log: Path) -> bool:
    """Return whether a log has gone on since it was uploaded."""
    return marker_of(log).exists() and marker_of(log).stat().st_mtime_ns < log.stat().st_mtime_ns


def earlier_logs(run: Any) -> list[Path]:
    """Return the logs of W&B's client for earlier parts of a run, as far as they are there.

    Args:
        run: of W&B's client.
    """
    own = Path(run.dir).parent
    return [log for log in own.parent.glob(f"*run-*-{run.id}/*.wandb") if log.parent != own]


def waiting_parts(run: Any) -> list[Path]:
    """Return the folders of earlier parts of a run that were offline and have not been uploaded, the first one first.

    A part without a row is left out: it may have been killed before anything was on the disk, and `wandb sync` would
    stop there, and leave out the parts after it.
    """
    logs = [log for log in earlier_logs(run) if log.parent.name.startswith("offline-")]
    return sorted(log.parent for log in logs if not marker_of(log).exists() and wandb_steps(log))


def init_wandb(facts: RunFacts, mode: str) -> Any:
    """Return a fresh or resumed run of W&B's client, without the labels that the user may have changed on W&B."""
    import wandb

    settings, labels = facts.settings, facts.labels
    config = {key: value for key, value in settings.items() if key not in facts.sweep}
    config[ENVIRONMENT] = {key: facts.environment[key] for key in RECORDED if key in facts.environment}
    return wandb.init(
        dir=str(facts.folder),
        id=settings["run_id"],
        entity=labels["entity"] or None,
        project=settings["project"],
        group=labels["group"] or None,
        job_type=labels["job_type"],
        config=config,
        mode="online" if mode == "online" else "offline",
        resume="allow",  # offline, too: else the upload of a part begins the run anew
        settings=wandb.Settings(silent=True),
        **UNLABELLED,
    )


def label(run: Any, facts: RunFacts, is_new: bool) -> None:
    """Give a run of W&B's client its name, notes and tags; one that has begun there gets new tags alone.

    What the user has changed on W&B stays. Offline the tags there are not known: new ones take their place.
    """
    labels = facts.labels
    if is_new:
        run.name, run.notes = labels["name"], labels["notes"]
    if is_new or labels["tags"] != facts.earlier_labels.get("tags", ""):
        run.tags = tuple(dict.fromkeys([*run.tags, *run_folder.split_tags(labels["tags"])]))


def name_on_wandb(facts: RunFacts) -> str:
    """Return what a run is called on W&B: its id or, in a sweep of W&B, what the sweep chose for it.

    W&B does not tell a run which settings its sweep varies: those are named that are not the model's defaults.
    """
    defaults = find_model(facts.settings["model"]).settings_class
    given = settings_for(facts.settings["model"], facts.sweep)
    chosen = {key: value for key, value in given.items() if value != getattr(defaults, key, value)}
    return trial_name("", chosen) if chosen and facts.job_type == "trial" else facts.settings["run_id"]


def trial_name(number: str, chosen: Mapping[str, Any]) -> str:
    """Return what a trial is called on W&B, such as `007 lr=3.1e-4 weight_decay=0.05`.

    Args:
        number: of the trial, if it has one.
        chosen: settings that its sweep varies.
    """
    words = [number, *(f"{key}={short(value)}" for key, value in chosen.items())]
    return textwrap.shorten(" ".join(words), LONGEST_NAME, placeholder=" ...")


def short(value: Any) -> str:
    """Return a setting's value in at most three digits, such as 3.1e-4."""
    if not isinstance(value, float):
        return str(value)
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    plain, scientific = f"{value:.3g}", f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return min(plain, scientific, key=len)
