"""Runs with W&B's real client that are online and offline by turns, or lose the client's own process."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from analysis.record import run_folder
from data.files import write_json
from tests.forks import ROOT
from tests.test_tracking_online import LONG, double, start, wait_for_epochs  # noqa: F401
from tests.wandb_server import API_KEY

pytestmark = [pytest.mark.slow, pytest.mark.waits]


def rows(folder):
    return run_folder.read_metrics(folder / "runs" / "a")


def end_as_killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def write_without_room(path, content):
    if path.name == run_folder.SUMMARY:
        raise OSError(errno.ENOSPC, "No space left on device")
    write_json(path, content)


def kill(training):
    training.signal(signal.SIGKILL)
    training.wait()


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
    subprocess.run(words, cwd=ROOT, env={**os.environ, **variables}, check=True, capture_output=True)


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


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_part_that_was_uploaded_while_it_was_under_way_is_whole_after_the_next_upload(goes_on, double, tmp_path):  # noqa: F811
    offline = (*LONG, "--tracking=offline")
    training = start(tmp_path, double.url, *offline, WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL="0.01")
    wait_for_epochs(tmp_path, 5, 200)
    upload(command_in((tmp_path / "0.log").read_text()), double, tmp_path)
    num, double.run("a").display_name = len(double.run("a").history), "renamed"
    wait_for_epochs(tmp_path, len(rows(tmp_path)) + 5, 200)
    stop(training)
    command = training.output.partition("before its end; to upload the rest: ")[2].splitlines()[0]
    if goes_on:
        training = start(tmp_path, double.url, *offline)
        wait_for_epochs(tmp_path, len(rows(tmp_path)) + 3, 200)
        stop(training)
        command = command_in(training.output)
    upload(command, double, tmp_path)
    assert 0 < num < len(rows(tmp_path))
    assert epochs_on(double) == [row["epoch"] for row in rows(tmp_path)]
    assert double.run("a").display_name == "renamed"


def test_a_run_that_stops_after_epochs_and_gets_more_of_them_is_one_run_on_wandb(double, tmp_path):  # noqa: F811
    small = ("--dataset=digits", "--model=mlp", "--width=16", "--run_id=a", "--preview=0")
    for words in (("--epochs=3", "--stop_after=1"), ("--epochs=3", "--stop_after=2"), ("--epochs=4",)):
        training = start(tmp_path, double.url, *small, *words)
        assert training.wait() == 0, training.output + training.errors
    run = double.run("a")
    assert [row["epoch"] for row in run.history if "lr" in row] == [1, 2, 3, 4]
    assert (run.config["epochs"], run.config["stop_after"]) == (4, 0)
    assert (run.exit_code, run.summary["state"]) == (0, "finished")


def epochs_on(double):  # noqa: F811
    history = double.run("a").history
    assert [row["_step"] for row in history] == list(range(len(history)))
    assert double.run("a").num_repeated == 0
    return [row["epoch"] for row in history]


def test_what_was_not_sent_when_a_run_was_killed_is_there_after_a_part_that_is_offline(double, tmp_path):  # noqa: F811
    killed = start(tmp_path, double.url, *LONG, WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL="600")
    wait_for_epochs(tmp_path, 6, 200)
    kill(killed)
    going_on = start(tmp_path, double.url, *LONG, "--tracking=offline")
    wait_for_epochs(tmp_path, len(rows(tmp_path)) + 3, 200)
    stop(going_on)
    upload(command_in(going_on.output), double, tmp_path)
    assert epochs_on(double) == [row["epoch"] for row in rows(tmp_path)]
    assert double.run("a").summary["state"] == "stopped"


@pytest.mark.parametrize(
    ("patch", "code"),
    [({"Tracker.finish": end_as_killed}, -signal.SIGKILL), ({"write_json": write_without_room}, 1)],
    ids=["a kill", "a full disk"],
)
def test_more_epochs_after_a_run_that_could_not_end_are_all_on_wandb(patch, code, double, tmp_path):  # noqa: F811
    patches = {f"analysis.record.tracker.{name}": value for name, value in patch.items()}
    assert start(tmp_path, double.url, "--tracking=online", patches=patches).wait(200) == code
    for num in (3, 4):
        training = start(tmp_path, double.url, "--tracking=online", "--epochs=4", f"--stop_after={num}")
        assert training.wait(200) == 0, training.output + training.errors
    assert epochs_on(double) == [row["epoch"] for row in rows(tmp_path)] == [1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("on_disk", ["all", "nothing", "a part"])
def test_a_kill_of_a_run_that_is_offline_costs_no_row(on_disk, double, tmp_path):  # noqa: F811
    offline = (*LONG, "--tracking=offline", "--log_every=4")
    seconds = {"WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "600" if on_disk == "nothing" else "0.01"}
    killed = start(tmp_path, double.url, *offline, **seconds)
    wait_for_epochs(tmp_path, 20, 200)
    kill(killed)
    if on_disk == "a part":
        [log] = (tmp_path / "runs" / "a" / "wandb").glob("offline-run-*/run-a.wandb")
        os.truncate(log, log.stat().st_size // 2)
    going_on = start(tmp_path, double.url, *offline)
    wait_for_epochs(tmp_path, len(rows(tmp_path)) + 9, 200)
    stop(going_on)
    upload(command_in(going_on.output), double, tmp_path)
    assert epochs_on(double) == [row["epoch"] for row in rows(tmp_path)]


def test_rows_that_the_folder_has_lost_cost_wandb_none_however_often_it_goes_on(double, tmp_path):  # noqa: F811
    for num in (3, 4, 5, 6):
        training = start(tmp_path, double.url, "--tracking=online", "--epochs=6", f"--stop_after={num}")
        assert training.wait(200) == 0, training.output + training.errors
        if num == 3:
            log = tmp_path / "runs" / "a" / run_folder.METRICS
            log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 4, 5, 6, 6]
    assert epochs_on(double) == [1, 2, 3, 4, 5, 6, 6]
