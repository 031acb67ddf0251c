"""Trials of a W&B sweep whose machine is taken away: they go on elsewhere, and W&B's history has no gap."""

import signal

import psutil
import pytest

from analysis.record import run_folder
from tests.wandb_site import Site, server, trial_processes, wait_until  # noqa: F401

pytestmark = pytest.mark.waits


@pytest.fixture
def boxes(tmp_path, server):
    sites = [Site(tmp_path / name, server) for name in ("one", "two")]
    yield sites
    for site in sites:
        site.end()


def training_of(agent) -> psutil.Process:
    wait_until(lambda: trial_processes(agent), "the trial has started")
    return trial_processes(agent)[0]


def under_way(site, num_epochs):
    """A sweep whose one trial travels, its agent, and its training, which has come to the third epoch."""
    sweep = site.sweep([{"epochs": num_epochs}], arguments=("${args}", "--checkpoint_artifact=on"))
    agent = site.agent(sweep)
    site.wait_for_epoch("trial0", 3)
    return sweep, agent, training_of(agent)


def clients_of(training) -> list[psutil.Process]:
    clients = [child for child in training.children(recursive=True) if child.name().startswith("wandb")]
    assert clients
    return clients


def assert_whole(server, site, num_epochs):
    [run] = server.runs.values()
    rows = run_folder.read_metrics(site.runs / run.name)
    assert [row["epoch"] for row in rows] == [*range(1, num_epochs + 1), num_epochs]
    assert [row["epoch"] for row in run.history] == [row["epoch"] for row in rows]
    assert [row["val/loss"] for row in run.history[:-1]] == [row["val/loss"] for row in rows[:-1]]
    assert run.state == "finished"
    assert run.summary["state"] == "finished"


@pytest.mark.slow
def test_a_preempted_trial_goes_on_from_its_checkpoint_on_another_machine(boxes, server):
    one, two = boxes
    sweep, agent, training = under_way(one, 40)
    for process in (training, agent):  # as a scheduler does it
        process.send_signal(signal.SIGTERM)
    training.wait(60)
    agent.wait(60)
    run = server.runs["trial0"]
    assert run.state == "preempted"
    assert run.exit_code == 128 + signal.SIGTERM
    assert run_folder.state(one.runs / "trial0") == "stopped"
    num_rows = len(run_folder.read_metrics(one.runs / "trial0"))
    [artifact] = [each for each in run.artifacts if each["artifactTypeName"] == "checkpoint"]
    assert {"checkpoint.pt", "metrics.jsonl", "settings.json"} < artifact["files"].keys()

    output = two.finish(two.agent(sweep))
    assert "goes on from the checkpoint that another machine has left there" in output
    assert 3 <= num_rows < 40
    assert_whole(server, two, 40)
    assert run.num_preempted == 1
    assert [each for each in run.artifacts if each["artifactTypeName"] == "checkpoint"] == []  # nobody needs it now


@pytest.mark.slow
def test_a_trial_that_is_preempted_before_it_began_is_given_back(boxes, server):
    one, _ = boxes
    sweep = one.sweep([{"epochs": 2}])
    agent = one.agent(sweep)
    training = training_of(agent)
    wait_until(lambda: any("torch" in each.path for each in training.memory_maps()), "it imports torch")
    training.send_signal(signal.SIGTERM)
    training.wait(60)
    wait_until(lambda: server.runs["trial0"].num_preempted == 1, "W&B hears of it")
    one.finish(agent)
    assert_whole(server, one, 2)


@pytest.mark.slow
def test_a_trial_is_given_back_with_its_checkpoint_though_its_client_died_of_the_same_signal(boxes, server):
    one, two = boxes
    sweep, agent, training = under_way(one, 40)
    for process in (*clients_of(training), training, psutil.Process(agent.pid)):
        process.send_signal(signal.SIGTERM)
    training.wait(60)
    assert server.runs["trial0"].num_preempted == 1
    assert "another machine has left there" in two.finish(two.agent(sweep))
    assert_whole(server, two, 40)


@pytest.mark.slow
def test_w_and_b_hears_all_of_a_run_that_finished_after_its_client_had_died(boxes, server):
    one, _ = boxes
    _, agent, training = under_way(one, 16)
    for process in clients_of(training):
        process.kill()
    output = one.finish(agent)
    assert "what it lacked of figures is there now" in output
    assert "Traceback" not in output
    assert_whole(server, one, 16)
    assert next(iter(server.runs.values())).exit_code == 0
