"""Machines for `wandb agent` and `train.py`, all of them real, with a double of the W&B server."""

import contextlib
import datetime
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from analysis.read.trials import Trial
from analysis.record import run_folder
from tests.forks import LEAN
from tests.wandb_server import API_KEY, WandbServer

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PYTHON = ("${interpreter}",)
ACCELERATE_1 = ("accelerate", "launch", "--cpu", "--num_processes", "1")
ACCELERATE_2 = ("accelerate", "launch", "--cpu", "--num_processes", "2")
SMALL = ("--dataset=digits", "--model=mlp", "--width=32", "--batch_size=64", "--tracking=online")
LONG = {"epochs": 100000}
TIMEOUT_SECONDS = 120


class Site:
    """A machine where agents run: a folder for all that they leave, and an environment that knows the server."""

    def __init__(self, folder: Path, server: WandbServer) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.server = server
        self.runs = folder / "runs"
        self.logs: dict[int, Path] = {}
        self.processes: list[subprocess.Popen] = []
        self.variables = {
            "HOME": str(folder),
            "VISION_SWEEPS_RUNS": str(self.runs),
            "WANDB_DIR": str(folder),  # else the agent writes into the checkout
            "WANDB_CONFIG_DIR": str(folder / "config"),
            "WANDB_CACHE_DIR": str(folder / "cache"),
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
        }
        path = os.pathsep.join((str(BIN), os.environ["PATH"]))
        self.environment = {**os.environ, **self.variables, **LEAN, "PATH": path, "OMP_NUM_THREADS": "1"}

    def start(self, *command: str, **variables: str) -> subprocess.Popen:
        log = self.folder / f"{len(self.processes)}.log"
        options = {"cwd": ROOT, "env": {**self.environment, **variables}, "start_new_session": True}
        process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, **options)
        self.processes.append(process)
        self.logs[process.pid] = log
        return process

    def output(self, process: subprocess.Popen) -> str:
        return self.logs[process.pid].read_text()

    def finish(self, process: subprocess.Popen) -> str:
        code = process.wait(timeout=TIMEOUT_SECONDS)
        assert code == 0, self.output(process)
        return self.output(process)

    def train(self, *arguments: str, **variables: str) -> subprocess.Popen:
        return self.start("python", "train.py", *SMALL, *arguments, **variables)

    def sweep(
        self, trials: list[dict[str, Any]], launcher: Sequence[str] = PYTHON, arguments: Sequence[str] = ("${args}",)
    ) -> str:
        """A sweep for agents to work off; returns its path."""
        command = ["${env}", *launcher, "${program}", *SMALL, *arguments]
        metric = {"name": "val/loss", "goal": "minimize"}
        config = {"program": "train.py", "method": "random", "metric": metric, "command": command}
        return self.server.add_sweep(config, trials)

    def agent(self, sweep: str) -> subprocess.Popen:
        return self.start("wandb", "agent", sweep)

    def read(self, *sweeps: str, **variables: str) -> list[str]:
        """The leaders of sweeps, as text, or the errors; read in a process that ends with its W&B service."""
        code = "import sys; from analysis.read import wandb_runs; from analysis.read.sweeps import *\n"
        code += "wandb_runs.RUNS_A_PAGE = 10\nfor sweep in sys.argv[1:]:\n"
        code += " try: print(read_sweep(sweep).leaders)\n except UserError as error: print(error)"
        return self.finish(self.start("python", "-c", code, *sweeps, **variables)).splitlines()[-len(sweeps) :]

    def trials(self, sweep: str) -> list[Trial]:
        [text] = self.read(sweep)
        return eval(text, {"Trial": Trial, "datetime": datetime})

    def wait_for_epoch(self, run: str, epoch: int) -> None:
        wait_until(lambda: len(run_folder.read_metrics(self.runs / run)) >= epoch, f"{run} reaches epoch {epoch}")

    def end(self) -> None:
        """Kill what a failed test has left: whoever knows this server."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("WANDB_BASE_URL") == self.server.url:
                    process.kill()
        for process in self.processes:
            process.wait()


@pytest.fixture
def server():
    server = WandbServer()
    yield server
    server.close()
    assert server.faults == []


@pytest.fixture
def site(tmp_path, server):
    site = Site(tmp_path, server)
    yield site
    site.end()


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def command_of(process: psutil.Process) -> list[str]:
    """The words that started a process; none where it has ended in the meantime."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def trial_processes(agent: subprocess.Popen) -> list[psutil.Process]:
    """What an agent runs for its trial: launchers, trainings and their W&B services, but not its own service."""
    trials = [child for child in psutil.Process(agent.pid).children() if "train.py" in command_of(child)]
    return [process for trial in trials for process in [trial, *trial.children(recursive=True)]]


def seconds_until_all_end(processes: list[psutil.Process], limit: float) -> float:
    assert processes
    start = time.monotonic()
    _, alive = psutil.wait_procs(processes, timeout=limit)
    names = [process.name() for process in alive]
    for process in alive:
        process.kill()
    assert names == [], f"still there after {limit} s"
    return time.monotonic() - start


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Those of the checkpoint or, of a finished run, those of its best epoch."""
    if (folder / run_folder.CHECKPOINT).exists():
        return torch.load(folder / run_folder.CHECKPOINT, weights_only=True)["objective"]
    return torch.load(folder / run_folder.BEST, weights_only=True)


def add_run(server: WandbServer, name: str, values: list[Any], **config: Any) -> None:
    run = server.run(name)
    run.sweep, run.config, run.exit_code = "sweep0", config, 0
    run.rows = {i: {"_step": i, "epoch": i + 1, "lr": 0.1, "val/accuracy": value} for i, value in enumerate(values)}
    run.rows[len(values)] = {"_step": len(values), "epoch": len(values), "val/ece": 0.1}
