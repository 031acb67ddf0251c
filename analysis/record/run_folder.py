"""The folder of a run: what its files are called, and how they are written so that a kill cannot spoil them.

runs/<id>/settings.json     what was asked for
runs/<id>/environment.json  command, commit, versions and hardware
runs/<id>/data.json         what its images are: classes, size, normalisation, fingerprint
runs/<id>/metrics.jsonl     one line a log call
runs/<id>/summary.json      the result, once the run has ended
runs/<id>/checkpoint.pt     where training stands, until the run is finished
runs/<id>/best.pt           weights of the best epoch
runs/<id>/final.pt          weights after the last epoch, where --log_model=final asks for them
runs/<id>/panels/           pictures
runs/<id>/predictions.csv   what a classifier predicts of every validation and test image
runs/<id>/calibration.json  how far its confidence is to be believed, and the temperature that mends it
runs/<id>/evaluations.json  how good it is on other images, where that was measured
runs/<id>/.lock             held by the process that carries the run out; the system frees it when that dies
runs/<id>/generation.json   how good its own images are, where they were measured

runs/sweeps/<sweep>/        a sweep's runs, each in a folder of its own, and
    sweep.yaml              its file
    study.db                its trials
    final.json              what its final runs came to
    best.yaml               the recipe of its best trial
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

try:
    from pydantic_core import from_json
except ImportError:  # it comes with W&B's client, which a machine that only trains may lack; this takes thrice as long
    from json import loads as from_json  # type: ignore[assignment]

from data.errors import InProgressError, UserError
from data.files import read_json

SETTINGS = "settings.json"
ENVIRONMENT = "environment.json"
DATA = "data.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
CHECKPOINT = "checkpoint.pt"
PREVIEW = "training_images"  # the picture of what training sees, drawn before the first step
BEST = "best.pt"
LAST = "final.pt"
BACKBONE = "backbone"  # weights of a frozen network, with the ending of their file
PANELS = "panels"
PREDICTIONS = "predictions.csv"
CALIBRATION = "calibration.json"
EVALUATIONS = "evaluations.json"
SECONDS_TO_LOOK = 2.0  # for which others may hold the lock of a run, to see whether it is in progress
LOCK = ".lock"
GENERATION = "generation.json"
MEASURED = "weights"  # its key for the fingerprint of the weights that its figures are of

SWEEPS = "sweeps"
SWEEP_FILE = "sweep.yaml"
STUDY = "study.db"
FINAL_RESULT = "final.json"
BEST_RECIPE = "best.yaml"
FINAL, SEED_SUFFIX = "final-", "-seed"  # ids of final runs begin with the one, and end in the other and their seed
# As sweeps/final.py names them: with their trial and, where there was another run of its name, what is different.
NAME_OF_FINAL = re.compile(rf"{FINAL}(.+?)(?:-epochs\d+)?(?:-(?:no|bf16|fp16))?{SEED_SUFFIX}\d+")

ROWS_AT_ONCE = 1000


def weights_fingerprint(folder: Path) -> str:
    """Return a hash of the weights that a run keeps, those of its best epoch so far; "" where there are none."""
    path = folder / BEST
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return "sha256-" + hashlib.file_digest(file, "sha256").hexdigest()


class LogReader:
    """Reads each row of a run's log once, as the log grows; from its start again if the run went back to a checkpoint.

    Reading ends before the first line that a kill or a second writer has cut short.

    Args:
        folder: of the run.
        size: bytes that an earlier reader has read.
        last: the last line of these.
    """

    def __init__(self, folder: Path, size: int = 0, last: bytes = b"") -> None:
        self.path = folder / METRICS
        self.size = size
        self.last = last

    def goes_on(self) -> bool:
        """Return whether the log begins with what has been read; if not, it is read from its start."""
        with suppress(OSError), open_log(self.path) as file:
            file.seek(self.size - len(self.last))
            if file.read(len(self.last)) == self.last:
                return True
        self.size, self.last = 0, b""
        return False

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows that have been logged since the last reading, some at a time."""
        try:
            file = open_log(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return
        with file:
            file.seek(self.size)
            while lines := list(islice(file, ROWS_AT_ONCE)):
                rows = parse_rows(lines if lines[-1].endswith(b"\n") else lines[:-1])
                if rows:
                    self.size, self.last = self.size + sum(map(len, lines[: len(rows)])), lines[len(rows) - 1]
                    yield rows
                if len(rows) < len(lines):
                    return


def open_log(path: Path) -> BinaryIO:
    """Open a log; raise FileNotFoundError for what is no file, such as a pipe, whose opening would not end."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.open("rb")


def parse_rows(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return what lines of a log hold, up to the first that holds no row."""
    with suppress(ValueError):  # all lines at once: one by one they take twice as long
        rows = from_json(b"[" + b",".join(lines) + b"]")
        if len(rows) == len(lines) and all(isinstance(row, dict) for row in rows):
            return rows
    rows = []
    for line in lines:
        try:
            row = from_json(line)
        except ValueError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows that a run has logged, up to the first line that a kill or a second writer has cut short."""
    return [row for rows in LogReader(folder) for row in rows]


def state(folder: Path) -> str:
    """Return how a run ended: "finished", "stopped" or "failed"; "unfinished" if it still runs or was killed."""
    found = read_json(folder / SUMMARY).get("state")
    return found if found in ("finished", "stopped", "failed") else "unfinished"


def take(folder: Path) -> FileLock:
    """Make a run this process's own until the returned lock is released or the process ends.

    Raises:
        InProgressError: another process carries the run out.
        UserError: the folder cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=SECONDS_TO_LOOK)
    except Timeout:
        remedy = "wait for it, or give another --run_id"
        raise InProgressError(f"{folder} is in progress in another process: {remedy}") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another --runs_dir") from None
    return lock


def is_in_progress(folder: Path) -> bool:
    """Return whether a living process carries a run out."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except (Timeout, OSError):  # OSError: another user's
        return True


def latest_unfinished(runs_dir: Path) -> str | None:
    """Return the name of the newest run that can be resumed, and is not in progress; None where there is none."""
    found = (path.parent for path in runs_dir.glob(f"*/{SETTINGS}"))
    folders = [run for run in found if state(run) in ("unfinished", "stopped") and not is_in_progress(run)]
    return max(folders, key=lambda folder: os.path.getmtime(folder / SETTINGS)).name if folders else None


def sweep_of(folder: Path) -> str:
    """Return the name of the sweep in whose folder a run's folder lies; "" where it lies in none."""
    place = Path(os.path.abspath(folder)).parent
    return place.name if place.parent.name == SWEEPS or (place / SWEEP_FILE).is_file() else ""


def fresh_run_id() -> str:
    """Return a run id as W&B makes them: 8 letters and digits."""
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(8))


def run_of_seed(run_id: str, place: int) -> str:
    """Return the name of a trial's run with one of its seeds, by its place from 0: the trial's own for the first."""
    return f"{run_id}-s{place + 1}" if place else run_id


def order_of_seeds(run_id: str) -> tuple[int, str]:
    """Return the key by which the runs of a trial stand in the order of their seeds: -s2 before -s10."""
    return len(run_id), run_id


def first_of_trial(run_id: str) -> str:
    """Return the name of a trial's first run, by that of a further one; any other name as it is."""
    return re.sub(r"-s\d+$", "", run_id)


def split_tags(text: Any) -> tuple[str, ...]:
    """Return the tags that the setting `tags` lists, separated by commas."""
    return tuple(tag.strip() for tag in str(text or "").split(",") if tag.strip())
