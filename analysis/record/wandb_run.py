"""The run of W&B's client that a run of ours logs to, beside its folder."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from analysis.record import run_folder
from analysis.record.findings import Table
from analysis.record.wandb_artifacts import delete_checkpoints, log_checkpoint, log_model
from analysis.record.wandb_start import (
    NUM_LOST,
    RECORDED,
    SWEEP_ID,
    RunFacts,
    command_for_the_rest,
    earlier_logs,
    label,
    marker_of,
    waiting_parts,
)
from data.errors import message_of
from data.files import read_json
from data.internals import stop_wandb_watcher, wandb_gave_up, wandb_steps, wandb_stop_flag
from data.metrics import is_finite
from data.paths import CHECKOUT
from data.visible import is_first_process, say

CLIENT_ADDRESS = "WANDB_SERVICE"  # of the client's own process, by which children of this one find it
SECONDS_TO_TELL = 300
TELLER, OWN_LINE = "analysis.record.wandb_end: ", "W&B: "  # how the lines begin by which that process says its errors
END = {"state", "error", "diverged", "ended"}  # what the summary says of how a run has ended
UPLOADED = {"none": "", "best": run_folder.BEST, "final": run_folder.LAST}  # by --log_model


class WandbRun:
    """A run on W&B, online or offline. Where W&B's client fails, a line says so, and the run goes on without it.

    Args:
        run: of W&B's client.
        facts: what there is to say of the run.
        rows: that a resumed run had logged up to the checkpoint it goes on from.
    """

    def __init__(self, run: Any, facts: RunFacts, rows: Sequence[Mapping[str, float]]) -> None:
        self.run = run
        self.facts = facts
        self.folder = facts.folder
        self.defined: set[str] = set()  # names of figures that W&B knows
        self.num_known = 0  # rows that W&B has
        self.is_alive = True
        if not run.offline:
            self.attempt(self.forget_end)
        self.attempt(lambda: self.catch_up(rows))

    def attempt(self, deed: Callable[[], object]) -> None:
        """Do something with the client, unless that has failed before."""
        if not self.is_alive:
            return
        try:
            deed()
        except Exception as error:  # W&B has no class for all that its transport raises
            self.is_alive = False
            reason = message_of(error)
            say(f"W&B: its client has failed ({reason}): the run goes on without it; all is in {self.folder}")

    @property
    def sends_all(self) -> bool:
        """Whether W&B's client lives and has not given up sending rows."""
        return self.is_alive and not wandb_gave_up(self.run)

    def forget_end(self) -> None:
        """Take back what an earlier part of the run has said of its end, which was not the last."""
        for name in END & set(self.run.summary.keys()):
            del self.run.summary[name]

    def catch_up(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Send the rows of a resumed run that W&B lacks, and note how many it has; without any, it has not begun there.

        A kill can cost rows that were logged and not sent yet or, offline, not on the disk. W&B may also have rows of
        epochs after the checkpoint, which are trained again: they are not sent twice. Of a part that was offline a run
        that is online sends the rows as well, and marks it as uploaded, as an upload that comes later would bring back
        its older summary.
        """
        num_lost = self.facts.environment.get(NUM_LOST, 0)
        default = num_lost + len(rows) if self.facts.earlier_labels else 0  # it was not tracked before
        self.num_known = self.num_in_logs(default) if self.run.offline else self.run.starting_step
        label(self.run, self.facts, is_new=not self.num_known)
        for number, row in enumerate(rows, num_lost + 1):
            if number > self.num_known:
                self.send(number, row)
        for part in [] if self.run.offline else waiting_parts(self.run):
            for file in part.glob("*.wandb"):
                marker_of(file).touch()
            say(f"W&B: the figures of {part} are sent, too: it counts as uploaded, as its summary is older")

    def num_in_logs(self, default: int) -> int:
        """Return how many rows are in the logs of earlier parts, as W&B is not asked offline.

        Args:
            default: where there are no logs, as after `wandb clean` or on another machine.
        """
        logs = earlier_logs(self.run)
        return max((step + 1 for log in logs for step in wandb_steps(log)), default=0) if logs else default

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
        self.run.log({**metrics, **pictures, **sheets}, step=number - 1)

    def update_summary(self, summary: Mapping[str, Any]) -> None:
        """Tell W&B the best values so far, which its tables and sweeps read."""
        self.attempt(lambda: self.run.summary.update(dict(summary)))

    def finish(self, state: str, summary: Mapping[str, Any], stop_code: int) -> int:
        """Close the run, and say how to upload later what the server did not take in time; return the exit code.

        Where W&B's client has died, maybe of the signal that has stopped the run, or was refused rows, a process of its
        own does the rest.

        Args:
            state: "finished", "stopped" or "failed".
            summary: the run's result.
            stop_code: exit code of a run that was stopped, unless W&B has stopped it.
        """
        if state == "stopped" and self.is_alive and was_stopped_by_wandb(self.run):
            stop_code = 0
        try:
            self.upload(state, summary, stop_code)
            if not self.run.offline and not self.sends_all:
                if tell_wandb(stop_code, self.folder):
                    say("W&B: what it lacked of figures is there now, and how the run ended")
                else:
                    say(f"W&B: not all is uploaded; to upload the rest later: {command_for_the_rest(self.folder)}")
        except TimeoutError:
            command = f"wandb sync --include-online {quote(str(Path(self.run.dir).parent))}"
            say(f"W&B: not all is uploaded, and {run_folder.BEST} stays here; to upload the rest later: {command}")
        if self.run.offline and any(marker_of(log).exists() for log in Path(self.run.dir).parent.glob("*.wandb")):
            say(f"W&B: it was uploaded before its end; to upload the rest: {command_for_the_rest(self.folder)}")
        return stop_code

    def upload(self, state: str, summary: Mapping[str, Any], stop_code: int) -> None:
        """Send all that there is to say at the end of a run, and close it; the arguments are those of `finish`.

        W&B gives a run of a sweep to another agent if it was marked as preempted and ends with another code than 0:
        https://docs.wandb.ai/models/sweeps/signal-handling-sweep-runs

        Raises:
            TimeoutError: the server did not take all in time.
        """
        travels = self.facts.settings["checkpoint_artifact"] == "on" and not self.run.offline
        is_preempted = state == "stopped" and stop_code and SWEEP_ID in os.environ and not self.run.offline
        if state == "finished" and (weights := self.weights_to_upload()):
            self.log_model(weights, summary)
        if is_preempted:
            self.attempt(self.run.mark_preempting)
            if travels:
                self.attempt(lambda: log_checkpoint(self.run, self.folder))
        self.update_summary({"state": state, **summary})
        codes = {"finished": 0, "failed": 1, "stopped": stop_code if is_preempted else 0}
        self.close(codes[state])
        if self.is_alive and travels and (is_preempted or state == "finished"):
            delete_checkpoints(self.run, and_latest=state == "finished")

    def weights_to_upload(self) -> Path | None:
        """Return the file of weights that --log_model asks for; None without one."""
        asked = self.facts.settings["log_model"]
        if asked == "auto":
            asked = "none" if self.facts.job_type == "trial" else "best"
        path = self.folder / UPLOADED[asked]
        return path if path.is_file() else None

    def log_model(self, weights: Path, summary: Mapping[str, Any]) -> None:
        """Upload weights with what there is to say of them, see `wandb_artifacts.log_model`.

        The server may refuse these alone, as beyond the storage that is paid for.
        """
        metadata = {
            "metrics": {key: value for key, value in summary.items() if is_finite(value)},
            "settings": dict(self.facts.settings),
            "classes": read_json(self.folder / run_folder.DATA).get("classes", []),
            **{key: self.facts.environment[key] for key in RECORDED if key in self.facts.environment},
        }
        if not self.is_alive:
            return
        try:
            log_model(self.run, weights, self.run.sweep_id or self.run.group or "", metadata)
        except Exception as error:  # W&B has no class for all that its transport raises
            say(f"W&B: the upload of weights has failed ({message_of(error)}): they are in {weights}")

    def close(self, exit_code: int) -> None:
        """Close W&B's run.

        Raises:
            TimeoutError: the server did not take all in time.
        """
        import wandb

        if self.is_alive:
            try:
                self.run.finish(exit_code=exit_code)
            except TimeoutError:
                raise
            except Exception:  # W&B has no class for all that its transport raises
                self.is_alive = False
        if not self.is_alive:  # else the client tries again at exit, and prints a traceback
            with suppress(Exception):  # its own process may be dead
                stop_wandb_watcher(self.run)
                wandb.teardown(exit_code)


def was_stopped_by_wandb(run: Any) -> bool:
    """Return whether W&B has told a run to stop, as its early termination does; not if the server does not answer."""
    try:
        return not run.offline and wandb_stop_flag(run)
    except Exception:  # W&B has no class for all that its transport raises
        return False


def give_back(stop_code: int) -> None:
    """Have W&B give a run of its sweep, which was stopped before it began, to another agent."""
    if SWEEP_ID in os.environ and is_first_process():
        tell_wandb(stop_code)


def tell_wandb(stop_code: int, folder: Path | None = None) -> bool:
    """Have a process of its own tell W&B how a run ended, see `wandb_end`; return whether it could.

    In this one, a signal to stop may have interrupted W&B's client anywhere.
    """
    words = [sys.executable, "-m", TELLER.removesuffix(": "), str(stop_code)]
    words += [str(folder.absolute())] if folder else []
    own = {name: value for name, value in os.environ.items() if name != CLIENT_ADDRESS}
    limits: dict[str, Any] = {"start_new_session": True, "capture_output": True, "timeout": SECONDS_TO_TELL}
    try:
        done = subprocess.run(words, cwd=CHECKOUT, env=own, text=True, **limits)
    except (OSError, subprocess.SubprocessError) as error:
        reason = message_of(error)
    else:
        if not done.returncode:
            return True
        told = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith((OWN_LINE, TELLER))]
        reason = told[-1].removeprefix(TELLER).removeprefix(OWN_LINE) if told else f"exit code {done.returncode}"
    say(f"W&B could not be told how the run ended ({reason})")
    return False
