"""How runs under `wandb agent` end that are stopped, preempted or killed."""

import signal
import time

import psutil
import pytest

from analysis.record import run_folder
from tests.wandb_server import WandbServer
from tests.wandb_site import (  # noqa: F401
    ACCELERATE_1,
    ACCELERATE_2,
    LONG,
    PYTHON,
    Site,
    seconds_until_all_end,
    server,
    site,
    trial_processes,
    wait_until,
    weights,
)

pytestmark = pytest.mark.waits


@pytest.fixture(autouse=True)
def _leave_the_processor_to_others(monkeypatch):
    monkeypatch.setenv("SECONDS_A_STEP", "0.01")


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
    server.requeues = False  # else the agent that goes on would go on with its run
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
