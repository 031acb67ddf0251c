"""What people are told as an agent ends."""

import json
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from data.files import read_json, write_json
from data.paths import CHECKOUT
from sweeps.local.display import Display
from sweeps.local.notification import Ending, deliver, message_of, tell
from tests.sweep_agents import LR_GRID, dump_no_second, wait_until
from tests.sweep_helpers import LR, sweep_of
from tests.sweeps.test_agent import SLOW
from tests.sweeps.test_promotion import stored
from tests.wandb_site import server, site  # noqa: F401

TELL = "--on_end=cat >> told.jsonl; echo >> told.jsonl"


def fail(*arguments):
    raise ValueError("a bug")


def told(stage):
    path = stage.folder / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_message_says_why_the_best_as_people_read_it_what_there_is_of_each_state_and_the_hours():
    metric = {"name": "val/accuracy", "goal": "maximize"}
    display = Display(sweep_of({"lr": LR}, metric=metric), "rates", 9, 1)
    notes = {"settings": {"lr": 0.01}, "seconds": 5400.0}
    trials = [stored(0, [0.7, 0.8125], TrialState.COMPLETE, **notes), stored(1, [], TrialState.FAIL, **notes)]
    message = message_of(Ending("paused", "its disk is full", ""), display, trials, {})
    assert message["text"] == (
        "sweep rates paused; its disk is full; best val/accuracy 81.25 % by trial 0 (lr=0.01); 1 finished; 1 failed; "
        "3.00 trial-hours"
    )
    assert (message["best"]["value"], message["trial_hours"]) == (0.8125, 3.0)


def test_a_command_gets_the_message_and_its_last_line_says_why_it_failed(tmp_path):
    said: list[str] = []
    for code in (0, 3):
        words = ["sh", "-c", f"cat > told.json; echo before >&2; echo why >&2; exit {code}"]
        deliver("x", words, {"code": code}, said.append, cwd=tmp_path, stderr=subprocess.PIPE)
        assert read_json(tmp_path / "told.json") == {"code": code}
    assert said == ["x failed, exit code 3: why"]


def test_a_command_that_is_not_there_costs_a_line():
    said: list[str] = []
    deliver("x", ["/no/such/program"], {}, said.append)
    assert len(said) == 1
    assert said[0].startswith("x could not be run: ")


def agent_that_ends(folder, is_first_to_end):
    trials = SimpleNamespace(is_first_to_end=is_first_to_end, started=list)
    display = Display(sweep_of({"lr": LR}), "rates", 9, 1)
    return SimpleNamespace(trials=trials, progress=dict, display=display, runs_dir=folder)


def test_the_end_is_told_even_where_the_storage_is_away(tmp_path):
    def away():
        raise StorageInternalError

    tell(Ending("finished", "", ""), agent_that_ends(tmp_path, away), f"cat > {tmp_path}/told.json")
    assert read_json(tmp_path / "told.json")["text"] == "sweep rates finished; 0.00 trial-hours"


def test_an_end_that_another_agent_has_told_is_not_told_again_but_each_agents_own_pause_is(tmp_path):
    for state in ("paused", "failed", "finished"):
        tell(Ending(state, "", ""), agent_that_ends(tmp_path, lambda: False), f"touch {tmp_path}/{state}")
    assert {path.name for path in tmp_path.iterdir()} == {"paused", "failed"}


def test_the_alert_is_started_where_its_module_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweeps.local.notification.ALERT", ["/bin/sh", "-c", 'pwd > "$0"'])
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "environment.json", {"wandb": str(tmp_path / "where")})
    tell(Ending("paused", "", ""), agent_that_ends(tmp_path, bool), None)
    assert (tmp_path / "where").read_text().strip() == str(CHECKOUT)


@pytest.mark.slow
def test_the_end_of_a_sweep_is_told_once_with_all_that_there_is_to_say(stage):
    file = stage.write(method="grid", parameters={"lr": LR_GRID, "crashing": "0"})
    stage.run(file, TELL)
    [message] = told(stage)
    best = stage.trials()[2]
    assert message.pop("trial_hours") == sum(trial.user_attrs["seconds"] for trial in stage.trials()) / 3600
    assert message.pop("text").startswith(
        "sweep sweep finished; best val/loss 0.3333 by trial 2 (lr=0.001); 2 finished;"
    )
    assert message == {
        "sweep": "sweep",
        "state": "finished",
        "reason": "",
        "next": "python sweeps/final.py sweep",
        "metric": "val/loss",
        "best": {
            "trial": 2,
            "run_id": best.user_attrs["run_id"],
            "value": best.value,
            "epoch": 3,
            "settings": {"lr": 0.001, "crashing": "0"},
        },
        "trials": {"finished": 2, "stopped early": 0, "failed": 1, "running": 0, "paused": 0, "waiting": 0},
    }
    stage.run(file, TELL)
    assert len(told(stage)) == 1  # nothing has happened since
    stage.run(file, TELL, "--retry-failed")
    assert len(told(stage)) == 2


@pytest.mark.slow
def test_of_two_agents_of_one_sweep_one_tells_its_end(stage):
    file = stage.write(parameters={"epochs": 2, "seconds": 0.1})
    agents = [stage.start(file, "--count=4", TELL) for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0]
    assert [message["trials"]["finished"] for message in told(stage)] == [4]


@pytest.mark.slow
def test_a_pause_a_failure_and_a_death_are_told(stage):
    agent = stage.start(stage.write(parameters=SLOW), "--count=3", TELL)
    stage.wait_for("epoch", 1, epoch=2)
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 143
    stage.run(stage.write("bad", parameters={"crashing": "all", "silent": "all"}), "--count=9", TELL, code=1)
    full = {"yaml.safe_dump": dump_no_second}
    stage.run(stage.write("full", parameters=SLOW), "--count=3", "--workers=2", TELL, code=1, patches=full)
    bug = {"sweeps.local.agent.Agent.fill_slots": fail}
    stage.run(stage.write("bug"), "--count=3", TELL, code=1, patches=bug)
    paused, failed, halted, died = told(stage)
    assert (paused["state"], paused["reason"], paused["trials"]["paused"]) == ("paused", "", 1)
    assert paused["next"] == f"python sweeps/agent.py sweep.yaml --count=3 '{TELL}'"
    assert (failed["state"], failed["best"], failed["trials"]["failed"]) == ("failed", None, 3)
    assert failed["reason"].startswith("the first 3 trials failed")
    assert (halted["state"], halted["trials"]["paused"]) == ("paused", 2)
    assert halted["reason"] == "[Errno 28] No space left on device"
    assert "--on_end" not in halted["text"]  # which may hold a key, and goes to W&B
    assert (died["state"], died["reason"]) == ("failed", "a bug")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("exit 3", "--on_end failed, exit code 3"),
        ("no-such-program", "--on_end failed, exit code 127"),
        ("sleep 50 & wait", "--on_end had not ended after 0.5 seconds, and was killed"),
    ],
)
def test_a_command_that_fails_or_hangs_costs_a_line(stage, command, line):
    soon = {"sweeps.local.notification.SECONDS_TO_TELL": 0.5}
    started = time.monotonic()
    done = stage.run(stage.write(parameters={"epochs": 1}), "--count=1", f"--on_end={command}", patches=soon)
    assert line in done.output
    assert stage.states() == ["COMPLETE"]
    assert time.monotonic() - started < 30
    assert stage.processes() == []


@pytest.mark.slow
def test_an_alert_goes_to_wandb_where_the_trials_are_there(stage, site, server):
    address = f"{server.url}/team/cats/runs/a"
    file = stage.write(parameters={"epochs": 1, "wandb": address})
    stage.run(file, "--count=1", environment=site.variables)
    stage.run(file, "--count=2", environment=site.variables)
    run = server.runs["sweep-sweep"]
    assert (run.project, run.group, run.job_type, run.state) == ("cats", "sweep", "sweep", "finished")
    first, second = run.alerts
    assert (first["entityName"], first["projectName"], first["title"]) == ("team", "cats", "sweep sweep finished")
    assert first["text"].startswith("sweep sweep finished; best val/loss ")
    assert "2 finished" in second["text"]
    assert run.summary["trials"]["finished"] == 2
    assert not server.faults


@pytest.mark.slow
def test_an_alert_to_a_server_that_is_away_costs_a_line(stage, site, server):
    server.go_offline()
    file = stage.write(parameters={"epochs": 1, "wandb": f"{server.url}/team/cats/runs/a"})
    soon = {"sweeps.local.notification.SECONDS_TO_TELL": 3.0}
    done = stage.run(file, "--count=1", environment=site.variables, patches=soon)
    assert "the alert on W&B had not ended after 3 seconds, and was killed" in done.output
    wait_until(lambda: stage.processes() == [], "the client's own process sees that its program is gone")
