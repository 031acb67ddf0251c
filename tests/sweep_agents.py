"""The programs of sweeps/ as processes, and what comes of them."""

import errno
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from optuna.trial import TrialState

from sweeps.local.search import settings_of
from sweeps.local.sweep import Sweep
from tests.forks import ROOT, Fork

PROGRAM = ROOT / "tests" / "sweep_program.py"
TIMEOUT_SECONDS = 60.0

LR = {"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1}
LR_GRID = {"values": [0.1, 0.01, 0.001]}


def loss(lr: float, epoch: int) -> float:
    """What the program that pretends to train logs."""
    return abs(math.log10(lr) + 3) + 1 / epoch + (1 if epoch % 4 == 0 else 0)


def no_process(run_id: str) -> list[psutil.Process]:
    """What an agent sees of another machine's processes."""
    return []


def num_bytes_free(folder: Path) -> int:
    """What a full disk has left."""
    return 0


def dump_no_second(values: Mapping[str, Any], dumped: list[str] = []) -> str:
    """YAML of a run's settings; from the second run on, the disk is full."""
    dumped.append(json.dumps(values))
    if len(dumped) > 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return yaml.dump(values)


def read_and_dawdle(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """A run's first metrics, told only after the run has logged more and ended."""
    if json.loads(lines[0])["epoch"] == 1:
        time.sleep(1.5)
    return [json.loads(line) for line in lines]


def settings_after_a_time(sweep: Sweep, trial: optuna.trial.Trial) -> dict[str, Any]:
    """Settings of a trial whose search takes its time, but for the first."""
    time.sleep(5.0 if trial.number else 0.0)
    return settings_of(sweep, trial)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = TIMEOUT_SECONDS) -> Any:
    start = before = time.monotonic()
    while not (result := condition()):
        now = time.monotonic()
        assert now < start + seconds, f"waited in vain: {what}"
        time.sleep(max(0.02, 4 * (now - before)))  # looking takes a fifth of the time at most
        before = time.monotonic()
    return result


class Stage:
    """A folder with sweep files, the agents that work on them, and all that comes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs_dir = folder / "runs"
        self.journal_dir = folder / "journal"
        self.journal_dir.mkdir()
        self.environment = {
            "VISION_SWEEPS_RUNS": str(self.runs_dir),
            "SWEEP_JOURNAL": str(self.journal_dir),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
        }
        self.started: list[Fork] = []

    def write(self, name: str = "sweep", parameters: Mapping[str, Any] = {}, **keys: Any) -> str:
        """Write a sweep file for the program that pretends to train, and return its name."""
        content = {"program": str(PROGRAM), "method": "random", "metric": {"name": "val/loss"}, **keys}
        values = {key: value if isinstance(value, dict) else {"value": value} for key, value in parameters.items()}
        content["parameters"] = {"lr": LR, **values}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return f"{name}.yaml"

    def start(
        self,
        *arguments: str,
        program: str = "agent",
        environment: Mapping[str, str] = {},
        patches: Mapping[str, Any] = {},
        terminal: str = "",
    ) -> Fork:
        started = Fork(
            f"sweeps.{program}",
            list(arguments),
            self.folder / f"{program}-{len(self.started)}.log",
            cwd=self.folder,
            environment={**self.environment, **environment},
            patches=patches,
            terminal=terminal,
        )
        self.started.append(started)
        return started

    def run(self, *arguments: str, code: int = 0, **options: Any) -> Fork:
        """Run a program to its end."""
        started = self.start(*arguments, **options)
        found = started.wait()
        assert found == code, f"exit code {found}\n{started.output}\n{started.errors}"
        return started

    def journal(self, event: str = "") -> list[dict[str, Any]]:
        """What the trials did, or one kind of it."""
        path = self.journal_dir / "journal.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if event in ("", row["event"])]

    def starts(self) -> Counter[str]:
        """How often each run was started."""
        return Counter(row["run"] for row in self.journal("start"))

    def disorder(self) -> list[str]:
        """Runs that were under way twice at a time, or whose epochs do not follow each other.

        An epoch may come twice in a row: it was under way when the trial was cut short.
        """
        found = [row["run"] for row in self.journal("twice")]
        last: dict[str, int] = {}
        for row in self.journal("epoch"):
            if row["epoch"] - last.get(row["run"], 0) not in (0, 1):
                found.append(row["run"])
            last[row["run"]] = row["epoch"]
        return found

    def processes(self) -> list[psutil.Process]:
        """Every process that an agent has started here and that lives."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get("SWEEP_JOURNAL") == str(self.journal_dir)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def sweep(self, name: str = "sweep") -> Path:
        return self.runs_dir / "sweeps" / name

    def url(self, name: str = "sweep") -> str:
        return f"sqlite:///{self.sweep(name)}/study.db"

    def trials(self, name: str = "sweep", url: str = "") -> list[optuna.trial.FrozenTrial]:
        """The trials that Optuna itself finds in a storage.

        Two agents that ask for the last one at once leave another behind, unstarted, for a larger --count.
        """
        trials = optuna.load_study(study_name=name, storage=url or self.url(name)).trials
        return [trial for trial in trials if "run_id" in trial.user_attrs or trial.state != TrialState.RUNNING]

    def states(self, name: str = "sweep", url: str = "") -> list[str]:
        return [trial.state.name for trial in self.trials(name, url)]

    def wait_for(self, event: str, num: int, **details: Any) -> list[dict[str, Any]]:
        """Wait until the trials have done something so many times."""

        def found() -> list[dict[str, Any]]:
            return [row for row in self.journal(event) if row.items() >= details.items()]

        wait_until(lambda: len(found()) >= num, f"{num} times {event} {details}")
        return found()

    def wait_for_no_process(self, seconds: float) -> None:
        wait_until(lambda: not self.processes(), f"{self.processes()} end", seconds)

    def close(self) -> None:
        """End whatever a failed test has left behind."""
        for started in self.started:
            started.process.kill()
            started.process.join()
        for process in self.processes():
            process.kill()
