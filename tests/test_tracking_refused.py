"""Runs with W&B's real client whose server goes on to answer, and refuses a part of what it is told."""

import shlex

import pytest

from analysis.record import run_folder
from data.files import read_json
from tests.wandb_site import server, site  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.waits]
REFUSED = 401  # as when credentials have expired, the run was deleted, or a proxy is in the way


@pytest.fixture(autouse=True)
def _leave_time_for_faults(monkeypatch):
    monkeypatch.setenv("SECONDS_A_STEP", "0.01")


def under_way(site):  # noqa: F811
    """A training of 30 epochs whose first ones are on the server, which then refuses rows."""
    training = site.train("--run_id=a", "--epochs=30")
    site.wait_for_epoch("a", 4)
    site.server.refused["file_stream"] = REFUSED
    return training


def epochs_of(rows):
    return [row["epoch"] for row in rows]


def assert_whole(site):  # noqa: F811
    run, own = site.server.run("a"), run_folder.read_metrics(site.runs / "a")
    assert epochs_of(run.history) == epochs_of(own) == [*range(1, 31), 30]
    assert (run.state, run.summary["state"], run.num_repeated) == ("finished", "finished", 0)


def test_rows_that_were_refused_for_a_moment_are_sent_at_the_end(site, server):  # noqa: F811
    training = under_way(site)
    site.wait_for_epoch("a", 20)
    del server.refused["file_stream"]  # W&B's client sends no row again, once it was refused one
    assert "what it lacked of figures is there now" in site.finish(training)
    assert_whole(site)


def test_a_run_whose_rows_are_refused_to_its_end_says_why_and_how_to_upload_it_later(site, server):  # noqa: F811
    output = site.finish(under_way(site))
    [line] = [line for line in output.splitlines() if "to upload the rest later: " in line]
    assert "Command '[" not in line
    assert len(server.run("a").history) < 30
    server.refused.clear()
    site.finish(site.start(*shlex.split(line.rpartition(": ")[2])))
    assert_whole(site)


def test_weights_that_are_refused_cost_nothing_else(site, server):  # noqa: F811
    server.refused["CreateArtifact"] = 403  # as beyond the storage that is paid for
    output = site.finish(site.train("--run_id=a", "--epochs=1", "--test=True"))
    run, folder = server.run("a"), site.runs / "a"
    told = run.summary["state"], run.summary["test/loss"]
    assert told == ("finished", read_json(folder / run_folder.SUMMARY)["test/loss"])
    assert (run.state, len(run.history)) == ("finished", 2)
    [line] = [line for line in output.splitlines() if "W&B: " in line and "403" in line]
    assert str(folder / run_folder.BEST) in line
    assert "client has failed" not in output
    assert "could not be told" not in output
