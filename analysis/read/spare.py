"""What runs keep on disk that nobody needs any more: checkpoints of finished runs, weights of trials that lost."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from analysis.read.records import RunRecord
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import runs_of
from analysis.record import run_folder
from data.errors import UserError
from data.files import UNFINISHED, remove_abandoned

WEIGHTS = (run_folder.BEST, run_folder.LAST)
ENDED = ("COMPLETE", "PRUNED")  # states of trials that never go on


class Spare(NamedTuple):
    """A file that can be deleted."""

    path: Path
    what: str
    num_bytes: int


def find_spare(
    runs_dir: Path, records: Iterable[RunRecord], sweeps: Iterable[SweepRecord], num_kept: int
) -> list[Spare]:
    """Return the files of runs that can be deleted; none of a run in progress, nor any that a link leads to.

    Args:
        runs_dir: the runs folder.
        records: the runs to look through.
        sweeps: all sweeps there.
        num_kept: best trials of each sweep that keep their weights.
    """
    surplus = {
        (sweep.name, run_id): f"weights of a trial beyond the best {num_kept:,} of {sweep.name}"
        for sweep in sweeps
        for trial in [trial for trial in sweep.leaders if trial.state in ENDED][num_kept:]
        if trial.ended is not None  # else the sweep's database is elsewhere, and a paused trial looks like an ended one
        for run_id in runs_of(trial.run_id, len(trial.seeds))
    }
    found = []
    for record in records:
        folder = Path(record.source)
        is_linked = os.path.realpath(folder) != os.path.join(os.path.realpath(runs_dir), folder.relative_to(runs_dir))
        if is_linked or run_folder.is_in_progress(folder):
            continue
        reasons: dict[str, str] = {}
        if record.state == "finished":
            reasons[run_folder.CHECKPOINT] = "checkpoint of a finished run"
        if reason := surplus.get((record.sweep, record.run_id)):
            reasons |= dict.fromkeys((run_folder.CHECKPOINT, *WEIGHTS), reason)
        reasons |= {path.name: "left by a killed process" for path in folder.glob(f".*{UNFINISHED}")}
        found += spare_files(folder, reasons)
    return found


def spare_files(folder: Path, reasons: Mapping[str, str]) -> list[Spare]:
    """Return those of the named files of a folder that are there, with why they can go; links are left alone."""
    paths = [folder / name for name in reasons]
    return [Spare(path, reasons[path.name], path.lstat().st_size) for path in paths if is_plain(path)]


def is_plain(path: Path) -> bool:
    """Return whether there is a file, and no link, under a name."""
    return path.is_file() and not path.is_symlink()


def free_weights(folder: Path) -> None:
    """Delete the weights and the checkpoint of a trial that has ended for good, unless somebody is at work on it."""
    free(spare_files(folder, dict.fromkeys((run_folder.CHECKPOINT, *WEIGHTS), "")))


def free(files: Sequence[Spare]) -> tuple[int, list[Path]]:
    """Delete files of runs, but for those of runs that have been taken up again.

    Returns:
        Bytes that were freed, and the files that are still there.
    """
    num_bytes, kept = 0, []
    by_folder: dict[Path, list[Spare]] = {}
    for file in files:
        by_folder.setdefault(file.path.parent, []).append(file)
    for folder, own in by_folder.items():
        try:
            lock = run_folder.take(folder)
        except (UserError, OSError):
            kept += [file.path for file in own]
            continue
        try:
            for file in own:
                with suppress(OSError):
                    delete(file.path)
                if file.path.exists():
                    kept.append(file.path)
                else:
                    num_bytes += file.num_bytes
        finally:
            lock.release()
    return num_bytes, kept


def delete(path: Path) -> None:
    """Delete a file; one that another process is writing stays: raise OSError."""
    if path.name.endswith(UNFINISHED):
        remove_abandoned(str(path), os.O_RDWR | os.O_NONBLOCK, os.unlink)
    else:
        path.unlink(missing_ok=True)
