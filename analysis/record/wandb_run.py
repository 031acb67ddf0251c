"""The run of W&B's client that a run of ours logs to, beside its folder."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.record import run_folder
from analysis.record.findings import Table
from analysis.record.wandb_artifacts import delete_checkpoints, log_checkpoint, log_model
from data.errors import UserError
from data.files import read_json
from data.internals import connect_wandb_api, wandb_stop_flag
from data.metrics import is_finite
from data.visible import is_first_process, say
from models.registry import find_model

LONGEST_NAME = 128  # characters that W&B takes
ENVIRONMENT = "environment"  # in W&B's config
RECORDED = ("data", "num_processes", "commit")  # of it
CHECKOUT = Path(__file__).resolve().parents[2]
CLIENT_ADDRESS = "WANDB_SERVICE"  # of the client's own process, by which children of this one find it
SECONDS_TO_TELL = 300
SWEEP_ID = "WANDB_SWEEP_ID"  # set by W&B's agent for the runs of its sweep


@dataclass(frozen=True)
class RunFacts:
    """What there is to say of a run as it starts.

    Attributes:
        folder: its own.
        settings: its settings by name.
        environment: command, commit, versions, hardware and the fingerprint of its images.
        sweep: those of the settings that a sweep gave.
    """

    folder: Path
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    sweep: Mapping[str, Any]

    @property
    def job_type(self) -> str:
        """What the run is in its sweep, if it has one: "trial", "final" or "run"."""
        is_final = self.settings["run_id"].startswith(run_folder.FINAL)
        return "final" if is_final else "trial" if self.sweep else "run"


class WandbRun:
    """A run on W&B, online or offline. Where W&B's client fails, a line says so, and the run goes on without it.

    Args:
        run: of W&B's client.
        facts: what there is to say of the run.
        rows: that a resumed run had logged up to the checkpoint it goes on from.
        num_lost: rows before that which are no longer in its folder.
    """

    def __init__(self, run: Any, facts: RunFacts, rows: Sequence[Mapping[str, float]], num_lost: int = 0) -> None:
        self.run = run
        self.facts = facts
        self.folder = facts.folder
        self.defined: set[str] = set()  # names of figures that W&B knows
        self.num_known = 0  # rows that W&B has
        self.num_lost = num_lost
        self.is_alive = True
        if not run.offline:
            self.attempt(lambda: self.catch_up(rows))

    def attempt(self, deed: Callable[[], object]) -> None:
        """Do something with the client, unless that has failed before."""
        if not self.is_alive:
            return
        try:
            deed()
        except Exception as error:  # W&B has no class for all that its transport raises
            self.is_alive = False
            reason = " ".join(str(error).split()) or type(error).__name__
            say(f"W&B: its client has failed ({reason}): the run goes on without it; all is in {self.folder}")

    def catch_up(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Send the rows of a resumed run that W&B lacks, and note how many it has.

        A kill can cost rows that were logged and not sent yet. W&B may also have rows of epochs after the checkpoint,
        which are trained again: they are not sent twice. A part that was offline is left to its own upload.
        """
        self.num_known = max(0, self.run.step - self.num_lost)
        if not any((self.folder / "wandb").glob("offline-run-*")):
            for number, row in enumerate(rows[self.num_known :], self.num_known + 1):
                self.send(number, row)

    def log(
        self, number: int, metrics: Mapping[str, float], images: Mapping[str, Path], tables: Mapping[str, Table]
    ) -> None:
        """Log a row of that number, counted from 1, unless W&B has it."""
        if number > self.num_known:
            self.attempt(lambda: self.send(number, metrics, images, tables))

    def send(
        self,
        number: int,
        metrics: Mapping[str, float],
        images: Mapping[str, Path] = {},
        tables: Mapping[str, Table] = {},
    ) -> None:
        """Send a row. The epoch is the x axis of its figures, and their summary is left to `update_summary`.

        The summary of tables and pictures is W&B's, which shows the newest. W&B's own step is the row's place: without
        it, a part of the run that is offline counts from 0, and its upload replaces rows.
        """
        import wandb

        for name in metrics.keys() - self.defined:
            self.run.define_metric(name, step_metric=None if name == "epoch" else "epoch", summary="none")
        self.defined |= metrics.keys()
        kinds = {".png": wandb.Image, ".gif": wandb.Video}
        pictures = {name: kinds[path.suffix](str(path)) for name, path in images.items()}
        sheets = {
            name: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
            for name, table in tables.items()
        }
        self.run.log({**metrics, **pictures, **sheets}, step=number - 1 + self.num_lost)

    def update_summary(self, summary: Mapping[str, Any]) -> None:
        """Tell W&B the best values so far, which its tables and sweeps read."""
        self.attempt(lambda: self.run.summary.update(dict(summary)))

    def log_model(self, weights: Path, summary: Mapping[str, Any]) -> None:
        """Upload weights with what there is to say of them, see `wandb_artifacts.log_model`."""
        metadata = {
            "metrics": {key: value for key, value in summary.items() if is_finite(value)},
            "settings": dict(self.facts.settings),
            "classes": read_json(self.folder / run_folder.DATA).get("classes", []),
            **{key: self.facts.environment[key] for key in RECORDED},
        }
        self.attempt(lambda: log_model(self.run, weights, self.run.sweep_id or self.run.group or "", metadata))

    def finish(self, state: str, summary: Mapping[str, Any], stop_code: int) -> int:
        """Close the run, and say how to upload later what the server did not take in time; return the exit code.

        W&B gives a run of a sweep to another agent if it was marked as preempted and ends with another code than 0:
        https://docs.wandb.ai/models/sweeps/signal-handling-sweep-runs

        Args:
            state: "finished", "stopped" or "failed".
            summary: the run's result.
            stop_code: exit code of a run that was stopped, unless W&B has stopped it.
        """
        if state == "stopped" and self.is_alive and was_stopped_by_wandb(self.run):
            stop_code = 0
        travels = self.facts.settings["checkpoint_artifact"] == "on" and not self.run.offline
        is_preempted = state == "stopped" and stop_code and SWEEP_ID in os.environ and not self.run.offline
        if is_preempted:
            self.attempt(self.run.mark_preempting)
            if travels:
                self.attempt(lambda: log_checkpoint(self.run, self.folder))
        self.update_summary({"state": state, **summary})
        codes = {"finished": 0, "failed": 1, "stopped": stop_code if is_preempted else 0}
        try:
            self.close(codes[state])
            if is_preempted and not self.is_alive:  # the signal to stop has reached the client's own process, too
                give_back(stop_code, self.run.project, self.folder if travels else None)
            if travels and (is_preempted or state == "finished"):
                delete_checkpoints(self.run.project, self.run.id, and_latest=state == "finished")
        except TimeoutError:
            command = f"wandb sync --include-online {Path(self.run.dir).parent}"
            say(f"W&B: not all is uploaded, and {run_folder.BEST} stays here; to upload the rest later: {command}")
        return stop_code

    def close(self, exit_code: int) -> None:
        """Close W&B's run.

        Raises:
            TimeoutError: the server did not take all in time.
        """
        if self.is_alive:
            try:
                self.run.finish(exit_code=exit_code)
            except TimeoutError:
                raise
            except Exception:  # W&B has no class for all that its transport raises
                self.is_alive = False
        if not self.is_alive:
            self.let_go(exit_code)

    def let_go(self, exit_code: int) -> None:
        """Let go of the client's own process after a failure; else the client tries at exit, and prints a traceback."""
        import wandb

        with suppress(Exception):  # that process may be dead
            wandb.teardown(exit_code)


def start_wandb(facts: RunFacts, mode: str, reason: str, is_resumed: bool) -> Any:
    """Start the W&B run and print where it goes; return W&B's own run object."""
    import wandb

    os.environ.setdefault("WANDB_DATA_DIR", str(facts.folder / "wandb"))  # else artifacts wait outside the run folder
    try:
        run = init_wandb(facts, mode)
    except wandb.errors.Error as error:  # an expired key, say, or a server that does not answer
        tracking = facts.settings["tracking"]
        if tracking != "auto" or mode == "offline":
            raise UserError(f"--tracking={tracking}: {str(error).splitlines()[0]}; give offline, or off") from None
        wandb.teardown()  # else the run's id stays taken, and the second start fails of it
        return start_wandb(facts, "offline", f" ({type(error).__name__})", is_resumed)
    for key, value in facts.sweep.items():
        if run.config.get(key, value) != value:  # else W&B would record one value and the run train at another
            run.finish(exit_code=1)
            raise UserError(f"W&B records {key}={run.config[key]} where the sweep gave {value}: start a new run")
    run.define_metric("*", step_metric="epoch")
    if mode == "online":
        say(f"W&B: {run.url}")
        connect_wandb_api(run)
    else:
        again = " (the upload of an earlier part of this run comes first)" if is_resumed else ""
        say(f"W&B: offline{reason}; to upload later: wandb sync {Path(run.dir).parent}{again}")
    return run


def init_wandb(facts: RunFacts, mode: str) -> Any:
    """Return a fresh or resumed run of W&B's client; what W&B's variables in the environment say of it counts."""
    import wandb

    settings = facts.settings
    own: dict[str, tuple[str, Any]] = {
        "name": ("WANDB_NAME", name_on_wandb(facts)),
        "group": ("WANDB_RUN_GROUP", os.environ.get(SWEEP_ID)),
        "job_type": ("WANDB_JOB_TYPE", facts.job_type),
        "tags": ("WANDB_TAGS", run_folder.split_tags(settings["tags"])),
    }
    told: dict[str, Any] = {key: value for key, (variable, value) in own.items() if not os.environ.get(variable)}
    config = {key: value for key, value in settings.items() if key not in facts.sweep}
    config[ENVIRONMENT] = {key: facts.environment[key] for key in RECORDED}
    return wandb.init(
        dir=str(facts.folder),
        id=settings["run_id"],
        project=settings["project"],
        config=config,
        mode="online" if mode == "online" else "offline",
        resume="allow",  # offline, too: else the upload of a part begins the run anew
        settings=wandb.Settings(silent=True),
        **told,
    )


def name_on_wandb(facts: RunFacts) -> str:
    """Return what a run is called on W&B: its id or, in a sweep of W&B, what the sweep chose for it.

    W&B does not tell a run which settings its sweep varies: those are named that are not the model's defaults.
    """
    defaults = find_model(facts.settings["model"]).settings_class
    chosen = {key: value for key, value in facts.sweep.items() if value != getattr(defaults, key, None)}
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


def was_stopped_by_wandb(run: Any) -> bool:
    """Return whether W&B has told a run to stop, as its early termination does; not if the server does not answer."""
    try:
        return not run.offline and wandb_stop_flag(run)
    except Exception:  # W&B has no class for all that its transport raises
        return False


def give_back(stop_code: int, project: str = "", folder: Path | None = None) -> None:
    """Have W&B give a run of its sweep to another agent: one that was stopped before it began, for example.

    That is done by a process of its own: in this one, the signal to stop may have interrupted W&B's client anywhere.

    Args:
        stop_code: exit code of the run.
        project: of the run; "" for that of the agent.
        folder: of the run, from where its checkpoint is uploaded; None for no upload.
    """
    if SWEEP_ID not in os.environ or not is_first_process():
        return
    words = [sys.executable, "-m", "analysis.record.preempted", str(stop_code), project]
    words += [str(folder.absolute())] if folder else []
    own = {name: value for name, value in os.environ.items() if name != CLIENT_ADDRESS}
    try:
        subprocess.run(
            words,
            cwd=CHECKOUT,
            env=own,
            start_new_session=True,
            capture_output=True,
            timeout=SECONDS_TO_TELL,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        say(f"W&B: it does not hear that the run was preempted ({' '.join(str(error).split())})")
