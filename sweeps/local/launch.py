"""Runs as processes of their own, started as W&B's agent starts them: by the same command and environment."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from analysis.read.sweep_command import with_environment
from analysis.record import run_folder
from data.errors import UserError, suggestion
from data.files import read_json
from data.paths import default_runs_dir
from models.core.processes import LAUNCHED_BY_US
from sweeps.local.faults import Fault, fault_of, num_killed_for_memory
from sweeps.local.owners import OWNER_VARIABLE, has_another_agent, owner_name

ENV = "/usr/bin/env"
# `python` and `accelerate` in a command are those beside this Python, even if its environment is not activated.
SEARCH_PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
OUTPUT = "output.log"
VALUES = "sweep-values.yaml"
ARGUMENTS = "sweep-values.json"
NUM_LAST_LINES = 20  # of a run's output: they are searched for faults, and kept of a trial that has failed
NUM_SHOWN_LINES = 5  # of the output of a run that has failed
MOST_OUTPUT_BYTES = 2**16  # that are looked at
SECONDS_TO_SAVE = 60.0  # after which a run that was asked to end is killed


def command_words(command: Sequence[str], program: str, settings: Mapping[str, Any], json_file: Path) -> list[str]:
    """Return the words of a sweep's command with its macros filled in.

    Args:
        command: words and macros, as in a sweep file.
        program: what ${program} stands for.
        settings: values that the macros of arguments stand for, by name.
        json_file: what ${args_json_file} stands for.

    Raises:
        UserError: an unknown macro or environment variable, or the command is no program on this machine.

    Source: https://docs.wandb.ai/guides/sweeps/define-sweep-configuration#command-macros
    """
    flags = {key: f"{key}={value}" for key, value in settings.items()}
    macros = {
        "${env}": [ENV],
        "${interpreter}": [sys.executable],
        "${program}": [program],
        "${args}": [f"--{flag}" for flag in flags.values()],
        "${args_no_hyphens}": list(flags.values()),
        "${args_no_equals}": [word for key, value in settings.items() for word in (f"--{key}", str(value))],
        "${args_no_boolean_flags}": [
            f"--{key}" if settings[key] is True else f"--{flag}"
            for key, flag in flags.items()
            if settings[key] is not False
        ],
        "${args_append_hydra}": [f"+{flag}" for flag in flags.values()],
        "${args_override_hydra}": [f"++{flag}" for flag in flags.values()],
        "${args_json}": [json.dumps(dict(settings))],
        "${args_json_file}": [str(json_file)],
    }
    words: list[str] = []
    for word in command:
        word = with_environment(word)
        if word.startswith("${") and word not in macros:
            raise UserError(f"command: {word} is not known{suggestion(word, macros)}; there are: {', '.join(macros)}")
        words += macros.get(word, [word])
    called = next((word for word in words if word != ENV and "=" not in word), "")
    if shutil.which(called, path=SEARCH_PATH) is None:
        raise UserError(f"command: {called or words} is not a program on this machine")
    return words


def unless_set(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those of some environment variables that the user has not set: what the user says of runs counts."""
    return {name: value for name, value in variables.items() if not os.environ.get(name)}


class Run:
    """A run as a process on this machine, started as it is constructed; its output goes to a file in its folder.

    Args:
        words: the command.
        run_id: the run's name, which it finds in its environment, as under W&B's agent.
        runs_dir: folder of the run's own folder.
        values: its settings; it finds them in files, too, since a command need not have ${args}.
        environment: further environment variables.
    """

    def __init__(
        self,
        words: Sequence[str],
        run_id: str,
        runs_dir: Path,
        values: Mapping[str, Any],
        environment: Mapping[str, str],
    ) -> None:
        self.run_id = run_id
        self.folder = runs_dir / run_id
        self.folder.mkdir(parents=True, exist_ok=True)
        # What an earlier start has said does not count: this one may end before it can say how.
        if self.state() == "stopped" or self.has_diverged():
            (self.folder / run_folder.SUMMARY).unlink(missing_ok=True)
        (self.folder / ARGUMENTS).write_text(json.dumps(dict(values)), encoding="utf-8")
        path = self.folder / VALUES
        path.write_text(yaml.safe_dump({key: {"value": value} for key, value in values.items()}), encoding="utf-8")
        variables = {
            "WANDB_RUN_ID": run_id,
            "WANDB_SWEEP_PARAM_PATH": str(path.absolute()),
            "VISION_SWEEPS_RUNS": str(runs_dir),
            "VISION_SWEEPS_ALL_RUNS": str(default_runs_dir().absolute()),  # where those that init_from names may lie
            "PATH": SEARCH_PATH,
            OWNER_VARIABLE: owner_name(),
            LAUNCHED_BY_US: "1",
            "PYTHONUNBUFFERED": "1",  # for `tail -f`
        }
        # The connection of W&B's client in this process is not for its runs, which have one each.
        inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        self.num_killed_before = num_killed_for_memory()
        with (self.folder / OUTPUT).open("ab") as output:
            self.output_start = output.tell()  # what comes before is of earlier starts
            self.process = subprocess.Popen(
                words,
                env={**inherited, **variables, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,  # else Ctrl-C in a terminal would reach it, too
            )
        self.started = time.monotonic()
        self.ended = 0.0
        self.reason = ""  # why it was asked to end
        self.deadline = math.inf  # when it is killed, if it has not ended by then

    def seconds(self) -> float:
        """Return the seconds since its start, or from its start to its end."""
        return (self.ended or time.monotonic()) - self.started

    def stop(self, reason: str) -> None:
        """Ask it to save its state and end, unless it has been asked before."""
        if self.reason:
            return
        self.reason = reason
        self.process.terminate()  # the direct child alone, as W&B's agent does
        self.deadline = time.monotonic() + SECONDS_TO_SAVE

    def has_ended(self) -> bool:
        """Return whether all its processes have ended; kill them where they take too long.

        A launcher can die before the processes that it has launched.
        """
        now = time.monotonic()
        if self.process.poll() is not None:
            self.ended = self.ended or now
            if not self.processes():
                return True
            self.deadline = min(self.deadline, self.ended + SECONDS_TO_SAVE)
        if now > self.deadline:
            self.kill()
        return False

    def kill(self) -> None:
        """Kill all its processes."""
        self.process.kill()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Return its processes, without those of a run of its name that another program watches over."""
        return [process for process in processes_of(self.run_id) if not has_another_agent(process)]

    def state(self) -> str:
        """Return how it ended, as its folder says: "finished", "stopped", "failed" or "unfinished".

        One that ended before it could say so may still have the "failed" of an earlier start.
        """
        return run_folder.state(self.folder)

    def error(self) -> str:
        """Return why it failed, as it has noted itself; "" for nothing."""
        return str(read_json(self.folder / run_folder.SUMMARY).get("error", ""))

    def has_diverged(self) -> bool:
        """Return whether it failed since its loss was no longer a finite number, as it has noted itself."""
        return bool(read_json(self.folder / run_folder.SUMMARY).get("diverged"))

    def exit(self) -> str:
        """Return how its process ended, in words."""
        code = self.process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def fault(self) -> Fault | None:
        """Return what was wrong with the machine, if it failed for that; one that was stopped has not failed."""
        code = self.process.returncode
        if not code or self.state() == "stopped":
            return None
        num_killed = num_killed_for_memory() - self.num_killed_before
        return fault_of(code, self.last_lines(NUM_LAST_LINES), self.folder, num_killed)

    def last_lines(self, num: int) -> str:
        """Return the last lines of its output; of a progress bar, which is written over and over, the last state."""
        with (self.folder / OUTPUT).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.output_start, size - MOST_OUTPUT_BYTES))
            lines = file.read().decode(errors="replace").removesuffix("\n").split("\n")
        return "\n".join(line.removesuffix("\r").rpartition("\r")[2] for line in lines[-num:])


def processes_of(run_id: str) -> list[psutil.Process]:
    """Return every process on this machine that was started for a run, launchers and W&B's service included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("WANDB_RUN_ID") == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # another user's, or gone
            continue
    return found
