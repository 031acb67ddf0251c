"""Which artifacts of a project nobody needs, and that these alone are deleted."""

from types import SimpleNamespace

import pytest

from analysis.read.records import RunRecord
from analysis.read.wandb_artifacts import Owner, reason_of
from analysis.read.wandb_runs import path_of
from analysis.record.wandb_artifacts import log_model
from tests.run_folders import START
from tests.wandb_site import add_run, server, site  # noqa: F401

COMMAND = ("python", "-m", "analysis.artifacts", "--project=team/project", "--prune")


def add_artifact(server, run, kind, aliases=()):
    """Log an artifact as the client does it, the latest of its name."""
    name = f"{kind}-{run}"
    asked = {"artifactTypeName": kind, "artifactCollectionName": name, "runName": run, "projectName": "project"}
    asked |= {"aliases": [{"alias": alias} for alias in aliases], "digest": "0", "metadata": "{}"}
    answer = server.create_artifact({"input": asked})
    identity = answer["createArtifact"]["artifact"]["id"]
    server.upload("artifact", identity, "weights.pt", bytes(3_000_000))
    server.upload("artifact", identity, "manifest", b"{}")
    server.commit_artifact({"artifactID": identity})


@pytest.mark.slow
def test_what_nobody_needs_is_listed_and_deleted_only_when_asked(site, server):
    metric = {"name": "val/accuracy", "goal": "maximize"}
    server.add_sweep({"method": "grid", "metric": metric, "parameters": {"lr": {"values": [0.1]}}}, [])
    add_run(server, "best", [0.5, 0.9], model="mlp", dataset="digits")
    add_run(server, "worse", [0.5], model="mlp", dataset="digits")
    add_run(server, "marked", [0.4], model="mlp", dataset="digits")
    add_run(server, "under_way", [0.1], model="mlp", dataset="digits")
    for name, run in server.runs.items():
        run.project = "project"
        best = max(run.history, key=lambda row: row.get("val/accuracy", 0))
        run.summary = {"val/accuracy": best["val/accuracy"], "best_epoch": best["epoch"]}
        add_artifact(server, name, "model", ["best"])
    add_artifact(server, "marked", "model", ["paper"])
    server.runs["under_way"].exit_code = None
    for name in ("best", "under_way", "under_way"):
        add_artifact(server, name, "checkpoint")
    add_artifact(server, "final-best-seed1", "model", ["best"])
    server.runs["final-best-seed1"].project = "project"
    add_run(server, "offline", [0.8], model="mlp", dataset="digits")  # a trial of a sweep that W&B has not
    offline = server.runs["offline"]
    offline.project, offline.sweep, offline.group, offline.job_type = "project", "", "lr", "trial"
    add_artifact(server, "offline", "model", ["best"])

    listing = site.finish(site.start(*COMMAND))
    assert sum(len(run.artifacts) for run in server.runs.values()) == 10
    for name in ("checkpoint-best:v0", "checkpoint-under_way:v0", "model-worse:v0", "model-marked:v0"):
        assert name in listing
    assert "4 artifacts of 12.0 MB can go" in listing
    site.finish(site.start(*COMMAND, "--yes"))
    left = {(each["artifactCollectionName"], each["version"]) for run in server.runs.values() for each in run.artifacts}
    assert left == {
        ("model-best", 0),
        ("model-marked", 1),
        ("checkpoint-under_way", 1),
        ("model-final-best-seed1", 0),
        ("model-under_way", 0),
        ("model-offline", 0),
    }
    assert "0 artifacts of 0.0 MB can go" in site.finish(site.start(*COMMAND))


def test_the_alias_that_a_run_gives_for_its_sweep_is_no_mark_of_the_users(tmp_path):
    given = []
    run = SimpleNamespace(id="a", offline=True, log_artifact=lambda artifact, aliases: given.extend(aliases))
    log_model(run, tmp_path / "best.pt", "my sweep: lr", {})
    replaced, marked = (SimpleNamespace(aliases=[*given[1:], *marks]) for marks in ([], ["paper"]))
    owner = Owner("finished", "my sweep: lr")
    assert reason_of("model", replaced, owner, is_loser=False) == "a later one is there"
    assert reason_of("model", marked, owner, is_loser=True) == ""
    latest = SimpleNamespace(aliases=given)
    assert reason_of("model", latest, owner, is_loser=True) == "a trial of my sweep: lr, not among its best"


@pytest.mark.parametrize("server", ["https://wandb.ai", "https://example.org:8443/tools/wandb"])
def test_a_run_is_found_by_its_page_wherever_its_server_lies(server):
    assert path_of(f"{server}/my%20team/project/runs/abc") == "my team/project/abc"
    record = RunRecord("abc", f"{server}/team/project/runs/abc", "", "finished", START, "cnn", "digits", (), {}, {}, {})
    assert record.address == record.source
