"""The run of W&B's client that a run of ours logs to, beside its folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from analysis.record import run_folder
from analysis.record.findings import Table
from data.errors import UserError
from data.internals import connect_wandb_api
from data.visible import say

EXIT_CODES = {"finished": 0, "stopped": 0, "failed": 1}


class WandbRun:
    """A run on W&B, online or offline. Where W&B's client fails, a line says so, and the run goes on without it.

    Args:
        run: of W&B's client.
        folder: of the run.
        rows: that a resumed run had logged up to the checkpoint it goes on from.
        num_lost: rows before that which are no longer in its folder.
    """

    def __init__(self, run: Any, folder: Path, rows: Sequence[Mapping[str, float]], num_lost: int = 0) -> None:
        self.run = run
        self.folder = folder
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

    def finish(self, state: str, summary: Mapping[str, Any], artifact: Path | None) -> None:
        """Close the run, and say how to upload later what the server did not take in time."""
        if artifact is not None and artifact.exists() and state == "finished":  # a stopped run is soon killed
            self.attempt(lambda: self.run.log_artifact(str(artifact), name=f"model-{self.run.id}", type="model"))
        self.update_summary({"state": state, **summary})
        try:
            if self.is_alive:
                self.run.finish(exit_code=EXIT_CODES[state])
            else:
                self.let_go(EXIT_CODES[state])
        except TimeoutError:
            command = f"wandb sync --include-online {Path(self.run.dir).parent}"
            say(f"W&B: not all is uploaded, and {run_folder.BEST} stays here; to upload the rest later: {command}")

    def let_go(self, exit_code: int) -> None:
        """Let go of the client's own process after a failure; else the client tries at exit, and prints a traceback."""
        import wandb

        with suppress(Exception):  # that process may be dead
            wandb.teardown(exit_code)


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
        say(f"W&B: {run.url}")
        connect_wandb_api(run)
    else:
        again = " (the upload of an earlier part of this run comes first)" if is_resumed else ""
        say(f"W&B: offline{reason}; to upload later: wandb sync {Path(run.dir).parent}{again}")
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
        resume="allow",  # offline, too: else the upload of a part begins the run anew
        settings=wandb.Settings(silent=True),
    )
