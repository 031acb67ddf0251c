"""Runs and sweeps read back from a double of W&B's server."""

import datetime
import math

import pytest

from analysis.read.runs import RunList, RunRecord
from tests.wandb_site import add_run, server, site  # noqa: F401


@pytest.mark.slow
@pytest.mark.parametrize(("goal", "best"), [("maximize", ("high", 0.9, 2)), ("minimize", ("low", 0.1, 1))])
def test_runs_are_ranked_by_their_best_finite_value(site, server, goal, best):
    path = server.add_sweep({"method": "grid", "metric": {"name": "val/accuracy", "goal": goal}}, [])
    add_run(server, "low", [0.1, "NaN", 0.3], lr=0.1)
    add_run(server, "high", [0.5, 0.9, 0.8, "Infinity", "-Infinity"], lr=0.2)
    add_run(server, "diverged", ["NaN"])
    add_run(server, "none", [])
    trials = site.trials(path)
    assert {trial.run_id for trial in trials} == {"low", "high"}
    assert (trials[0].run_id, trials[0].value, trials[0].best_epoch) == best
    assert {trial.run_id: trial.settings for trial in trials} == {"low": {"lr": 0.1}, "high": {"lr": 0.2}}
    assert {trial.state for trial in trials} == {"COMPLETE"}
    assert len(set(trials)) == 2  # they can be keys


@pytest.mark.slow
def test_many_runs_come_in_pages(site, server):
    path = server.add_sweep({"method": "grid", "metric": {"name": "val/accuracy", "goal": "maximize"}}, [])
    for i in range(25):
        add_run(server, f"run{i}", [i / 25])
    assert [trial.run_id for trial in site.trials(path)] == [f"run{i}" for i in reversed(range(25))]
    assert server.asked["/"] == 1  # to see whether it answers: a thousand looks would meet its limits


@pytest.mark.slow
def test_a_sweep_that_cannot_be_read_is_said_in_one_line(site, server):
    path = server.add_sweep({"method": "grid"}, [])
    unknown, unranked = site.read("team/project/none", path)
    assert unknown.endswith(": give the entity/project/id that W&B shows")
    assert unranked == f"sweep {path} names no metric to rank its runs by: give one that does"
    no_key = [f"sweep {path} cannot be read from W&B: no credentials; `wandb login` gives them"]
    assert site.read(path, WANDB_API_KEY="") == no_key
    server.go_offline()
    assert site.read(path) == [f"sweep {path} cannot be read from W&B: no connection to 127.0.0.1"]


@pytest.mark.slow
def test_a_projects_runs_are_read_as_those_of_a_folder(site, server):
    settings = {"model": "cnn", "dataset": "digits", "lr": 0.1}
    for i in range(2):
        add_run(server, f"run{i}", [0.5, "NaN", 0.7], **settings)
    server.run("run0").created = "2026-11-02T12:00:00Z"
    server.run("run1").sweep, server.run("run1").group, server.run("run1").tags = "", "lr", ["x"]
    server.run("run1").summary = {"state": "stopped", "val/accuracy": 0.7, "_step": 3}
    server.run("run1").rows[0]["panels/samples"] = {"_type": "images/separated"}
    server.run("foreign").config = {"layers": 3}
    server.run("texts").config = {"model": "gpt", "dataset": ["c4", "pile"]}
    code = "from analysis.read.runs import *\nlist = read_runs(project='team/project')\n"
    code += "print(list)\nprint([history(record) for record in list.records])\n"
    code += "print(curves(list.records[:1], 'val/accuracy'))"
    *_, text, histories, drawn = site.finish(site.start("python", "-c", code)).splitlines()
    names = {"RunList": RunList, "RunRecord": RunRecord, "datetime": datetime, "nan": math.nan}
    records, skipped = eval(text, names)
    assert skipped == ["foreign", "texts"]
    assert [record.run_id for record in records] == ["run0", "run1"]  # the newest first
    assert [record.sweep for record in records] == ["sweep0", "lr"]
    assert [record.state for record in records] == ["finished", "stopped"]
    assert records[0].created == datetime.datetime(2026, 11, 2, 12, tzinfo=datetime.UTC)
    assert (records[1].settings, records[1].tags) == (settings, ("x",))
    assert records[1].summary == {"state": "stopped", "val/accuracy": 0.7}
    assert records[1].source.endswith("/team/project/runs/run1")
    [_, rows] = eval(histories, names)
    assert rows[0] == {"epoch": 1, "lr": 0.1, "val/accuracy": 0.5}
    assert math.isnan(rows[1]["val/accuracy"])
    assert len(rows) == 4
    assert drawn == "[[(1, 0.5), (3, 0.7)]]"


@pytest.mark.slow
def test_a_projects_sweeps_are_read_as_those_of_a_folder(site, server):
    parameters = {"lr": {"min": 0.1, "max": 1.0}, "model": {"value": "cnn"}}
    metric = {"name": "val/accuracy", "goal": "maximize"}
    server.add_sweep({"method": "bayes", "metric": metric, "parameters": parameters}, [])
    server.add_sweep({"method": "grid"}, [])  # which ranks nothing
    for i, (accuracy, state) in enumerate([(0.6, "finished"), (0.8, "stopped"), ("NaN", "failed")]):
        add_run(server, f"run{i}", [accuracy], model="cnn", dataset="digits", lr=0.1 + i)
        server.run(f"run{i}").created = f"2026-11-0{3 - i}T12:00:00Z"
        server.run(f"run{i}").summary = {"state": state, "val/accuracy": accuracy, "best_epoch": 2}
    listing = site.finish(site.start("python", "-m", "analysis.runs", "--sweeps", "--project=team/project"))
    assert "1 sweep; 1 skipped: no sweep that ranks its runs, a broken one or a copy (sweep1)" in listing
    [row] = [line for line in listing.splitlines() if "sweep0" in line]
    assert row.split()[:7] == ["sweep0", "bayes", "val/accuracy", "3", "1", "1", "1"]  # one each ended, stopped, failed
    assert " 80.00 % " in row
    assert " lr=1.1 " in row
    out = site.folder / "report.html"
    arguments = ("--project=team/project", "--sweep=sweep0", f"--out={out}")
    site.finish(site.start("python", "-m", "analysis.report", *arguments))
    assert "val/accuracy" in out.read_text()
