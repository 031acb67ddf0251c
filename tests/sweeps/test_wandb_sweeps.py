"""`wandb sweep`, `wandb agent` and `wandb.Api`, all of them real, against a double of the server."""

import contextlib
import datetime
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from analysis.read.sweeps import Trial
from analysis.record import run_folder
from data.files import read_json
from tests.wandb_server import API_KEY, WandbServer

ROOT = Path(__file__).parents[2]
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
        self.folder = folder
        self.server = server
        self.runs = folder / "runs"
        self.logs: dict[int, Path] = {}
        self.processes: list[subprocess.Popen] = []
        self.variables = {
            "HOME": str(folder),
            "WANDB_DIR": str(folder),  # else the agent writes into the checkout
            "WANDB_CONFIG_DIR": str(folder / "config"),
            "WANDB_CACHE_DIR": str(folder / "cache"),
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
        }
        path = os.pathsep.join((str(BIN), os.environ["PATH"]))
        self.environment = {**os.environ, **self.variables, "PATH": path, "OMP_NUM_THREADS": "1"}

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
        return self.start("python", "train.py", *SMALL, f"--runs_dir={self.runs}", *arguments, **variables)

    def sweep(self, trials: list[dict[str, Any]], launcher: Sequence[str] = PYTHON, arguments: str = "${args}") -> str:
        """A sweep for agents to work off; returns its path."""
        command = ["${env}", *launcher, "${program}", *SMALL, f"--runs_dir={self.runs}", arguments]
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


def trial_processes(agent: subprocess.Popen) -> list[psutil.Process]:
    """What an agent runs for its trial: launchers, trainings and their W&B services, but not its own service."""
    trials = [child for child in psutil.Process(agent.pid).children() if "train.py" in child.cmdline()]
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
    return torch.load(folder / "checkpoint.pt", weights_only=True)["objective"]


@pytest.mark.slow
def test_wandb_sweep_takes_every_file_as_it_is_without_a_warning(site, server):
    # The command itself, which would take seconds to import for each of them.
    code = "import sys; from wandb.cli.cli import cli\nfor path in sys.argv[1:]:\n"
    code += " print('wandb', 'sweep', path, flush=True)\n cli(['sweep', path], standalone_mode=False)"
    paths = sorted(map(str, (ROOT / "sweeps").glob("*.yaml")))
    first, *outputs = site.finish(site.start("python", "-c", code, *paths)).split("wandb sweep ")
    assert [output.splitlines()[0] for output in outputs] == paths
    for path, output, sweep in zip(paths, outputs, server.sweeps.values(), strict=True):
        assert "wandb agent team/" in output
        assert "WARN" not in first + output
        assert "ERROR" not in first + output
        assert sweep.config == yaml.safe_load(Path(path).read_text())  # no distribution was left for W&B to guess


@pytest.mark.slow
def test_two_agents_share_a_sweep_and_all_of_its_trials_arrives(site, server):
    learning_rates = [0.001, 0.003, 0.01]
    path = site.sweep([{"lr": lr, "epochs": 3} for lr in learning_rates])
    agents = [site.agent(path), site.agent(path)]
    for agent in agents:
        site.finish(agent)
    assert sorted(run.config["lr"] for run in server.runs.values()) == learning_rates  # each of them once
    assert {run.agent for run in server.runs.values()} == server.agents.keys()
    for run in server.runs.values():
        folder = site.runs / run.name
        assert run.state == "finished"
        assert run.sweep == "sweep0"
        assert read_json(folder / "settings.json")["lr"] == run.config["lr"]
        address = read_json(folder / "environment.json")["wandb"]
        assert address.startswith("http")
        assert address.endswith(f"/project/runs/{run.name}")
        rows = run_folder.read_metrics(folder)
        assert [row["epoch"] for row in rows] == [1, 2, 3, 3]
        assert [row.items() & local.items() == local.items() for row, local in zip(run.history, rows, strict=True)]
        summary = read_json(folder / "summary.json")
        assert summary["state"] == "finished"
        assert run.summary.items() >= {key: value for key, value in summary.items() if value is not None}.items()
        pictures = {key: value for row in run.history for key, value in row.items() if "image-file" in str(value)}
        assert pictures.keys() == {"panels/predictions", "val/confusion_matrix", "val/mistakes", "val/reliability"}
        for picture in pictures.values():
            assert run.files[picture["path"]].startswith(b"\x89PNG")
        [model] = [artifact for artifact in run.artifacts if artifact["artifactTypeName"] == "model"]
        assert model["committed"]
        assert model["files"]["best.pt"] == (folder / "best.pt").read_bytes()

    trials = site.trials(path)
    assert {trial.run_id: trial.settings["lr"] for trial in trials} == {
        name: run.config["lr"] for name, run in server.runs.items()
    }
    losses = {name: [row.get("val/loss", 99) for row in run.history] for name, run in server.runs.items()}
    assert [trial.value for trial in trials] == sorted(map(min, losses.values()))
    assert all(losses[trial.run_id][trial.best_epoch - 1] == trial.value for trial in trials)


@pytest.mark.slow
def test_the_values_of_a_sweep_win_on_every_rank(site, server):
    # They come by WANDB_SWEEP_PARAM_PATH alone. A rank that trained at another rate would send other gradients, and
    # the weights would not be those of one process: without dropout and batch norm, they are.
    common = {"epochs": 2, "optimizer": "sgd", "val_fraction": 0.2}
    agent = site.agent(site.sweep([{**common, "lr": 0.01}], ACCELERATE_2, "--lr=0.5"))
    one = site.train("--run_id=one", "--lr=0.01", "--tracking=off", *(f"--{key}={common[key]}" for key in common))
    site.finish(one)
    site.finish(agent)
    two = site.runs / "trial0"
    assert server.runs["trial0"].config["lr"] == read_json(two / "settings.json")["lr"] == 0.01
    assert read_json(two / "environment.json")["num_processes"] == 2
    one, two = weights(site.runs / "one"), weights(two)
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [PYTHON, ACCELERATE_1, ACCELERATE_2], ids=["python", "accelerate1", "accelerate2"])
def test_a_stopped_trial_ends_within_10_seconds_saved_and_not_failed(site, server, launcher, record_property):
    agent = site.agent(site.sweep([LONG], launcher))
    site.wait_for_epoch("trial0", 2)
    processes, run = trial_processes(agent), server.runs["trial0"]
    server.stopping.add("trial0")
    wait_until(lambda: run.stop_times, "the agent is told to stop the trial")
    seconds_until_all_end(processes, 40)  # Python with torch alone takes seconds to leave a busy machine
    record_property("seconds_until_run_ends", run.end_time - run.stop_times[0])
    record_property("seconds_until_processes_are_gone", time.monotonic() - run.stop_times[0])
    assert run.end_time - run.stop_times[0] < 10
    site.finish(agent)
    assert run_folder.state(site.runs / "trial0") == run.summary["state"] == "stopped"
    assert weights(site.runs / "trial0")
    assert run.exit_code == 0
    assert [row["epoch"] for row in run.history] == [
        row["epoch"] for row in run_folder.read_metrics(site.runs / "trial0")
    ]


@pytest.mark.slow
def test_nothing_outlives_its_agent(site, server, record_property):
    path = site.sweep([LONG, LONG, LONG])
    interrupted, terminated, killed = agents = [site.agent(path) for _ in range(3)]
    for run in ("trial0", "trial1", "trial2"):
        site.wait_for_epoch(run, 1)
    families = [psutil.Process(agent.pid).children(recursive=True) for agent in agents]
    interrupted.send_signal(signal.SIGINT)
    terminated.terminate()
    killed.kill()
    wait_until(lambda: "Waiting for runs to end" in site.output(interrupted), "the agent saw Ctrl-C")
    interrupted.send_signal(signal.SIGINT)
    record_property("seconds", seconds_until_all_end(sum(families, []), 40))
    assert_all_stopped(site, server, 3)


@pytest.mark.slow
def test_nothing_of_two_processes_outlives_the_agent_or_their_launcher(site, server, record_property):
    path = site.sweep([LONG, LONG], ACCELERATE_2)
    killed, going_on = site.agent(path), site.agent(path)
    for run in ("trial0", "trial1"):
        site.wait_for_epoch(run, 1)
    launched = trial_processes(going_on)
    family = psutil.Process(killed.pid).children(recursive=True) + launched
    assert launched[0].name() == "accelerate"
    launched[0].kill()
    killed.kill()
    record_property("seconds", seconds_until_all_end(family, 40))
    site.finish(going_on)
    assert_all_stopped(site, server, 2)


def assert_all_stopped(site: Site, server: WandbServer, num_runs: int) -> None:
    assert len(server.runs) == num_runs
    for run in server.runs.values():
        assert run_folder.state(site.runs / run.name) == run.summary["state"] == "stopped"
        assert weights(site.runs / run.name)


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_agent_goes_on(site, server):
    diverging = {"optimizer": "sgd", "lr": 1e30, "epochs": 1}
    agent = site.agent(site.sweep([diverging, {"lr": "high"}, {"epochs": 1}]))
    output = site.finish(agent)
    diverged, refused, good = server.runs.values()
    assert diverged.state == "failed"
    assert diverged.exit_code == 1
    assert run_folder.state(site.runs / diverged.name) == diverged.summary["state"] == "failed"
    assert "lower --lr" in output
    assert "lr='high' is of type str, not float" in output
    assert refused.exit_code is None  # it never told W&B that it began
    assert good.state == "finished"


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back_gets_everything(site, server):
    process = site.train("--run_id=a", "--epochs=100")
    site.wait_for_epoch("a", 2)
    server.go_offline()
    site.wait_for_epoch("a", 30)
    server.come_back()
    site.finish(process)
    run, rows = server.runs["a"], run_folder.read_metrics(site.runs / "a")
    assert [row["epoch"] for row in run.history] == [row["epoch"] for row in rows] == [*range(1, 101), 100]
    assert run.summary["state"] == "finished"
    assert run.state == "finished"
    assert any(artifact["committed"] and "best.pt" in artifact["files"] for artifact in run.artifacts)


@pytest.mark.slow
def test_a_server_that_never_comes_back_costs_a_later_upload(site, server, record_property):
    process = site.train("--run_id=a", "--epochs=40", WANDB_FINISH_TIMEOUT="3", WANDB_HTTP_TIMEOUT="2")
    site.wait_for_epoch("a", 2)
    server.go_offline()
    site.wait_for_epoch("a", 41)
    start = time.monotonic()
    output = site.finish(process)
    record_property("seconds", time.monotonic() - start)
    rows = run_folder.read_metrics(site.runs / "a")
    assert [row["epoch"] for row in rows] == [*range(1, 41), 40]
    assert run_folder.state(site.runs / "a") == "finished"
    assert len(server.runs["a"].history) < 41

    server.come_back()
    [line] = [line for line in output.splitlines() if "to upload the rest later: " in line]
    site.finish(site.start(*shlex.split(line.rpartition(": ")[2])))
    run = server.runs["a"]
    assert [row["epoch"] for row in run.history] == [row["epoch"] for row in rows]
    assert run.summary["state"] == "finished"
    assert run.exit_code == 0
    assert {row["panels/predictions"]["path"] for row in run.history if "panels/predictions" in row} <= run.files.keys()


def add_run(server: WandbServer, name: str, values: list[Any], **config: Any) -> None:
    run = server.run(name)
    run.sweep, run.config, run.exit_code = "sweep0", config, 0
    run.rows = {i: {"_step": i, "epoch": i + 1, "lr": 0.1, "val/accuracy": value} for i, value in enumerate(values)}
    run.rows[len(values)] = {"_step": len(values), "epoch": len(values), "val/ece": 0.1}
