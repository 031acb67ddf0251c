"""The command of a trial, beside what W&B's own agent makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from data.errors import UserError
from data.files import read_json, write_json
from models.core.processes import LAUNCHED_BY_US
from sweeps.local.faults import OUT_OF_MEMORY
from sweeps.local.launch import OUTPUT, Run, command_words, processes_of
from sweeps.local.owners import OWNER_VARIABLE, place, start_of
from sweeps.local.sweep_file import COMMAND
from tests.sweep_agents import wait_until

SETTINGS = {"lr": 1e-05, "model": "cnn", "test": True, "compile": False, "epochs": 3, "tags": "a b", "q": 0.1 + 0.2}
MACROS = (
    "args",
    "args_no_hyphens",
    "args_no_equals",
    "args_no_boolean_flags",
    "args_append_hydra",
    "args_override_hydra",
    "args_json",
)
FILE = Path("values.json")


@pytest.fixture(scope="module")
def wandb_sweeps():
    """What W&B's agent makes its commands with; imported late: takes seconds, of all workers that collect the tests."""
    from wandb.sdk.launch.sweeps import utils  # noqa: TID251

    return utils


@pytest.fixture
def wandb_words(wandb_sweeps):
    """Returns what W&B's agent puts in a macro's place."""

    def words(macro, settings):
        values = {key: {"value": value} for key, value in settings.items()}
        return wandb_sweeps.create_sweep_command_args({"args": values})[macro]

    return words


@pytest.mark.parametrize("settings", [SETTINGS, {}, {"resume": None}], ids=["all types", "none", "nothing"])
@pytest.mark.parametrize("macro", MACROS)
def test_arguments_are_spelled_as_wandb_spells_them(macro, settings, wandb_words):
    words = command_words(["true", f"${{{macro}}}", "end"], "train.py", settings, FILE)
    assert words == ["true", *wandb_words(macro, settings), "end"]


def test_every_macro_of_wandb_is_known(wandb_sweeps):
    missing = wandb_sweeps.create_sweep_command_args({"args": {}}).keys() - set(MACROS)
    assert missing == {"args_dict"}  # its own agent has no use for it


def test_the_command_left_out_is_wandb_s_with_this_python(wandb_sweeps):
    assert list(COMMAND) == wandb_sweeps.DEFAULT_SWEEP_COMMAND
    words = command_words(COMMAND, "train.py", {"lr": 0.1, "test": False}, FILE)
    assert words == ["/usr/bin/env", sys.executable, "train.py", "--lr=0.1", "--test=False"]


def test_the_values_can_be_had_in_a_file(wandb_words):
    assert command_words(["true", "${args_json_file}"], "train.py", SETTINGS, FILE) == ["true", "values.json"]
    assert json.loads(wandb_words("args_json", SETTINGS)[0]) == SETTINGS


@pytest.mark.parametrize("word", ["--a=${envvar:A_B}", "${envvar:A_B}", "${envvar:A_B}/${envvar:C1}x", "plain", "$A_B"])
def test_variables_of_the_environment_are_filled_in_as_by_wandb(word, monkeypatch, wandb_sweeps):
    monkeypatch.setenv("A_B", "first")
    monkeypatch.setenv("C1", "sec ond")
    assert command_words(["true", word], "", {}, FILE) == wandb_sweeps.create_sweep_command(["true", word])


def test_a_variable_that_is_not_there_is_refused_where_wandb_leaves_its_name(monkeypatch):
    monkeypatch.delenv("MISSING", raising=False)
    with pytest.raises(UserError, match="the environment has no MISSING"):
        command_words(["python", "--a=${envvar:MISSING}"], "train.py", {}, FILE)


def test_an_unknown_macro_is_refused_with_what_was_meant():
    with pytest.raises(UserError, match=r"\$\{argz\} is not known, did you mean \$\{args\}"):
        command_words(["python", "${argz}"], "train.py", {}, FILE)


def test_variables_for_env_are_no_program():
    words = command_words(["${env}", "A=1", "${interpreter}", "${args}"], "train.py", {"lr": 0.1}, FILE)
    assert words[1:2] + words[3:] == ["A=1", "--lr=0.1"]


@pytest.mark.parametrize("command", [["no-such-program", "${args}"], ["${envvar:NOWHERE}"]])
def test_a_command_that_cannot_be_started_is_refused(command, monkeypatch):
    monkeypatch.setenv("NOWHERE", "/nowhere/python")
    with pytest.raises(UserError, match="command: (no-such-program|/nowhere/python) is not a program on this machine"):
        command_words(command, "train.py", {}, FILE)


def test_a_run_leaves_one_of_its_name_alone_that_another_program_watches_over(tmp_path):
    owner = json.dumps([os.uname().nodename, place(), os.getppid(), start_of(os.getppid())])
    variables = {"WANDB_RUN_ID": "mlp", OWNER_VARIABLE: owner}  # of a study in another runs folder
    with subprocess.Popen(["sleep", "60"], env={**os.environ, **variables}) as others:
        run = Run(["sleep", "60"], "mlp", tmp_path, {}, {})
        run.kill()
        run.process.wait()
        time.sleep(0.1)
        assert run.has_ended()
        assert others.poll() is None
        others.kill()
    assert run.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("state", "left"), [("stopped", "unfinished"), ("failed", "failed"), ("finished", "finished")])
def test_a_fault_before_a_run_has_begun_again_is_not_hidden_by_how_it_ended_last_time(tmp_path, state, left):
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "summary.json", {"state": state, "error": "out of memory"})
    run = Run(["sh", "-c", "echo '[Errno 5] Input/output error'; exit 1"], "a", tmp_path, {}, {})
    run.process.wait()
    assert run.state() == left
    assert run.fault().reason == "its disk does not answer"
    assert bool(read_json(tmp_path / "a" / "summary.json")) == (state != "stopped")


def test_a_run_that_ends_before_it_can_say_how_has_not_diverged_as_it_did_last_time(tmp_path):
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "summary.json", {"state": "failed", "diverged": True})
    run = Run(["sh", "-c", "exit 1"], "a", tmp_path, {}, {})
    run.process.wait()
    assert not run.has_diverged()


def test_a_run_knows_that_our_own_program_has_started_it(tmp_path):
    run = Run(["sh", "-c", f"exit ${LAUNCHED_BY_US}"], "a", tmp_path, {}, {})
    assert run.process.wait() == 1


def test_a_run_finds_its_name_folders_and_values_in_its_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    names = ("WANDB_RUN_ID", "VISION_SWEEPS_RUNS", "WANDB_SWEEP_PARAM_PATH", "PYTHONUNBUFFERED", "PATH")
    run = Run(["sh", "-c", f"echo ${' $'.join(names)}"], "a", Path("runs"), {"lr": 0.1, "model": "cnn"}, {})
    run.process.wait()
    *told, path = run.last_lines(1).split(maxsplit=4)
    values = tmp_path / "runs" / "a" / "sweep-values.yaml"  # a program may change its folder before it reads that
    assert told == ["a", "runs", str(values), "1"]
    assert path.startswith(f"{Path(sys.executable).parent}{os.pathsep}")
    assert yaml.safe_load(values.read_text()) == {"lr": {"value": 0.1}, "model": {"value": "cnn"}}


def test_a_progress_bar_is_one_line_with_its_last_state(tmp_path):
    run = Run(["printf", r"begun\r\n\r 1 %%\r50 %%\r99 %%\nTraceback: bad\n"], "a", tmp_path, {}, {})
    run.process.wait()
    assert run.last_lines(9) == "begun\n99 %\nTraceback: bad"


def test_the_last_lines_are_the_end_of_what_this_start_has_said(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / OUTPUT).write_text("of an earlier start\n")
    run = Run(["printf", r"one\ntwo\nthree"], "a", tmp_path, {}, {})
    run.process.wait()
    assert [run.last_lines(num) for num in (2, 9)] == ["two\nthree", "one\ntwo\nthree"]
    monkeypatch.setattr("sweeps.local.launch.MOST_OUTPUT_BYTES", 4)
    assert run.last_lines(9) == "hree"
    assert (tmp_path / "a" / OUTPUT).read_text() == "of an earlier start\none\ntwo\nthree"


def test_a_run_takes_no_more_seconds_after_its_end_and_is_out_of_reach_of_ctrl_c(tmp_path):
    run = Run(["sleep", "60"], "a", tmp_path, {}, {})
    assert os.getpgid(run.process.pid) != os.getpgid(0)
    run.kill()
    wait_until(run.has_ended, "it ends")
    seconds = run.seconds()
    time.sleep(0.01)
    assert run.seconds() == seconds


def test_processes_that_a_launcher_leaves_have_their_time_to_save_and_are_killed_then(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.local.launch.SECONDS_TO_SAVE", 0.5)
    run = Run(["sh", "-c", "sleep 60 & exit 0"], "a", tmp_path, {}, {})
    run.process.wait()
    assert not run.has_ended()
    seconds = run.seconds()
    assert len(processes_of("a")) == 1
    wait_until(run.has_ended, "what is left is killed", seconds=30)
    assert run.seconds() == seconds  # of the launcher
    assert processes_of("a") == []


def test_a_run_is_killed_for_memory_only_where_the_system_has_killed_another_process_since_its_start(
    tmp_path, monkeypatch
):
    for num_after, reason in ((3, None), (4, OUT_OF_MEMORY)):
        told = iter([3, num_after])
        monkeypatch.setattr("sweeps.local.launch.num_killed_for_memory", lambda told=told: next(told))
        run = Run(["sh", "-c", "kill -9 $$"], "a", tmp_path, {}, {})
        run.process.wait()
        assert getattr(run.fault(), "reason", None) == reason


def test_a_run_that_was_stopped_has_no_fault_whatever_its_exit_code_and_output(tmp_path):
    run = Run(["sh", "-c", "echo '[Errno 5] Input/output error'; exit 1"], "a", tmp_path, {}, {})
    run.process.wait()
    assert run.fault() is not None
    write_json(tmp_path / "a" / "summary.json", {"state": "stopped"})
    assert run.fault() is None
