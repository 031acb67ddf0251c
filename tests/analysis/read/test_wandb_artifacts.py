"""Which artifacts of a project nobody needs, and that these alone are deleted."""

import pytest

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
