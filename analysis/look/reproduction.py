"""How a run was made, what has changed since, and whether it comes out the same."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from analysis.look.train_process import run_train_py
from analysis.look.trained_run import best_device
from analysis.read.recipe import command_of, flags
from analysis.record import run_folder
from analysis.record.environment import describe_environment, git
from analysis.record.resume import resolve
from data.errors import UserError
from data.files import read_json, scratch_folder
from data.metrics import is_closing
from data.visible import counted
from models.core.settings import INVOCATION, Settings
from models.loading import read_data

# Of the metrics; the second is that of steps within an epoch, which --log_every asks for.
UNREPEATABLE = ("images_per_second", "step/images_per_second", "epoch_seconds", "peak_memory_gib")
COMPARED = ("commit", "changes", "data", "python", "cuda", "device")  # of an environment, beside its packages
TOLERANCE = 0.01  # relative deviation of a metric that counts as none


class RecordedRun(NamedTuple):
    """What a run recorded of how it was made."""

    folder: Path
    saved: dict[str, Any]  # its settings as they were saved
    settings: Settings  # the same for a new run, with its images where they are now
    environment: dict[str, Any]


class Difference(NamedTuple):
    """A metric that came out otherwise."""

    epoch: int
    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} in epoch {self.epoch}, {self.then} then and {self.now} now"


def read_run(folder: Path, data_dir: str = "") -> RecordedRun:
    """Read what a run was made with.

    Args:
        folder: of the run.
        data_dir: where its images are; empty for where they were.

    Raises:
        UserError: its settings are no longer known, or it has no record of its environment.
    """
    saved, environment = (read_json(folder / name) for name in (run_folder.SETTINGS, run_folder.ENVIRONMENT))
    if not environment:
        path = folder / run_folder.ENVIRONMENT
        raise UserError(f"{path} is missing or damaged, so that nobody knows what the run was made with: restore it")
    told = {key: value for key, value in saved.items() if key not in INVOCATION}
    if data_dir:
        told["data_dir"] = data_dir
    return RecordedRun(folder, saved, resolve(flags(told), {}), environment)


def launcher(environment: Mapping[str, Any]) -> list[str]:
    """Return the words before train.py that start as many processes as a run had."""
    num_processes = environment.get("num_processes", 1)
    where = "--cpu" if "thread" in environment.get("device", "") else "--multi_gpu"
    return ["accelerate", "launch", where, "--num_processes", str(num_processes)] if num_processes > 1 else ["python"]


def environment_now(settings: Settings, num_processes: int) -> dict[str, Any]:
    """Return what a run of these settings would record of its environment if it began now."""
    try:
        data = read_data(settings)[0].fingerprint
    except UserError as error:
        data = f"not readable: {error}"
    return {**describe_environment([], best_device(), num_processes), "data": data}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what differs between two environments, as (name, then, now); what was not recorded then is left out."""
    pairs = [(name, then.get(name), now.get(name)) for name in COMPARED]
    packages = then.get("packages", {})
    pairs += [(name, version, now["packages"].get(name, "none")) for name, version in packages.items()]
    return [pair for pair in pairs if pair[1] is not None and pair[1] != pair[2]]


def changed_files(commit: str) -> str:
    """Return how much of the source has changed since a commit, in words; nothing where git does not know it."""
    base = commit.removesuffix("-dirty")
    if not base or not git("cat-file", "-t", base):
        return ""
    return f" ({len(git('diff', '--name-only', base, '--', '*.py').splitlines())} Python files differ)"


def describe(run: RecordedRun) -> str:
    """Return in words how a run was made, and what differs now."""
    then = run.environment
    now = environment_now(run.settings, then.get("num_processes", 1))
    packages = " ".join(f"{name}=={version}" for name, version in then.get("packages", {}).items())
    dirty = ", with changes that no commit has" if then.get("commit", "").endswith("-dirty") else ""
    shown = {
        "run": f"{run.folder}, {run_folder.state(run.folder)}, started {then.get('started', 'at an unknown time')}",
        "typed": then.get("command", ""),
        "command": command_of(run.saved, launcher(then)),
        "commit": f"{then.get('commit', '')}{dirty}",
        "data": then.get("data", ""),
        "python": then.get("python", ""),
        "packages": packages,
        "device": f"{then.get('device', '')}, {counted(then.get('num_processes', 1), 'process', 'processes')}",
    }
    lines = [f"{name:<10}{text}" for name, text in shown.items()]
    changes = differences(then, now)
    lines.append("differs now:" if changes else "nothing of this differs now")
    for name, before, after in changes:
        files = changed_files(before) if name == "commit" else ""
        lines.append(f"  {name:<14}{before or 'none'} then, {after or 'none'} now{files}")
    return "\n".join(lines)


def run_again(settings: Settings, then: Mapping[str, Any], runs_dir: Path, num_rows: int, to_the_end: bool) -> Path:
    """Run with the same settings under another id, untracked, and return the new run's folder.

    Args:
        settings: of the run.
        then: its environment.
        runs_dir: folder that the new run's is made in.
        num_rows: rows of metrics that are wanted of it.
        to_the_end: whether it goes on after those rows.

    Raises:
        UserError: it failed before.
    """
    told = {**asdict(settings), "tracking": "off"}
    words = launcher(then)[2:]  # of `accelerate launch`, if any
    start = ["-m", "accelerate.commands.launch", *words] if words else []
    return run_train_py(told, runs_dir, start, num_rows, to_the_end, same_threads(then))


def same_threads(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables that give a run as many threads as it had: sums in another order differ."""
    device = re.search(r"(\d+) threads?$", environment.get("device", ""))  # of runs that did not record their threads
    threads = environment.get("threads") or (device and device[1])
    return {"OMP_NUM_THREADS": str(threads)} if threads else {}


def compare(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], tolerance: float) -> tuple[int, str]:
    """Compare what two runs logged, row by row.

    Args:
        then: rows of the first.
        now: rows of the second.
        tolerance: largest deviation that counts as none, relative to the larger value.

    Returns:
        An exit code, 0 where they agree, and the verdict in words.
    """
    off: list[Difference] = []
    num_equal = 0
    for before, after in zip(then, now, strict=False):
        keys = dict.fromkeys(key for key in (*before, *after) if key not in UNREPEATABLE)
        found = [(key, before.get(key), after.get(key)) for key in keys]
        unlike = [Difference(before.get("epoch", 0), *pair) for pair in found if not is_same(*pair[1:])]
        num_equal += not unlike
        off += unlike
    beyond = [it for it in off if not is_near(it.then, it.now, tolerance)]
    if beyond:
        return 1, f"different from epoch {beyond[0].epoch} on, by more than {tolerance:g}: {beyond[0]}"
    if len(now) < len(then):
        return 1, f"shorter: {len(now)} rows of {len(then)}, and those agree within {tolerance:g}"
    if off:
        worst = max(off, key=lambda it: abs(it.then - it.now))
        return 0, f"{len(then)} rows agree within {tolerance:g}, {num_equal} of them bit for bit; the worst is {worst}"
    return 0, f"{len(then)} rows are equal bit for bit"


def without_earlier_ends(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of a run without those of closing evaluations that more epochs followed, as none come again."""
    return [row for row in rows[:-1] if not is_closing(row)] + list(rows[-1:])


def is_same(then: Any, now: Any) -> bool:
    """Return whether two values are equal, or both NaN."""
    return then == now or (then != then and now != now)


def is_near(then: Any, now: Any, tolerance: float) -> bool:
    """Return whether two values are numbers, and near each other."""
    are_numbers = isinstance(then, int | float) and isinstance(now, int | float)
    return are_numbers and math.isclose(then, now, rel_tol=tolerance, abs_tol=1e-6)


def check_run(run: RecordedRun, into: Path | None, tolerance: float) -> tuple[int, str]:
    """Run a run again, and compare what the two logged.

    Args:
        run: the first.
        into: folder that keeps the new one; None to forget it.
        tolerance: as for `compare`.

    Returns:
        An exit code, 0 where they agree, and the verdict in words.

    Raises:
        UserError: the run has logged nothing, or the new one failed.
    """
    rows = without_earlier_ends(run_folder.read_metrics(run.folder))
    if not rows:
        raise UserError(f"{run.folder} has logged nothing to compare with: name a run with a {run_folder.METRICS}")
    to_the_end = run_folder.state(run.folder) == "finished"
    with nullcontext(into) if into else scratch_folder() as runs_dir:
        again = run_again(run.settings, run.environment, runs_dir, len(rows), to_the_end)
        code, verdict = compare(rows, run_folder.read_metrics(again), tolerance)
    return code, f"run again: {verdict}{f'; {again}' if into else ''}"
