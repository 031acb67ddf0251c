"""How a run was made, what has changed since, and whether it comes out the same.

    python -m analysis.reproduce RUN              command, commit, data and versions, and what differs now
    python -m analysis.reproduce RUN --check      runs it again, without tracking, and compares what it logs, row by row

It looks at the data as a run does, which downloads what can be downloaded and is not there.
"""

import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from analysis.command_line import Parser, run_program
from analysis.look.trained_run import find_run
from analysis.record import run_folder
from analysis.record.environment import CHECKOUT, describe_environment, git
from analysis.record.tracker import fresh_run_id
from data.errors import UserError
from models.core.settings import Settings, resolve
from models.registry import MODELS

UNREPEATABLE = frozenset(("images_per_second", "epoch_seconds", "peak_memory_gib"))
COMPARED = ("commit", "changes", "data", "python", "cuda", "device")  # of the environment, and the packages
TOLERANCE = 0.01
SECONDS_BETWEEN_LOOKS = 0.2
NUM_SHOWN_LINES = 10
# Variables that would tell train.py something else than its command line does.
OF_LAUNCHERS = ("WANDB_", "ACCELERATE_", "VISION_SWEEPS_RUNS")


class Difference(NamedTuple):
    """A figure that came out otherwise."""

    epoch: int
    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} in epoch {self.epoch}, {self.then} then and {self.now} now"


def told_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that are not the defaults, but for those that say where it is; always model and seed.

    Raises:
        UserError: there is no such model any more.
    """
    if settings["model"] not in MODELS:
        raise UserError(f"model={settings['model']!r} is no more: take the commit that the run was made with")
    defaults = {field.name: field.default for field in fields(MODELS[settings["model"]][0])}
    return {
        key: value
        for key, value in settings.items()
        if key in ("model", "seed") or (key not in run_folder.MAY_CHANGE_ON_RESUMING and value != defaults.get(key))
    }


def command_of(settings: Mapping[str, Any], start: Sequence[str] = ("python",)) -> str:
    """The command that repeats a run: what differs from the defaults, wherever it came from."""
    return shlex.join([*start, "train.py", *flags(told_settings(settings))])


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the words of a command line."""
    return [f"--{key}={value}" for key, value in settings.items()]


def launcher(environment: Mapping[str, Any]) -> list[str]:
    """The words before train.py that start as many processes as a run had."""
    num_processes = environment.get("num_processes", 1)
    where = "--cpu" if "threads" in environment.get("device", "") else "--multi_gpu"
    return ["accelerate", "launch", where, "--num_processes", str(num_processes)] if num_processes > 1 else ["python"]


def environment_now(settings: Settings, num_processes: int) -> dict[str, Any]:
    """What a run of these settings would note down of its environment now."""
    from train import read_data  # imported late: accelerate takes seconds

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        data = read_data(settings)[0].fingerprint
    except UserError as error:
        data = f"not readable: {error}"
    return {**describe_environment([], device, num_processes), "data": data}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs between two environments: name, then, now; what was not noted down then says nothing."""
    pairs = [(name, then.get(name), now.get(name)) for name in COMPARED]
    packages = then.get("packages", {})
    pairs += [(name, version, now["packages"].get(name, "none")) for name, version in packages.items()]
    return [pair for pair in pairs if pair[1] is not None and pair[1] != pair[2]]


def changed_files(commit: str) -> str:
    """How much of the source has changed since a commit, in words; nothing where git does not know it."""
    base = commit.removesuffix("-dirty")
    if not base or not git("cat-file", "-t", base):
        return ""
    return f" ({len(git('diff', '--name-only', base, '--', '*.py').splitlines())} Python files differ)"


def describe(folder: Path, settings: Mapping[str, Any], then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """A run's command, commit, data and versions, and what differs now."""
    packages = " ".join(f"{name}=={version}" for name, version in then.get("packages", {}).items())
    dirty = ", with changes that no commit has" if then.get("commit", "").endswith("-dirty") else ""
    shown = {
        "run": f"{folder}, {run_folder.state(folder)}, started {then.get('started', 'at an unknown time')}",
        "typed": then.get("command", ""),
        "command": command_of(settings, launcher(then)),
        "commit": f"{then.get('commit', '')}{dirty}",
        "data": then.get("data", ""),
        "python": then.get("python", ""),
        "packages": packages,
        "device": f"{then.get('device', '')}, {then.get('num_processes', 1)} process(es)",
    }
    lines = [f"{name:<10}{text}" for name, text in shown.items()]
    changes = differences(then, now)
    lines.append("differs now:" if changes else "nothing of this differs now")
    for name, before, after in changes:
        files = changed_files(before) if name == "commit" else ""
        lines.append(f"  {name:<14}{before} then, {after or 'none'} now{files}")
    return "\n".join(lines)


def run_again(settings: Settings, then: Mapping[str, Any], runs_dir: Path, num_rows: int, to_the_end: bool) -> Path:
    """Run with the same settings under another id; returns the run's folder.

    Args:
        settings: of the run.
        then: its environment.
        runs_dir: folder that the new run's is made in.
        num_rows: log calls that are wanted of it.
        to_the_end: whether it goes on after those.

    Raises:
        UserError: it failed before.
    """
    run_id = fresh_run_id()
    folder = runs_dir / run_id
    told = {**asdict(settings), "runs_dir": str(runs_dir), "run_id": run_id, "tracking": "off"}
    _, *start = launcher(then)
    module = ["-m", "accelerate.commands.launch", *start[1:]] if start else []
    words = [sys.executable, *module, str(CHECKOUT / "train.py"), *flags(told)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(OF_LAUNCHERS)}
    runs_dir.mkdir(parents=True, exist_ok=True)
    with (runs_dir / f"{run_id}.log").open("w+") as output:
        with subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT) as process:
            try:
                while process.poll() is None:
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                    if not to_the_end and len(run_folder.read_metrics(folder)) >= num_rows:
                        process.terminate()
                        process.wait()
            except BaseException:
                process.terminate()
                raise
        output.seek(0)
        lines = output.read().splitlines()[-NUM_SHOWN_LINES:]
    if process.returncode and len(run_folder.read_metrics(folder)) < num_rows:
        raise UserError(f"the new run failed, exit code {process.returncode}: {' / '.join(lines)}")
    return folder


def compare(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], tolerance: float) -> tuple[int, str]:
    """Compare what two runs logged.

    Args:
        then: rows of the first.
        now: rows of the second.
        tolerance: largest deviation that counts as none, relative to the larger figure.

    Returns:
        Exit code, 0 where they agree, and the verdict in words.
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


def is_same(then: Any, now: Any) -> bool:
    """Whether two figures are equal, or both no number."""
    return then == now or (then != then and now != now)


def is_near(then: Any, now: Any, tolerance: float) -> bool:
    """Whether two figures are near each other."""
    are_numbers = isinstance(then, int | float) and isinstance(now, int | float)
    return are_numbers and math.isclose(then, now, rel_tol=tolerance, abs_tol=1e-6)


def reproduce(options: Namespace) -> int:
    """Print how a run was made, and with --check whether it comes out the same; returns the exit code."""
    folder = find_run(options.run)
    saved = run_folder.read_json(folder / run_folder.SETTINGS)
    then = run_folder.read_json(folder / run_folder.ENVIRONMENT)
    place = {"data_dir": options.data_dir or saved.get("data_dir", ""), "dry_run": False, "resume": False}
    kept = {key: value for key, value in {**saved, **place}.items() if key not in ("runs_dir", "run_id")}
    settings = resolve(flags(kept), {}, MODELS)
    print(describe(folder, saved, then, environment_now(settings, then.get("num_processes", 1))), flush=True)
    if not options.check:
        return 0
    rows = run_folder.read_metrics(folder)
    if not rows:
        raise UserError(f"{folder} has logged nothing to compare with: name a run with a {run_folder.METRICS}")
    to_the_end = run_folder.state(folder) == "finished"
    with nullcontext(options.into) if options.into else tempfile.TemporaryDirectory() as place_again:
        again = run_again(settings, then, Path(place_again), len(rows), to_the_end)
        code, verdict = compare(rows, run_folder.read_metrics(again), options.tolerance)
    print(f"run again: {verdict}{f'; {again}' if options.into else ''}")
    return code


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m analysis.reproduce", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, or its id in runs/")
    parser.add_argument("--check", action="store_true", help="run it again, and compare; exit code 1 where they differ")
    parser.add_argument("--into", type=Path, metavar="DIR", help="keep the new run in this folder")
    parser.add_argument("--data_dir", default="", help="folder of the images, where it is no longer the run's")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"relative deviation that is none; default: {TOLERANCE}"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Reproduce a run, or say in one line what keeps it from it; returns the exit code."""
    return run_program("reproduce", lambda: reproduce(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
