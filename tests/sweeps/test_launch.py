"""The command of a trial, beside what W&B's own agent makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wandb.sdk.launch.sweeps import utils as wandb_sweeps  # noqa: TID251

from data.errors import UserError
from data.files import read_json, write_json
from models.core.processes import LAUNCHED_BY_US
from sweeps.local.launch import Run, command_words
from sweeps.local.owners import OWNER_VARIABLE, place, start_of
from sweeps.local.sweep_file import COMMAND

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


def wandb_words(macro, settings):
    """What W&B's agent puts in a macro's place."""
    return wandb_sweeps.create_sweep_command_args({"args": {key: {"value": value} for key, value in settings.items()}})[
        macro
    ]


@pytest.mark.parametrize("settings", [SETTINGS, {}, {"resume": None}], ids=["all types", "none", "nothing"])
@pytest.mark.parametrize("macro", MACROS)
def test_arguments_are_spelled_as_wandb_spells_them(macro, settings):
    words = command_words(["true", f"${{{macro}}}", "end"], "train.py", settings, FILE)
    assert words == ["true", *wandb_words(macro, settings), "end"]


def test_every_macro_of_wandb_is_known():
    missing = wandb_sweeps.create_sweep_command_args({"args": {}}).keys() - set(MACROS)
    assert missing == {"args_dict"}  # its own agent has no use for it


def test_the_command_left_out_is_wandb_s_with_this_python():
    assert list(COMMAND) == wandb_sweeps.DEFAULT_SWEEP_COMMAND
    words = command_words(COMMAND, "train.py", {"lr": 0.1, "test": False}, FILE)
    assert words == ["/usr/bin/env", sys.executable, "train.py", "--lr=0.1", "--test=False"]


def test_the_values_can_be_had_in_a_file():
    assert command_words(["true", "${args_json_file}"], "train.py", SETTINGS, FILE) == ["true", "values.json"]
    assert json.loads(wandb_words("args_json", SETTINGS)[0]) == SETTINGS


@pytest.mark.parametrize("word", ["--a=${envvar:A_B}", "${envvar:A_B}", "${envvar:A_B}/${envvar:C1}x", "plain", "$A_B"])
def test_variables_of_the_environment_are_filled_in_as_by_wandb(word, monkeypatch):
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


def test_a_run_knows_that_our_own_program_has_started_it(tmp_path):
    run = Run(["sh", "-c", f"exit ${LAUNCHED_BY_US}"], "a", tmp_path, {}, {})
    assert run.process.wait() == 1
