"""Runs with W&B's real client that are online and offline by turns, or lose the client's own process."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from analysis.record import run_folder
from tests.test_tracking_online import LONG, double, start, wait_for_epochs  # noqa: F401
from tests.wandb_server import API_KEY

pytestmark = [pytest.mark.slow, pytest.mark.waits]


def rows(folder):
    return run_folder.read_metrics(folder / "runs" / "a")


def stop(training):
    training.signal(signal.SIGTERM)
    assert training.wait() == 128 + signal.SIGTERM


def test_the_death_of_wandbs_own_process_is_one_line(double, tmp_path):  # noqa: F811
    training = start(tmp_path, double.url, *LONG)
    wait_for_epochs(tmp_path, 2)
    [core] = [one for one in psutil.Process(training.pid).children(recursive=True) if "wandb-core" in one.name()]
    core.kill()
    wait_for_epochs(tmp_path, len(rows(tmp_path)) + 10)
    stop(training)
    printed = (training.output + training.errors).splitlines()
    assert len([line for line in printed if "the run goes on without it" in line]) == 1
    assert not any("Traceback" in line for line in printed)


def command_in(output):
    """The command that a run which is offline has said."""
    [command] = [line.partition("to upload later: ")[2] for line in output.splitlines() if "to upload later: " in line]
    return command


def upload(command, double, folder):  # noqa: F811
    program, *words = shlex.split(command)
    variables = {"WANDB_BASE_URL": double.url, "WANDB_API_KEY": API_KEY, "HOME": str(folder)}
    words = [Path(sys.executable).with_name(program), *words]
    subprocess.run(words, cwd=folder, env={**os.environ, **variables}, check=True, capture_output=True)


@pytest.mark.parametrize("order", [("offline", "online", "offline"), ("online", "offline", "online")])
def test_every_row_is_there_once_in_whatever_order_a_run_is_online_and_offline(order, double, tmp_path):  # noqa: F811
    for mode in order:
        training = start(tmp_path, double.url, *LONG, f"--tracking={mode}")
        wait_for_epochs(tmp_path, len(rows(tmp_path)) + 3)
        stop(training)
    if order[-1] == "offline":
        upload(command_in(training.output), double, tmp_path)
    parts = (tmp_path / "runs" / "a" / "wandb").glob("offline-run-*")
    assert all((part / "run-a.wandb.synced").is_file() for part in parts)
    logged = [row["epoch"] for row in rows(tmp_path)]
    assert logged == list(range(1, len(logged) + 1))
    history = double.run("a").history
    assert [(row["_step"], row["epoch"]) for row in history] == list(enumerate(logged))


def test_parts_that_were_offline_are_uploaded_with_one_command_the_first_one_first(double, tmp_path):  # noqa: F811
    small = ("--dataset=digits", "--model=mlp", "--width=16", "--run_id=a", "--preview=0", "--epochs=3")
    commands = []
    for words in (("--stop_after=1",), ("--stop_after=2",), ()):
        training = start(tmp_path, double.url, *small, *words, "--tracking=offline")
        assert training.wait() == 0, training.output + training.errors
        commands.append(command_in(training.output))
    parts = sorted((tmp_path / "runs" / "a" / "wandb").glob("offline-run-*"))
    assert commands == [shlex.join(["wandb", "sync", *map(str, parts[:num])]) for num in (1, 2, 3)]
    upload(commands[-1], double, tmp_path)
    assert [(row["_step"], row["epoch"]) for row in double.run("a").history] == [(0, 1), (1, 2), (2, 3), (3, 3)]
    assert double.run("a").summary["state"] == "finished"


def test_a_part_that_was_offline_is_sent_by_the_next_and_need_not_be_uploaded(double, tmp_path):  # noqa: F811
    small = ("--dataset=digits", "--model=mlp", "--width=16", "--run_id=a", "--preview=0", "--epochs=3")
    outputs = []
    for words in (("--stop_after=2", "--tracking=offline"), ("--tracking=online",)):
        training = start(tmp_path, double.url, *small, *words)
        assert training.wait() == 0, training.output + training.errors
        outputs.append(training.output)
    [part] = (tmp_path / "runs" / "a" / "wandb").glob("offline-run-*")
    assert f"the figures of {part} are sent, too: it counts as uploaded" in outputs[1]
    assert [(row["_step"], row["epoch"]) for row in double.run("a").history] == [(0, 1), (1, 2), (2, 3), (3, 3)]
    assert double.run("a").summary["state"] == "finished"


def test_a_run_that_stops_after_epochs_and_gets_more_of_them_is_one_run_on_wandb(double, tmp_path):  # noqa: F811
    small = ("--dataset=digits", "--model=mlp", "--width=16", "--run_id=a", "--preview=0")
    for words in (("--epochs=3", "--stop_after=1"), ("--epochs=3", "--stop_after=2"), ("--epochs=4",)):
        training = start(tmp_path, double.url, *small, *words)
        assert training.wait() == 0, training.output + training.errors
    run = double.run("a")
    assert [row["epoch"] for row in run.history if "lr" in row] == [1, 2, 3, 4]
    assert (run.config["epochs"], run.config["stop_after"]) == (4, 0)
    assert (run.exit_code, run.summary["state"]) == (0, "finished")
