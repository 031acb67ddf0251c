"""What an agent does when it is stopped, or when the machine, the terminal or a file fails it."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest
import yaml

from analysis.record import run_folder
from data.files import read_json
from data.metrics import is_epoch
from tests.sweep_agents import (
    LR_GRID,
    PROGRAM,
    ROOT,
    TIMEOUT_SECONDS,
    dump_no_second,
    wait_until,
)
from tests.sweep_faults import Faults
from tests.sweeps.test_agent import SLOW


@pytest.mark.slow
def test_an_agent_that_cannot_write_itself_pauses_and_leaves_no_trial_or_process(stage):
    file = stage.write(method="grid", parameters={"lr": LR_GRID, "epochs": 40, "seconds": 0.05})
    agent = stage.start(file, "--workers=2", patches={"yaml.safe_dump": dump_no_second})
    assert agent.wait() == 1
    assert "No space left" in agent.errors
    assert len(agent.errors.splitlines()) == 1
    assert stage.processes() == []
    assert set(stage.states()) == {"RUNNING"}
    stage.run(file, "--workers=2")
    assert stage.states() == ["COMPLETE"] * 3
    assert stage.disorder() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "epoch", "words"),
    [(1, 3, ""), (137, 3, ""), (130, 1, ""), (1, 1, "traceback : Signal 9 (SIGKILL) received by PID 7")],
    ids=["a rank below its launcher", "below a shell", "before its first step", "a rank before its first step"],
)
def test_what_is_killed_out_of_the_agents_sight_goes_on(stage, code, epoch, words):
    cut = {"cut_code": code, "cut_epoch": epoch, "last_words": words}
    done = stage.run(stage.write(parameters={"epochs": 4, **cut}), "--count=1")
    [trial] = stage.trials()
    assert (trial.state.name, list(trial.intermediate_values)) == ("COMPLETE", [1, 2, 3, 4])
    assert f"cut short (exit code {code}), goes on" in done.output
    assert stage.disorder() == []


@pytest.mark.slow
def test_a_paused_trial_whose_next_start_meets_a_fault_of_the_machine_stays_open(stage):
    broken = stage.folder / "broken"
    start = f'if [ -e {broken} ]; then echo "[Errno 5] Input/output error"; exit 1; fi; exec "$0" "$@"'
    file = stage.write(
        parameters={"epochs": 20, "seconds": 0.1}, command=["sh", "-c", start, sys.executable, "${program}", "${args}"]
    )
    agent = stage.start(file, "--count=1")
    stage.wait_for("epoch", 1, epoch=2)
    agent.signal(signal.SIGINT)
    assert agent.wait() == 130
    broken.touch()
    done = stage.run(file, "--count=1", code=1)
    assert "cut short (its disk does not answer), stays open" in done.output
    assert done.errors.startswith("agent.py: paused, its disk does not answer")
    assert stage.states() == ["RUNNING"]
    broken.unlink()
    stage.run(file, "--count=1")
    assert stage.states() == ["COMPLETE"]
    assert stage.disorder() == []


# Signals to the agent.


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_pauses_and_the_same_command_goes_on(stage, number):
    command = (stage.write(parameters=SLOW), "--count=3", "--workers=2")
    agent = stage.start(*command)
    stage.wait_for("epoch", 2, epoch=3)
    agent.signal(number)
    assert agent.wait(10) == 128 + number
    assert stage.processes() == []
    assert stage.states() == ["RUNNING", "RUNNING"]
    assert [row["state"] for row in stage.journal("end")] == ["stopped", "stopped"]
    assert "2 trials: 2 paused" in agent.output
    assert "paused; to go on: python sweeps/agent.py sweep.yaml --count=3 --workers=2" in agent.output
    again = stage.run(*command)
    assert stage.states() == ["COMPLETE"] * 3
    assert "trial 0 goes on" in again.output
    assert sorted(stage.starts().values()) == [1, 2, 2]
    assert stage.disorder() == []
    assert [list(trial.intermediate_values) for trial in stage.trials()] == [list(range(1, 21))] * 3


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_does_not_pause(stage):
    command = ["nohup", sys.executable, str(ROOT / "sweeps" / "agent.py"), stage.write(parameters=SLOW), "--count=1"]
    environment = {**os.environ, **stage.environment}
    with (stage.folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=stage.folder, env=environment, stdout=log, stderr=log)
    stage.wait_for("epoch", 1, epoch=2)
    process.send_signal(signal.SIGHUP)
    assert process.wait(TIMEOUT_SECONDS) == 0
    assert stage.states() == ["COMPLETE"]


@pytest.mark.slow
def test_an_agent_whose_reader_goes_away_pauses_with_all_trials_saved(stage):
    file = stage.write(parameters={"epochs": 3, "seconds": 0.3})
    command = [sys.executable, str(ROOT / "sweeps" / "agent.py"), file, "--workers=2", "--count=8"]
    environment = {**os.environ, **stage.environment}
    process = subprocess.Popen(
        command, cwd=stage.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    assert process.wait(TIMEOUT_SECONDS) == 141, errors
    assert errors == ""
    assert stage.processes() == []
    assert len(stage.trials()) < 8
    stage.run(file, "--workers=2", "--count=8")
    assert stage.states() == ["COMPLETE"] * 8
    assert stage.disorder() == []


@pytest.mark.slow
def test_a_file_gets_a_log_though_colours_are_forced(stage):
    done = stage.run(stage.write(), "--count=1", environment={"FORCE_COLOR": "1"})
    assert "trial 0 starts: lr=" in done.output
    assert "\x1b" not in done.output


@pytest.mark.slow
def test_a_terminal_that_draws_nothing_gets_a_log(stage):
    master, slave = pty.openpty()
    agent = stage.start(stage.write(), "--count=1", terminal=os.ttyname(slave), environment={"TERM": "dumb"})
    assert agent.wait() == 0
    shown = os.read(master, 65536).decode()
    os.close(slave)
    os.close(master)
    assert "trial 0 starts: lr=" in shown
    assert "trial 0 finished" in shown


@pytest.mark.slow
def test_a_trial_whose_run_is_in_progress_elsewhere_waits_and_then_goes_on(stage):
    file = stage.write(parameters={"epochs": 2, "seconds": 0.01, "held": 1})
    done = stage.run(file, "--count=1", patches={"sweeps.local.trials.SECONDS_TO_LEAVE": 0.5})
    assert stage.states() == ["COMPLETE"]
    assert "trial 0 waits: its run is in progress elsewhere" in done.output


@pytest.mark.slow
def test_a_pause_is_announced_at_once(stage):
    agent = stage.start(stage.write(parameters={**SLOW, "saving_seconds": 3}), "--count=1")
    stage.wait_for("epoch", 1)
    agent.signal(signal.SIGINT)
    wait_until(lambda: "pausing: the trials save their state" in agent.output, "it says so", 2)
    assert agent.wait() == 130
    assert agent.output.count("pausing") == 1


@pytest.mark.slow
def test_a_second_ctrl_c_ends_even_what_ignores_signals_and_it_can_be_gone_on_with(stage):
    command = (stage.write(parameters={**SLOW, "ignoring": "0"}), "--count=2", "--workers=2")
    agent = stage.start(*command)
    stage.wait_for("epoch", 2, epoch=2)
    agent.signal(signal.SIGINT)
    time.sleep(1.1)
    assert agent.is_alive()
    agent.signal(signal.SIGINT)
    assert agent.wait(3) == 130
    assert stage.processes() == []
    stage.run(*command)
    assert stage.states() == ["COMPLETE"] * 2
    assert list(stage.starts().values()) == [2, 2]
    assert stage.disorder() == []


@pytest.mark.slow
def test_a_trial_that_ignores_a_stop_is_killed_after_its_time(stage):
    command = (stage.write(parameters={"epochs": 2, "hanging": "0", "ignoring": "0"}), "--count=1")
    agent = stage.start(*command, patches={"sweeps.local.launch.SECONDS_TO_SAVE": 1.0})
    stage.wait_for("epoch", 1)
    started = time.monotonic()
    agent.signal(signal.SIGTERM)
    assert agent.wait(10) == 143
    assert 1.0 <= time.monotonic() - started < 5
    assert stage.processes() == []
    assert stage.states() == ["RUNNING"]


@pytest.mark.slow
def test_no_trial_outlives_an_agent_that_is_killed_and_the_same_command_goes_on(stage):
    command = (stage.write(parameters=SLOW), "--count=3", "--workers=2")
    agent = stage.start(*command)
    stage.wait_for("epoch", 2, epoch=3)
    agent.signal(signal.SIGKILL)
    stage.wait_for_no_process(5)
    assert stage.states() == ["RUNNING", "RUNNING"]
    folders = sorted(path.name for path in stage.sweep().glob("0*"))
    stage.run(*command)
    assert sorted(path.name for path in stage.sweep().glob("0*"))[:2] == folders
    assert stage.states() == ["COMPLETE"] * 3
    assert sorted(stage.starts().values()) == [1, 2, 2]
    assert stage.disorder() == []


@pytest.mark.slow
def test_an_agent_that_starts_at_once_after_the_kill_waits_for_what_still_saves_its_state(stage):
    command = (stage.write(parameters={**SLOW, "saving_seconds": 1.5}), "--count=1")
    agent = stage.start(*command)
    stage.wait_for("epoch", 1, epoch=3)
    agent.signal(signal.SIGKILL)
    stage.run(*command)
    assert stage.states() == ["COMPLETE"]
    assert stage.disorder() == []


@pytest.mark.slow
def test_what_a_killed_agent_leaves_behind_for_ever_is_ended_after_its_time(stage):
    command = (stage.write(parameters={"epochs": 1, "seconds": 30, "ignoring": "0"}), "--count=1")
    agent = stage.start(*command)
    [orphan] = stage.wait_for("epoch", 1)
    agent.signal(signal.SIGKILL)
    agent.wait()
    again = stage.start(*command, patches={"sweeps.local.trials.SECONDS_TO_SAVE": 1.0})
    wait_until(lambda: orphan["pid"] not in [process.pid for process in stage.processes()], "it is killed", 10)
    stage.wait_for("start", 2)
    again.signal(signal.SIGINT)
    time.sleep(1.1)
    again.signal(signal.SIGINT)
    assert again.wait(5) == 130
    assert stage.disorder() == []


@pytest.mark.slow
def test_random_kills_lose_no_trial_and_run_none_twice(tmp_path):
    faults = Faults(tmp_path, num_trials=5, num_kills=5, num_workers=2, seed=1)
    counts = faults.run()
    assert counts["kills of trials"] + counts["kills of agents"] == 5
    assert counts["finished"] + counts["stopped early"] == 5
    assert (counts["lost"], counts["run twice"], counts["processes left"]) == (0, 0, 0)


# With train.py itself.

TRAINING = {"model": "mlp", "dataset": "digits", "width": 32, "val_fraction": 0.2, "tracking": "off"}


@pytest.mark.slow
def test_train_py_takes_the_values_and_goes_on_after_a_stop_and_a_kill_of_the_agent(lean, stage):
    parameters = {"lr": {"values": [0.002]}, **TRAINING, "epochs": 60}
    file = stage.write(program=str(ROOT / "train.py"), method="grid", parameters=parameters)

    def epochs() -> list[int]:
        rows = [row for path in stage.sweep().glob("0*") for row in run_folder.read_metrics(path)]
        return [row["epoch"] for row in rows if is_epoch(row)]

    agent = stage.start(file)
    wait_until(lambda: len(epochs()) >= 2, "the trial has trained")
    agent.signal(signal.SIGINT)
    assert agent.wait(15) == 130
    [folder] = stage.sweep().glob("0*")
    assert run_folder.state(folder) == "stopped"
    assert stage.processes() == []
    num_epochs = len(epochs())

    agent = stage.start(file)
    wait_until(lambda: len(epochs()) >= num_epochs + 2, "the trial has trained on")
    agent.signal(signal.SIGKILL)
    stage.wait_for_no_process(15)
    assert len(epochs()) < 60

    command = [sys.executable, str(ROOT / "sweeps" / "agent.py"), str(stage.folder / file)]
    environment = {**os.environ, **stage.environment}
    done = subprocess.run(command, cwd=stage.folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trial: 1 finished" in done.stdout
    assert epochs() == list(range(1, 61))
    settings = read_json(folder / "settings.json")
    assert (settings["lr"], settings["epochs"], settings["width"]) == (0.002, 60, 32)
    [trial] = stage.trials()
    assert trial.user_attrs["run_id"] == folder.name
    assert trial.value == min(row["val/loss"] for row in run_folder.read_metrics(folder) if is_epoch(row))
    assert trial.user_attrs["best_epoch"] == read_json(folder / "summary.json")["best_epoch"]


# Input that is wrong.

UNREACHABLE = "postgresql+psycopg://me:secret@127.0.0.1:9/sweeps"
BAD_FILES = {
    "an unknown distribution": ({"parameters": {"lr": {"distribution": "gaussian", "mu": 0}}}, "gaussian"),
    "bounds that contradict": ({"parameters": {"lr": {"min": 0.2, "max": 0.1}}}, "lr"),
    "a missing program": ({"program": "nowhere.py"}, "nowhere.py"),
    "a command of nothing": ({"command": ["nosuchprogram", "${program}"]}, "nosuchprogram"),
    "a metric that no run logs": (
        {"program": str(ROOT / "train.py"), "metric": {"name": "val/acuracy"}, "parameters": TRAINING},
        "val/accuracy",
    ),
    "a setting that is none": ({"program": str(ROOT / "train.py"), "parameters": {**TRAINING, "widht": 3}}, "width"),
}
BAD_ARGUMENTS = {
    "no such file": (["missing.yaml"], "missing.yaml"),
    "no YAML": (["no.yaml"], "no.yaml"),
    "not a sweep": (["list.yaml"], "list.yaml"),
    "no worker": (["sweep.yaml", "--workers=0"], "--workers"),
    "no trial": (["sweep.yaml", "--count=0"], "--count"),
    "no such GPU": (["sweep.yaml", "--devices=7"], "--devices=7"),
    "a name that is a path": (["sweep.yaml", "--name=a/b"], "a/b"),
    "an unknown option": (["sweep.yaml", "--wokers=2"], "--wokers"),
    "a storage that is not there": (["sweep.yaml", f"--storage={UNREACHABLE}"], "cannot be reached"),
    "an unknown kind of storage": (["sweep.yaml", "--storage=mongodb://me:secret@host/db"], "mongodb"),
    "a storage without its driver": (["sweep.yaml", "--storage=mysql://me:secret@host/db"], "driver"),
    "an address that is none": (["sweep.yaml", "--storage=postgresql+psycopg//me:secret@host/db"], "no address"),
    "a port that is none": (["sweep.yaml", "--storage=postgresql+psycopg://me:secret@host:port/db"], "no address"),
    "a folder that is not there": (["sweep.yaml", "--storage=sqlite:////nowhere/at/all.db"], "cannot be reached"),
}


def assert_refused(stage, arguments, named):
    done = stage.run(*arguments, code=2)
    assert len(done.errors.splitlines()) == 1, done.errors
    assert done.errors.startswith("agent.py: ")
    assert named in done.errors
    assert "secret" not in done.errors
    assert done.output == ""
    assert not stage.runs_dir.exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_sweep_file_is_refused_for(stage, case):
    changes, named = BAD_FILES[case]
    assert_refused(stage, [stage.write(**changes)], ": sweep.yaml: ")
    assert_refused(stage, [stage.write(**changes)], named)


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_a_command_line_is_refused_for(stage, case):
    stage.write()
    (stage.folder / "no.yaml").write_text("parameters: {lr: [")
    (stage.folder / "list.yaml").write_text("[1, 2]")
    assert_refused(stage, *BAD_ARGUMENTS[case])


@pytest.mark.slow
def test_a_sweep_of_another_meaning_and_the_same_name_is_refused(stage):
    stage.run(stage.write(), "--count=1")
    changed = stage.write(parameters={"epochs": 5})
    done = stage.run(changed, "--count=2", code=2)
    assert done.errors == (
        "agent.py: sweep sweep was begun with another epochs, new trials could not be compared with its own: "
        "give another --name\n"
    )
    assert len(stage.starts()) == 1
    stage.run(changed, "--count=1", "--name=another")


@pytest.mark.slow
def test_a_sweep_has_the_name_that_its_file_gives_it_unless_told_otherwise(stage):
    file = stage.write(name="file", parameters={"epochs": 1})
    content = yaml.safe_load((stage.folder / file).read_text())
    (stage.folder / file).write_text(yaml.safe_dump({**content, "name": "widths"}))
    done = stage.run(file, "--count=1")
    assert stage.states("widths") == ["COMPLETE"]
    assert "python sweeps/final.py widths" in done.output
    stage.run(file, "--count=1", "--name=told")
    assert stage.states("told") == ["COMPLETE"]
    assert not stage.sweep("file").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("method: random\nmethod: grid\n", "method is given twice, in lines 1 and 2"),
        ('parameters: {lr: {values: ["a\\0b", 1]}}', "no program can be told"),
    ],
)
def test_a_file_is_refused_before_anything_is_stored_for(stage, text, named):
    (stage.folder / "odd.yaml").write_text(text)
    assert_refused(stage, ["odd.yaml"], named)


@pytest.mark.slow
def test_a_sweep_goes_on_from_the_copy_of_its_file(stage):
    stage.run(stage.write(), "--count=1")
    copy = stage.sweep() / "sweep.yaml"
    assert yaml.safe_load(copy.read_text())["program"] == str(PROGRAM)
    stage.run(str(copy), "--name=sweep", "--count=2")
    assert stage.states() == ["COMPLETE"] * 2
