"""The agent as a process: what it starts, what it makes of faults and signals, and how it goes on after them."""

import json
import os
import pty
import re
import signal
import termios
import threading

import optuna
import pytest

from analysis.record import run_folder
from data.files import read_json
from tests.sweep_agents import (
    LR_GRID,
    loss,
    num_bytes_free,
    read_and_dawdle,
    wait_until,
)

SLOW = {"epochs": 20, "seconds": 0.1}  # there is time to interfere


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
    file = stage.write(parameters={"epochs": 3, "seconds": 0.1, "company": 2})
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
    assert done.errors == ("agent.py: the first 3 trials failed, none logged a val/loss: the reasons are above\n")
    assert "CUDA out of luck in trial 2" in done.output


@pytest.mark.slow
def test_trials_that_diverge_end_a_sweep_only_if_none_of_the_first_ten_does_better(stage):
    def explode(trials):
        return {"crashing": trials, "exploding": trials, "silent": trials}

    stage.run(stage.write(parameters=explode("0,1,2,3")), "--count=5")
    assert stage.states() == [*["FAIL"] * 4, "COMPLETE"]
    done = stage.run(stage.write("worse", parameters=explode("all")), "--count=12", code=1)
    assert stage.states("worse") == ["FAIL"] * 10
    assert done.errors == "agent.py: the first 10 trials diverged, none logged a val/loss: the reasons are above\n"


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
    stage.run(file, "--count=1", patches={"analysis.record.run_folder.parse_rows": read_and_dawdle})
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
