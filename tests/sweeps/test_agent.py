"""The agent as a process: what it starts, what it makes of faults and signals, and how it goes on after them."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time

import optuna
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
    Stage,
    dump_no_second,
    loss,
    num_bytes_free,
    read_and_dawdle,
    wait_until,
)
from tests.sweep_faults import Faults

SLOW = {"epochs": 20, "seconds": 0.1}  # there is time to interfere


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def row(stage, number):
    """What the program was told in its last start of a trial."""
    return [start for start in stage.journal("start") if int(start["run"][:3]) == number][-1]


# A sweep that nothing disturbs.


@pytest.mark.slow
def test_a_sweep_runs_its_count_of_trials_and_keeps_every_value(stage):
    file = stage.write(parameters={"epochs": 4, "seconds": 0.01, "tags": "a b"}, project="digits")
    done = stage.run(file, "--count=3")
    assert "3 trials: 3 finished" in done.output
    assert done.errors == ""
    assert list(stage.starts().values()) == [1, 1, 1]
    for trial in stage.trials():
        lr = trial.params["lr"]
        assert trial.state.name == "COMPLETE"
        assert trial.intermediate_values == {epoch: pytest.approx(loss(lr, epoch)) for epoch in (1, 2, 3, 4)}
        assert trial.value == pytest.approx(loss(lr, 3))
        assert trial.user_attrs["settings"] == {"lr": lr, "epochs": 4, "seconds": 0.01, "tags": "a b"}
        assert trial.user_attrs["best"] == trial.value
        assert trial.user_attrs["best_epoch"] == 3
        folder = stage.sweep() / trial.user_attrs["run_id"]
        assert run_folder.state(folder) == "finished"
        assert float(read_json(folder / "settings.json")["lr"]) == lr
        start = row(stage, trial.number)
        assert start["run"] == folder.name
        assert float(start["told"]["lr"]) == float(start["sweep"]["lr"]) == lr
        assert start["told"]["tags"] == start["sweep"]["tags"] == "a b"
        assert start["environment"]["WANDB_RUN_GROUP"] == "sweep"
        assert start["environment"]["WANDB_PROJECT"] == "digits"


@pytest.mark.slow
def test_the_values_reach_a_program_whose_command_leaves_them_out(stage):
    file = stage.write(command=["${interpreter}", "${program}"])
    stage.run(file, "--count=1")
    assert row(stage, 0)["told"] == {}
    assert float(row(stage, 0)["sweep"]["lr"]) == stage.trials()[0].params["lr"]


@pytest.mark.slow
def test_workers_run_so_many_trials_at_a_time_and_each_once(stage):
    file = stage.write(parameters={"epochs": 3, "seconds": 0.1})
    stage.run(file, "--count=5", "--workers=2")
    events = [(row["time"], 1 if row["event"] == "start" else -1) for row in stage.journal() if row["event"] != "epoch"]
    at_once = [sum(change for time, change in events if time <= now) for now, _ in events]
    assert max(at_once) == 2
    assert list(stage.starts().values()) == [1] * 5
    assert stage.states() == ["COMPLETE"] * 5


@pytest.mark.slow
def test_same_seed_and_one_worker_give_the_same_trials_even_if_the_agent_is_killed(stage):
    file = stage.write(method="bayes", parameters={"epochs": 3, "seconds": 0.02})
    stage.run(file, "--count=5", "--name=whole")
    stage.run(file, "--count=5", "--name=other", "--seed=1")
    for num_trials in (2, 5):
        killed = stage.start(file, "--count=5", "--name=killed")
        wait_until(lambda num=num_trials: len(list(stage.sweep("killed").glob("0*"))) >= num, "trials are under way")
        killed.signal(signal.SIGKILL)
        killed.wait()
    stage.run(file, "--count=5", "--name=killed")
    whole, other, killed = ([t.params for t in stage.trials(name)] for name in ("whole", "other", "killed"))
    assert whole == killed
    assert not any(params in whole for params in other)


@pytest.mark.slow
def test_a_larger_count_adds_trials_and_any_other_ends_at_once(stage):
    file = stage.write(run_cap=2)
    stage.run(file)
    assert "3 trials: 3 finished" in stage.run(file, "--count=3").output
    assert "3 trials: 3 finished" in stage.run(file, "--count=3").output
    assert "3 trials: 3 finished" in stage.run(file, "--count=1").output
    assert list(stage.starts().values()) == [1, 1, 1]


@pytest.mark.slow
def test_a_grid_ends_after_all_combinations(stage):
    file = stage.write(method="grid", parameters={"lr": LR_GRID, "depth": {"values": [1, 2]}})
    stage.run(file)
    found = [(trial.params["depth"], trial.params["lr"]) for trial in stage.trials()]
    assert found == [(depth, lr) for depth in (1, 2) for lr in LR_GRID["values"]]
    stage.run(file, "--count=50")
    assert len(stage.starts()) == 6


@pytest.mark.slow
def test_without_a_count_there_is_no_end_until_somebody_says_so(stage):
    agent = stage.start(stage.write(parameters={"epochs": 1, "seconds": 0.0}))
    stage.wait_for("end", 4)
    agent.signal(signal.SIGINT)
    assert agent.wait() == 130
    stage.wait_for_no_process(5)


@pytest.mark.slow
@pytest.mark.parametrize(("goal", "order"), [("minimize", "210"), ("maximize", "012")])
def test_the_leaderboard_lists_the_best_trial_first(stage, goal, order):
    metric = {"name": "val/loss", "goal": goal}
    output = stage.run(stage.write(method="grid", metric=metric, parameters={"lr": LR_GRID})).output
    assert re.findall(r"^\W*(\d+)\W+finished", output, re.MULTILINE) == list(order)


@pytest.mark.slow
def test_a_log_has_a_line_for_each_start_and_each_end(stage):
    output = stage.run(stage.write(), "--count=2").output
    assert [line.split()[1:4] for line in output.splitlines()[:4]] == [
        ["trial", number, what] for number in "01" for what in ("starts:", "finished:")
    ]
    assert "\x1b" not in output


@pytest.mark.slow
def test_a_terminal_has_a_table_with_states_and_the_best_so_far_and_ctrl_c_pauses(stage):
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 160))
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                shown.extend(os.read(master, 65536))
            except OSError:
                return

    threading.Thread(target=read, daemon=True).start()
    file = stage.write(method="grid", parameters={"lr": {"values": [0.001, 0.01]}, **SLOW})
    agent = stage.start(file, terminal=os.ttyname(slave), environment={"TERM": "xterm"})
    wait_until(lambda: "running" in shown.decode() and "best val/loss 0." in shown.decode(), "a table is drawn")
    os.write(master, b"\x03")
    assert agent.wait() == 130
    assert "paused; to go on" in shown.decode()
    assert "Traceback" not in shown.decode()
    stage.wait_for_no_process(5)
    os.close(slave)
    os.close(master)


@pytest.mark.slow
def test_optuna_itself_reads_the_storage(stage):
    stage.run(stage.write(parameters={"epochs": 1}), "--count=2")
    study = optuna.load_study(study_name="sweep", storage=stage.url())
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert study.direction.name == "MINIMIZE"
    assert study.best_value == min(trial.value for trial in study.trials)
    assert set(study.best_params) == {"lr"}


# Early stops and faults of trials.


@pytest.mark.slow
def test_hyperband_stops_trials_within_ten_seconds_with_their_state_saved(stage):
    file = stage.write(
        method="grid",
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
        parameters={"lr": {"values": [0.001, 0.003, 0.01, 0.1]}, "epochs": 30, "seconds": 0.05},
    )
    done = stage.run(file)
    # By hand: the second is not above the element at int(2 / 2) of the two; the others are, of three and of four.
    assert stage.states() == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert "4 trials: 2 finished, 2 stopped early" in done.output
    for trial in stage.trials()[2:]:
        run_id = trial.user_attrs["run_id"]
        [end] = [end for end in stage.journal("end") if end["run"] == run_id]
        [logged] = [row for row in stage.journal("epoch") if row["run"] == run_id and row["epoch"] == 3]
        assert end["state"] == "stopped"
        print(f"stopped after {end['time'] - logged['time']:.2f} s")
        assert end["time"] - logged["time"] < 10
        assert run_folder.state(stage.sweep() / run_id) == "stopped"
        assert json.loads((stage.sweep() / run_id / "checkpoint.pt").read_text())["epoch"] >= 2
        assert "error" not in trial.user_attrs


@pytest.mark.slow
def test_a_crash_is_recorded_with_the_last_lines_and_the_sweep_goes_on(stage):
    done = stage.run(stage.write(parameters={"crashing": "1"}), "--count=3")
    assert stage.states() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert stage.trials()[1].user_attrs["error"] == "exit code 1\nline 1\nCUDA out of luck in trial 1"
    assert "trial 1 failed: exit code 1" in done.output
    assert "CUDA out of luck in trial 1" in done.output
    assert "3 trials: 2 finished, 1 failed" in done.output


@pytest.mark.slow
def test_control_characters_of_settings_and_output_do_not_reach_the_terminal(stage):
    broken = stage.folder / "broken"
    broken.write_text("\x1b]0;owned\x07\x1b[2J")
    tag = {"values": ["\x1b[31mred", "\x1b[31mgreen"]}
    done = stage.run(stage.write(parameters={"tags": tag, "broken": str(broken)}, method="bayes"), "--count=3", code=1)
    assert "\\x1b]0;owned\\x07\\x1b[2J" in done.output
    assert "tags=\\x1b[31m" in done.output
    assert not set("\x1b\x07") & set(done.output + done.errors)


@pytest.mark.slow
def test_three_crashes_and_nothing_else_end_the_sweep_with_the_reason(stage):
    done = stage.run(stage.write(parameters={"crashing": "all", "silent": "all"}), "--count=9", code=1)
    assert stage.states() == ["FAIL"] * 3
    assert done.errors == (
        "agent.py: the first 3 trials failed, none logged a val/loss: the last lines of their output are above\n"
    )
    assert "CUDA out of luck in trial 2" in done.output


@pytest.mark.slow
def test_crashes_late_in_a_sweep_do_not_end_it(stage):
    stage.run(stage.write(parameters={"crashing": "1,2,3,4", "silent": "1,2,3,4"}), "--count=6")
    assert stage.states() == ["COMPLETE", *["FAIL"] * 4, "COMPLETE"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["silent", "diverging"])
def test_a_trial_without_a_finite_value_fails_with_the_reason(stage, fault):
    done = stage.run(stage.write(parameters={fault: "0"}), "--count=2")
    assert stage.states() == ["FAIL", "COMPLETE"]
    assert stage.trials()[0].user_attrs["error"].splitlines()[0] == "it logged no val/loss"
    assert "trial 0 failed: it logged no val/loss" in done.output


@pytest.mark.slow
def test_values_count_that_were_logged_between_the_last_look_and_the_end(stage):
    file = stage.write(parameters={"epochs": 5, "seconds": 0.1})
    stage.run(file, "--count=1", patches={"analysis.record.run_folder.read_metrics": read_and_dawdle})
    [trial] = stage.trials()
    assert list(trial.intermediate_values) == [1, 2, 3, 4, 5]
    assert trial.value == pytest.approx(loss(trial.params["lr"], 5))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_trial_that_somebody_kills_goes_on_from_its_checkpoint_as_often_as_it_gets_further(stage, number):
    agent = stage.start(stage.write(parameters={"epochs": 11, "seconds": 0.1}), "--count=1")
    for epoch in (2, 4, 6, 8, 10):
        [under_way] = stage.wait_for("epoch", 1, epoch=epoch)
        os.kill(under_way["pid"], number)
    assert agent.wait() == 0
    [trial] = stage.trials()
    assert trial.state.name == "COMPLETE"
    assert list(trial.intermediate_values) == list(range(1, 12))
    assert list(stage.starts().values()) == [6]
    assert stage.disorder() == []
    assert agent.output.count("trial 0 goes on:") == 5


@pytest.mark.slow
def test_a_trial_that_is_killed_again_and_again_fails_in_the_end(stage):
    done = stage.run(stage.write(parameters={"dying": "0"}), "--count=2")
    assert stage.states() == ["FAIL", "COMPLETE"]
    assert list(stage.starts().values()) == [4, 1]
    reason = "cut short 4 times without getting further, killed by SIGKILL"
    assert stage.trials()[0].user_attrs["error"].splitlines()[0] == reason
    assert f"trial 0 failed: {reason}" in done.output


@pytest.mark.slow
def test_a_trial_that_is_stopped_again_and_again_does_not_pass_for_finished(stage):
    done = stage.run(stage.write(parameters={"leaving": "0", "epochs": 5}), "--count=2")
    assert stage.states() == ["FAIL", "COMPLETE"]
    assert "trial 0 failed: cut short 4 times without getting further, exit code 0" in done.output


# Faults of the machine.

FULL_DISK = "train.py: [Errno 28] No space left on device"
LOST_GPU = "torch.AcceleratorError: CUDA error: no CUDA-capable device is detected\nSearch for ..."


@pytest.mark.slow
@pytest.mark.parametrize(("words", "reason"), [(FULL_DISK, "disk is full"), (LOST_GPU, "GPU is lost or taken")])
def test_a_fault_of_the_machine_pauses_the_sweep_and_burns_no_trial(stage, words, reason):
    broken = stage.folder / "broken"
    broken.write_text(words)
    file = stage.write(parameters={"epochs": 4, "broken": str(broken), "broken_epoch": 3})
    command = (file, "--count=6", "--workers=2")
    done = stage.run(*command, code=1)
    assert stage.states() == ["RUNNING", "RUNNING"]
    assert done.errors.startswith(f"agent.py: paused, its {reason}: when that is mended, to go on: python sweeps/agent")
    assert len(done.errors.splitlines()) == 1
    broken.unlink()
    assert "6 trials: 6 finished" in stage.run(*command).output
    assert [len(trial.intermediate_values) for trial in stage.trials()] == [4] * 6
    assert stage.disorder() == []


@pytest.mark.slow
def test_a_disk_without_room_for_the_reason_is_a_fault_of_the_machine(stage):
    command = (stage.write(parameters={"crashing": "0", "epochs": 1}), "--count=1")
    none_free = {"sweeps.local.faults.free_bytes": num_bytes_free}
    assert "its disk is full" in stage.run(*command, code=1, patches=none_free).errors
    assert stage.states() == ["RUNNING"]
    stage.run(*command, code=1)
    assert stage.states() == ["FAIL"]


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
    time.sleep(0.3)
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
    time.sleep(0.3)
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
def test_train_py_takes_the_values_and_goes_on_after_a_stop_and_a_kill_of_the_agent(stage):
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
    assert "1 trials: 1 finished" in done.stdout
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
    assert_refused(stage, [stage.write(**changes)], named)


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_a_command_line_is_refused_for(stage, case):
    stage.write()
    (stage.folder / "no.yaml").write_text("parameters: {lr: [")
    (stage.folder / "list.yaml").write_text("[1, 2]")
    assert_refused(stage, *BAD_ARGUMENTS[case])


@pytest.mark.slow
def test_another_sweep_of_the_same_name_is_refused(stage):
    stage.run(stage.write(), "--count=1")
    changed = stage.write(parameters={"epochs": 5})
    done = stage.run(changed, "--count=2", code=2)
    assert done.errors == "agent.py: sweep sweep was begun with another parameters: give another --name\n"
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
