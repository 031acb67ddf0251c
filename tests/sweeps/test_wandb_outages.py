"""Runs whose W&B server goes away, for a while or for good."""

import shlex
import time

import pytest

from analysis.record import run_folder
from tests.wandb_site import server, site  # noqa: F401

pytestmark = pytest.mark.waits


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back_gets_everything(site, server):
    process = site.train("--run_id=a", "--epochs=100")
    site.wait_for_epoch("a", 2)
    server.go_offline()
    site.wait_for_epoch("a", 30)
    server.come_back()
    site.finish(process)
    run, rows = server.runs["a"], run_folder.read_metrics(site.runs / "a")
    assert [row["epoch"] for row in run.history] == [row["epoch"] for row in rows] == [*range(1, 101), 100]
    assert run.summary["state"] == "finished"
    assert run.state == "finished"
    assert any(artifact["committed"] and "best.pt" in artifact["files"] for artifact in run.artifacts)


@pytest.mark.slow
def test_a_server_that_never_comes_back_costs_a_later_upload(site, server, record_property):
    process = site.train("--run_id=a", "--epochs=40", WANDB_FINISH_TIMEOUT="3", WANDB_HTTP_TIMEOUT="2")
    site.wait_for_epoch("a", 2)
    server.go_offline()
    site.wait_for_epoch("a", 41)
    start = time.monotonic()
    output = site.finish(process)
    record_property("seconds", time.monotonic() - start)
    rows = run_folder.read_metrics(site.runs / "a")
    assert [row["epoch"] for row in rows] == [*range(1, 41), 40]
    assert run_folder.state(site.runs / "a") == "finished"
    assert len(server.runs["a"].history) < 41

    server.come_back()
    [line] = [line for line in output.splitlines() if "to upload the rest later: " in line]
    site.finish(site.start(*shlex.split(line.rpartition(": ")[2])))
    run = server.runs["a"]
    assert [row["epoch"] for row in run.history] == [row["epoch"] for row in rows]
    assert run.summary["state"] == "finished"
    assert run.exit_code == 0
    assert {row["panels/predictions"]["path"] for row in run.history if "panels/predictions" in row} <= run.files.keys()
