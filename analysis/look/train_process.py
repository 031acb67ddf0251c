"""train.py in a process of its own, whose settings come from the program that starts it and from nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any

from analysis.read.recipe import flags
from analysis.record import run_folder
from analysis.record.environment import CHECKOUT
from analysis.record.run_folder import fresh_run_id
from data.errors import UserError
from data.metrics import is_epoch
from data.progress import progress_bar
from models.core.processes import LAUNCHED_BY_US

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_SAVE = 60.0  # of a run that is stopped for its checkpoint
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
NUM_SHOWN_LINES = 10  # of the output of a run that failed
# Variables by which launchers and agents tell train.py something else than its command line does.
OF_LAUNCHERS = ("WANDB_", "ACCELERATE_", "VISION_SWEEPS_RUNS")


def run_train_py(
    settings: Mapping[str, Any],
    runs_dir: Path,
    launcher: Sequence[str] = (),
    num_rows: float = inf,
    to_the_end: bool = True,
    variables: Mapping[str, str] = {},
) -> Path:
    """Run train.py to its end, and return the folder of its run.

    It does not outlive this program, be that interrupted or killed.

    Args:
        settings: of the run, by name; it is not tracked unless they say so.
        runs_dir: folder that the run's own is made in, beside a file of its output.
        launcher: words of Python's command line that come before train.py, such as `-m accelerate.commands.launch`.
        num_rows: rows of metrics that are wanted of it; a run that fails after logging them is no error.
        to_the_end: whether it goes on after those rows.
        variables: of its environment, beside this program's.

    Raises:
        UserError: the run failed; the message ends with the last lines of its output.
    """
    folder = runs_dir / fresh_run_id()
    own = {"runs_dir": str(runs_dir), "run_id": folder.name, "resume": False, "dry_run": False}
    told = {"tracking": "off", **settings, **own}
    words = [sys.executable, *launcher, str(CHECKOUT / "train.py"), *flags(told)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(OF_LAUNCHERS)}
    environment |= {LAUNCHED_BY_US: "1", **variables}
    runs_dir.mkdir(parents=True, exist_ok=True)
    with signals_exit(), (runs_dir / f"{folder.name}.log").open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait(process, folder, told.get("epochs"), inf if to_the_end else num_rows)
        finally:
            end(process)
        output.seek(0)
        lines = output.read().splitlines()[-NUM_SHOWN_LINES:]
    if process.returncode and len(run_folder.read_metrics(folder)) < num_rows:
        raise UserError(f"train.py failed, exit code {process.returncode}: {' / '.join(lines)}")
    return folder


def wait(process: subprocess.Popen, folder: Path, num_epochs: int | None, num_rows: float) -> None:
    """Wait until a run has ended or logged so many rows, with a progress bar of its epochs."""
    rows: list[dict[str, Any]] = []
    with progress_bar("training", num_epochs, "epochs") as bar:
        while process.poll() is None and len(rows) < num_rows:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            rows = run_folder.read_metrics(folder)
            bar.update(sum(map(is_epoch, rows)) - bar.n)


def end(process: subprocess.Popen) -> None:
    """End a process that may have ended already: let it save its state, or kill it where it takes too long."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_SAVE)
    process.kill()
    process.wait()


@contextmanager
def signals_exit() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end this program as Ctrl-C does, by way of what must be cleaned up."""
    if threading.current_thread() is not threading.main_thread():  # which alone can handle signals
        yield
        return
    numbers = [number for number in ENDING_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # as nohup sets it
    before = {number: signal.signal(number, lambda number, frame: sys.exit(128 + number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
