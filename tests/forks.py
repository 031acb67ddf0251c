"""Programs as processes, forked from one that has imported them: a start takes no seconds."""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from analysis.read.recipe import flags
from analysis.record.run_folder import fresh_run_id
from models.core.processes import leave
from tests.lean.pixel import save_a_pixel

ROOT = Path(__file__).parents[1]
LEAN = {"PYTHONPATH": str(ROOT / "tests" / "lean")}  # for a program that is started: see sitecustomize.py there
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preload"])


def start_forks() -> None:
    """Start the process that all are forked from; it finds what to import by a variable that nobody else shall."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def carry_out(
    module: str, arguments: list[str], cwd: str, environment: dict, patches: dict, outputs: dict[int, str]
) -> None:
    """Be a program, in a process of its own."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment, FORK=str(os.getpid()))
    os.setsid()  # so that a terminal is its own
    for descriptor, path in outputs.items():
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1, closefd=False) for descriptor in (1, 2))
    for name, value in {"matplotlib.figure.Figure.savefig": save_a_pixel, **patches}.items():
        owner, _, attribute = name.rpartition(".")
        setattr(resolve_name(owner), attribute, value)
    sys.argv = [f"{module.replace('.', '/')}.py", *arguments]
    leave(import_module(module).main(arguments))


class Fork:
    """A program that has been started; it leaves matplotlib's figures nearly empty.

    Args:
        module: the program's, with a function main.
        log: file for its output; errors go beside it, and with a terminal all goes there.
        environment: variables besides those of this process.
        patches: what its modules and classes are to have, by dotted name.
    """

    def __init__(
        self,
        module: str,
        arguments: list[str],
        log: Path,
        *,
        cwd: Path = ROOT,
        environment: Mapping[str, str] = {},
        patches: Mapping[str, Any] = {},
        terminal: str = "",
    ) -> None:
        self.log, self.error_log = log, log.with_suffix(".errors")
        outputs = {1: terminal or str(self.log), 2: terminal or str(self.error_log)}
        details = (str(cwd), {**os.environ, **environment}, dict(patches), outputs)
        self.process = FORKS.Process(target=carry_out, args=(module, arguments, *details))
        start_forks()
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def is_alive(self) -> bool:
        return self.process.is_alive()

    def wait(self, seconds: float = 60.0) -> int:
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still runs:\n{self.output}\n{self.errors}"
        return self.process.exitcode

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def errors(self) -> str:
        return self.error_log.read_text() if self.error_log.exists() else ""


def fork_train_py(settings: Mapping[str, Any], runs_dir: Path) -> Path:
    """Run train.py to its end as `run_train_py` does, but as a fork."""
    folder = runs_dir / fresh_run_id()
    runs_dir.mkdir(parents=True, exist_ok=True)
    told = {"tracking": "off", **settings, "runs_dir": str(runs_dir), "run_id": folder.name}
    training = Fork("train", flags(told), runs_dir / f"{folder.name}.log")
    assert training.wait() == 0, training.errors
    return folder
