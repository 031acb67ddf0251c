"""What a run logs, written to its folder and, beside it, to Weights & Biases."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from analysis.record import run_folder
from analysis.record.findings import Table
from analysis.record.wandb_login import check_limits, choose_mode
from analysis.record.wandb_run import WandbRun
from analysis.record.wandb_start import (
    ADDRESS,
    INITIAL,
    JOB_TYPE,
    LABELS,
    NOT_APPLICABLE,
    NUM_LOST,
    RunFacts,
    start_wandb,
)
from data.errors import UserError
from data.files import naming_file, read_json, replace_file, write_json
from data.metrics import is_closing
from data.visible import counted, say
from models.resolve import not_applicable
from models.setting_groups import settings_for

# Of what an earlier start has noted: by hand, or offline, it is not known.
KEPT = {ADDRESS: str, LABELS: dict, NOT_APPLICABLE: list, INITIAL: str}


def kept_rows(folder: Path, num_logged: int, goes_on: bool) -> tuple[list[dict[str, Any]], int]:
    """Return the rows that a run keeps as it goes on from a checkpoint, and the number of rows its folder has lost.

    W&B knows a row by its number, so numbers have to go on. The row of a closing evaluation is kept even if more epochs
    follow, as in a run that was killed at its end and is given more. Rows that were lost keep their numbers.

    Args:
        folder: of the run.
        num_logged: rows up to the checkpoint, with those that were lost before.
        goes_on: whether there are epochs left to train.
    """
    known = read_json(folder / run_folder.ENVIRONMENT).get(NUM_LOST)
    num_there = num_logged - (known if type(known) is int and known in range(num_logged + 1) else 0)
    logged = run_folder.read_metrics(folder)
    rows, after = logged[:num_there], logged[num_there:]
    closing = [row for row in after[:1] if goes_on and is_closing(row)]
    return rows + closing, num_logged - len(rows)


class Tracker:
    """Writes what a run logs to its folder and to W&B; only the main process has one.

    Args:
        facts: folder, settings and environment of the run; the folder is made if it is not there.
        num_logged: calls of `log` up to the checkpoint that a resumed run goes on from; later rows are dropped.
        goes_on: whether there are epochs left to train.
        lock: of the run's folder, if this process holds it already.

    Attributes:
        first_images: picture files by name, which go to W&B with the run's first row.

    Raises:
        UserError: the folder cannot be written, or W&B cannot be reached although --tracking=online asks for it.
    """

    def __init__(
        self, facts: RunFacts, num_logged: int = 0, goes_on: bool = False, lock: FileLock | None = None
    ) -> None:
        self.folder = folder = facts.folder
        settings, earlier = facts.settings, read_json(folder / run_folder.ENVIRONMENT)
        facts = replace(facts, earlier=earlier)
        environment = {key: earlier[key] for key, kind in KEPT.items() if isinstance(earlier.get(key), kind)}
        environment |= facts.environment
        environment[JOB_TYPE] = facts.job_type
        if names := not_applicable(settings_for(settings["model"], facts.sweep), settings["model"]):
            environment[NOT_APPLICABLE] = names
        mode, reason = choose_mode(settings["tracking"])
        if mode != "off":
            check_limits(settings)
            environment[LABELS] = facts.labels
        elif reason:
            say(f"W&B: off{reason}")
        try:
            (folder / run_folder.PANELS).mkdir(parents=True, exist_ok=True)
            self.lock = lock or run_folder.take(folder)
            rows, num_lost = kept_rows(folder, num_logged, goes_on)
            if num_lost:
                environment[NUM_LOST] = num_lost
                lost = f"{num_lost:,} of {counted(num_logged, 'row')}"
                say(f"{folder / run_folder.METRICS} has lost {lost}: the curves lack them")
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            replace_file(folder / run_folder.METRICS, lambda path: path.write_text(lines, "utf-8"))
            write_json(folder / run_folder.SETTINGS, settings)
            write_json(folder / run_folder.ENVIRONMENT, environment)
            (folder / run_folder.SUMMARY).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}): name another --runs_dir") from None
        self.facts = replace(facts, environment=environment)
        self.num_logged = num_lost + len(rows)
        self.first_images: Mapping[str, Path] = {}
        self.metrics_file = (folder / run_folder.METRICS).open("a", encoding="utf-8")
        self.wandb: WandbRun | None = None
        if mode != "off":
            run = start_wandb(self.facts, mode, reason)
            self.wandb = WandbRun(run, self.facts, rows)
            if not run.offline:
                environment |= {ADDRESS: run.url, LABELS: {**facts.labels, "entity": run.entity}}
                write_json(folder / run_folder.ENVIRONMENT, environment)

    def log(
        self, metrics: Mapping[str, float], images: Mapping[str, Path] = {}, tables: Mapping[str, Table] = {}
    ) -> None:
        """Log one row: the metrics of an epoch, of a step within it, or of the closing evaluation.

        Args:
            metrics: numbers by name; `epoch` and `images_seen`, the x axes, are among them.
            images: picture files by name; they go to W&B alone.
            tables: tables by name; they go to W&B alone.
        """
        with naming_file(self.metrics_file.name):
            self.metrics_file.write(json.dumps(metrics) + "\n")
            self.metrics_file.flush()
        self.num_logged += 1
        if self.num_logged == 1:
            images = {**self.first_images, **images}
        if self.wandb is not None:
            self.wandb.log(self.num_logged, metrics, images, tables)

    def settle(self) -> None:
        """Write the rows to the disk; this comes before a checkpoint, which counts them and must not outlive them."""
        with naming_file(self.metrics_file.name):
            os.fsync(self.metrics_file.fileno())

    def update_summary(self, summary: Mapping[str, Any]) -> None:
        """Tell W&B the best values so far, which its tables and sweeps read."""
        if self.wandb is not None:
            self.wandb.update_summary(summary)

    def finish(self, state: str, summary: Mapping[str, Any], stop_code: int) -> int:
        """Write the summary, close the run, and free what only a run that is under way needs; return its exit code.

        Args:
            state: "finished", "stopped" or "failed".
            summary: the run's result.
            stop_code: exit code of a run that was stopped, but not by W&B, which expects 0 then.
        """
        summary = {**summary, "ended": datetime.now(UTC).isoformat(timespec="seconds")}
        try:
            with naming_file(self.metrics_file.name):
                self.metrics_file.close()
            write_json(self.folder / run_folder.SUMMARY, {"state": state, **summary})
        except OSError as error:
            if self.wandb is not None:
                self.wandb.finish("failed", {**summary, "error": str(error)}, stop_code)
            raise
        code = stop_code if state == "stopped" else 0
        if self.wandb is not None:
            code = self.wandb.finish(state, summary, code)
        if state == "finished":
            self.drop_checkpoint()
        self.lock.release()
        return code

    def drop_checkpoint(self) -> None:
        """Delete the checkpoint, three times the size of the network, which nobody goes on from any more."""
        (self.folder / run_folder.CHECKPOINT).unlink(missing_ok=True)
