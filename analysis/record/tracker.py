"""What a run logs, written to its folder and, beside it, to Weights & Biases."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analysis.record import run_folder
from analysis.record.wandb_login import check_limits, choose_mode
from data.errors import UserError
from data.files import replace_file, write_json
from data.internals import connect_wandb_api

EXIT_CODES = {"finished": 0, "stopped": 0, "failed": 1}


class Table(NamedTuple):
    """A small table of figures: names of the columns, and rows of values."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Analysis(NamedTuple):
    """What a closer look at a model has found, to be logged under its names."""

    metrics: Mapping[str, float] = {}
    images: Mapping[str, Path] = {}  # pictures on disk
    tables: Mapping[str, Table] = {}


class Tracker:
    """Writes what a run logs to its folder and to W&B; only the main process has one.

    Args:
        folder: of the run; it is made if it is not there.
        settings: of the run, which become W&B's config.
        environment: command, versions and hardware.
        sweep: values that a sweep gave; W&B has them in its config already and refuses to change them.
        num_logged: calls of `log` up to the checkpoint that a resumed run goes on from; later rows are dropped.

    Raises:
        UserError: the folder cannot be written, or W&B cannot be reached although --tracking=online asks for it.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        environment: Mapping[str, Any],
        sweep: Mapping[str, Any],
        num_logged: int = 0,
    ) -> None:
        self.folder = folder
        mode, reason = choose_mode(settings["tracking"])
        if mode != "off":
            check_limits(settings)
        try:
            (folder / run_folder.PANELS).mkdir(parents=True, exist_ok=True)
            self.lock = run_folder.take(folder)
            rows = run_folder.read_metrics(folder)[:num_logged]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            replace_file(folder / run_folder.METRICS, lambda path: path.write_text(lines, "utf-8"))
            write_json(folder / run_folder.SETTINGS, settings)
            write_json(folder / run_folder.ENVIRONMENT, environment)
            (folder / run_folder.SUMMARY).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}): name another --runs_dir") from None
        self.num_logged = len(rows)
        self.metrics_file = (folder / run_folder.METRICS).open("a", encoding="utf-8")
        self.defined: set[str] = set()  # figures that W&B knows of
        self.num_known = 0  # rows that W&B has
        self.wandb_run: Any = None
        if mode != "off":
            self.wandb_run = start_wandb(folder, settings, sweep, mode, reason, is_resumed=bool(rows))
            if not self.wandb_run.offline:
                self.catch_up(self.wandb_run, rows)
                write_json(folder / run_folder.ENVIRONMENT, {**environment, "wandb": self.wandb_run.url})

    def log(
        self, metrics: Mapping[str, float], images: Mapping[str, Path] = {}, tables: Mapping[str, Table] = {}
    ) -> None:
        """Log one row: all that there is to say of an epoch, or of the closing evaluation.

        Args:
            metrics: numbers by name; `epoch` and `images_seen`, the x axes, are among them.
            images: picture files by name; they go to W&B alone.
            tables: tables by name; they go to W&B alone.
        """
        self.metrics_file.write(json.dumps(metrics) + "\n")
        self.metrics_file.flush()
        self.num_logged += 1
        if self.wandb_run is not None and self.num_logged > self.num_known:
            import wandb

            kinds = {".png": wandb.Image, ".gif": wandb.Video}
            pictures = {name: kinds[path.suffix](str(path)) for name, path in images.items()}
            sheets = {
                name: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
                for name, table in tables.items()
            }
            self.define(metrics)
            self.wandb_run.log({**metrics, **pictures, **sheets})

    def define(self, metrics: Mapping[str, float]) -> None:
        """Tell W&B of figures that are new: the epoch is their x axis, and their summary is ours, see `update_summary`.

        Tables and pictures are left to W&B, whose summary shows the newest.
        """
        for name in metrics.keys() - self.defined:
            self.wandb_run.define_metric(name, step_metric=None if name == "epoch" else "epoch", summary="none")
        self.defined |= metrics.keys()

    def catch_up(self, run: Any, rows: Sequence[Mapping[str, float]]) -> None:
        """Send W&B the rows of a resumed run that it lacks, and note how many it has.

        A kill can cost rows that were logged and not sent yet. W&B may also have rows of epochs after the checkpoint,
        which are trained again: they are not sent twice. A part that was offline is left to its own upload.
        """
        self.num_known = run.step
        if any((self.folder / "wandb").glob("offline-run-*")):
            return
        for row in rows[self.num_known :]:
            self.define(row)
            run.log(dict(row))

    def update_summary(self, summary: Mapping[str, Any]) -> None:
        """Tell W&B the best values so far, which its tables and sweeps read."""
        if self.wandb_run is not None:
            self.wandb_run.summary.update(dict(summary))

    def finish(self, state: str, summary: Mapping[str, Any], artifact: Path | None = None) -> None:
        """Write the summary and close the run.

        Args:
            state: "finished", "stopped" or "failed".
            summary: the run's result.
            artifact: file of weights to upload, if it exists.
        """
        self.metrics_file.close()
        write_json(self.folder / run_folder.SUMMARY, {"state": state, **summary})
        if self.wandb_run is not None:
            self.finish_wandb(self.wandb_run, state, summary, artifact)
        self.lock.release()

    def finish_wandb(self, run: Any, state: str, summary: Mapping[str, Any], artifact: Path | None) -> None:
        """Close W&B's run, and say how to upload later what its server did not take in time."""
        if artifact is not None and artifact.exists() and state == "finished":  # a stopped run is soon killed
            run.log_artifact(str(artifact), name=f"model-{run.id}", type="model")
        self.update_summary({"state": state, **summary})
        try:
            run.finish(exit_code=EXIT_CODES[state])
        except TimeoutError:
            command = f"wandb sync --include-online {Path(run.dir).parent}"
            print(f"W&B: not all is uploaded, and {run_folder.BEST} stays here; to upload the rest later: {command}")


def start_wandb(
    folder: Path, settings: Mapping[str, Any], sweep: Mapping[str, Any], mode: str, reason: str, is_resumed: bool
) -> Any:
    """Start the W&B run and print where it goes; return W&B's own run object."""
    import wandb

    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))  # else artifacts wait outside the run folder
    try:
        run = init_wandb(folder, settings, sweep, mode)
    except wandb.errors.Error as error:  # an expired key, say, or a server that does not answer
        if settings["tracking"] != "auto" or mode == "offline":
            reason = str(error).splitlines()[0]
            raise UserError(f"--tracking={settings['tracking']}: {reason}; give offline, or off") from None
        wandb.teardown()  # else the run's id stays taken, and the second start fails of it
        return start_wandb(folder, settings, sweep, "offline", f" ({type(error).__name__})", is_resumed)
    for key, value in sweep.items():
        if run.config.get(key, value) != value:  # else W&B would record one value and the run train at another
            run.finish(exit_code=1)
            raise UserError(f"W&B records {key}={run.config[key]} where the sweep gave {value}: start a new run")
    run.define_metric("*", step_metric="epoch")
    if mode == "online":
        print(f"W&B: {run.url}")
        connect_wandb_api(run)
    else:
        again = " (the upload of an earlier part of this run comes first)" if is_resumed else ""
        print(f"W&B: offline{reason}; to upload later: wandb sync {Path(run.dir).parent}{again}")
    return run


def init_wandb(folder: Path, settings: Mapping[str, Any], sweep: Mapping[str, Any], mode: str) -> Any:
    """Return a fresh or resumed run of W&B's client."""
    import wandb

    return wandb.init(
        dir=str(folder),
        id=settings["run_id"],
        name=settings["run_id"],
        project=settings["project"],
        tags=run_folder.split_tags(settings["tags"]),
        config={key: value for key, value in settings.items() if key not in sweep},
        mode="online" if mode == "online" else "offline",
        resume="allow",  # offline, too: else a resumed run counts its steps from 0, and its upload replaces rows
        settings=wandb.Settings(silent=True),
    )
