"""`python -m analysis.report --publish` by the real client, against a double of the server."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.compare.comparison import compare
from analysis.compare.wandb_report import local_keys, markdown_cell, project_of, summary_text
from analysis.read.runs import read_runs
from analysis.record import run_folder
from data.errors import UserError
from data.files import write_json
from data.metrics import metric_named
from tests.run_folders import rows_of, write_run
from tests.wandb_server import API_KEY, ENTITY, Run, WandbServer

ROOT = Path(__file__).parents[3]
PROJECT = f"{ENTITY}/project"


@pytest.fixture
def server():
    server = WandbServer()
    for i in range(3):
        sweep, model = ("", "mlp") if i == 2 else ("abc", "cnn")
        run = Run(f"run{i}", "project", sweep, exit_code=0)
        run.config = {"model": model, "dataset": "digits", "lr": 10.0**-i, "optimizer": "adam" if i else "sgd"}
        run.summary = {"state": "finished", "val/loss": 1.0 + i, "epochs": 2}
        run.rows = {step: {"_step": step, **row} for step, row in enumerate(rows_of([2.0, 1.0 + i]))}
        run.rows[1] |= {"panels/predictions": {"_type": "image-file"}, "val/confusion_matrix": {"_type": "image-file"}}
        server.runs[run.name] = run
    yield server
    server.close()
    assert server.faults == []


def call(server, folder, module, commands):
    """Exit codes, output and errors of a program, called with one command line after the other in one process."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "WANDB_DIR": str(folder),
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": API_KEY,
        "OMP_NUM_THREADS": "1",
    }
    code = f"import json, sys; from {module} import main\n"
    code += "print([main(words) for words in json.loads(sys.argv[1])])"
    command = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *output, codes = done.stdout.splitlines()
    errors = [line for line in done.stderr.splitlines() if line.startswith("report: ")]
    assert "Traceback" not in done.stderr
    return json.loads(codes), output, errors


def publish(server, folder, *commands):
    """Exit codes, output and errors of `analysis.report --publish`."""
    return call(server, folder, "analysis.report", [["--publish", *words] for words in commands])


def panels_of(report):
    """Configurations of a report's panels by their type."""
    found = {}
    for block in report["spec"]["blocks"]:
        if block["type"] == "panel-grid":
            for panel in block["metadata"]["panelBankSectionConfig"]["panels"]:
                found.setdefault(panel["viewType"], []).append(panel["config"])
    return found


def runsets_of(report):
    grids = [block["metadata"] for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]
    return [runset for grid in grids for runset in grid["runSets"]]


@pytest.mark.slow
def test_runs_become_a_report_with_the_same_comparison(server, tmp_path):
    folder = write_run(tmp_path / "runs" / "mine", [1.0])  # a local one that was tracked online
    write_json(folder / run_folder.ENVIRONMENT, {"wandb": f"{server.url}/{PROJECT}/runs/mine"})
    commands = [
        ["--project", PROJECT],
        ["--project", PROJECT, "--sweep", "abc", "--model", "cnn"],
        ["--runs_dir", str(tmp_path / "runs")],
    ]
    codes, output, errors = publish(server, tmp_path, *commands, ["--project", f"{ENTITY}/nothing"])
    assert codes == [0, 0, 0, 2], errors
    assert [line.rpartition("--")[2] for line in output] == ["report1", "report2", "report3"]
    assert all(line.startswith(f"{server.url}/{PROJECT}/reports/") for line in output)
    assert len(errors) == 1
    whole, part, local = server.reports
    assert (whole["entityName"], whole["projectName"], whole["type"]) == (ENTITY, "project", "runs")

    assert local["projectName"] == "project"

    panels = panels_of(whole)
    curves = {config["chartTitle"]: (config["xAxis"], config["metrics"]) for config in panels["Run History Line Plot"]}
    assert curves["loss"] == ("epoch", ["train/classify/loss", "val/loss"])
    assert curves["accuracy"] == ("epoch", ["train/classify/accuracy", "val/accuracy"])
    [parallel] = panels["Parallel Coordinates Plot"]
    axes = [(column["accessor"], column.get("log")) for column in parallel["columns"]]
    assert ("config:lr.value", True) in axes
    assert axes[-1][0] == "summary:val/loss"
    assert [config["targetKey"] for config in panels["Parameter Importance"]] == ["val/loss"]
    assert panels["Run Comparer"] == [{"diffOnly": "split"}]
    keys = [config["mediaKeys"] for config in panels["Media Browser"]]
    assert keys == [["panels/predictions"], ["val/confusion_matrix"]]
    [scatter] = panels["Scatter Plot"]
    assert (scatter["xAxis"], scatter["yAxis"], scatter["xAxisLogScale"]) == (
        "config:lr.value",
        "summary:val/loss",
        True,
    )

    headings = [block["children"][0]["text"] for block in whole["spec"]["blocks"] if block["type"] == "heading"]
    assert headings == ["Curves", "Settings", "Differences", "Pictures"]
    [text] = [block["content"] for block in whole["spec"]["blocks"] if block["type"] == "markdown-block"]
    assert "3 runs, ranked by val/loss: less is better." in text
    assert "| run0 | 1.0000 | 1.0000 | finished |" in text

    for runset in runsets_of(whole):
        assert runset["project"]["name"] == "project"
        assert runset["sort"]["keys"] == [{"key": {"section": "summary", "name": "val/loss"}, "ascending": True}]
        assert "abc" not in json.dumps(runset["filters"])
    for runset in runsets_of(part):
        filters = json.dumps(runset["filters"])
        for key in ("sweep", "group", "model"):
            assert f'"name": "{key}' in filters
        assert '"value": "abc"' in filters
        assert '"value": "cnn"' in filters


@pytest.mark.slow
def test_a_project_without_its_entity_is_that_of_its_runs(server, tmp_path):
    codes, output, errors = publish(server, tmp_path, ["--project", "project"])
    assert (codes, errors) == ([0], [])
    assert output[-1].startswith(f"{server.url}/{PROJECT}/reports/")


@pytest.mark.slow
def test_what_keeps_a_report_from_being_published_is_one_line(server, tmp_path):
    server.go_offline()
    write_run(tmp_path / "runs" / "mine", [1.0])
    local = ["--runs_dir", str(tmp_path / "runs")]
    codes, _, errors = publish(server, tmp_path, ["--project", PROJECT], [*local], ["--project", "nonsense"])
    assert codes == [2, 2, 2]
    assert "cannot be read from W&B: no connection to 127.0.0.1" in errors[0]
    assert "none of these runs is on W&B" in errors[1]
    assert "nonsense" in errors[2]


@pytest.mark.slow
def test_a_run_on_wandb_has_the_same_best_value_in_the_terminal_and_the_report(server, tmp_path):
    run = server.runs["run0"]
    rows = rows_of([0.9, 0.5, 0.6], [0.7, 0.8, 0.85])
    run.rows = {step: {"_step": step, **row} for step, row in enumerate(rows)}
    run.summary |= {"val/loss": 0.5, "val/accuracy": 0.8, "best_epoch": 2}
    metric = {"name": "val/accuracy", "goal": "maximize"}
    server.add_sweep({"method": "random", "metric": metric, "parameters": {"lr": {"min": 0.1, "max": 1.0}}}, [])
    run.sweep = "sweep0"
    asked = ["--project", PROJECT, "--metric", "val/accuracy"]
    _, output, _ = call(server, tmp_path, "analysis.runs", [asked])
    [line] = [line for line in output if "run0" in line]
    assert " 85.00 % " in line
    path = tmp_path / "report.html"
    codes, _, errors = call(server, tmp_path, "analysis.report", [[*asked, "--sweep", "sweep0", "--out", str(path)]])
    assert codes == [0], errors
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.DOTALL)[1])
    assert [(run["value"], run["bestEpoch"]) for run in data["runs"] if run["name"] == "run0"] == [(0.85, 3)]


def comparison_of(runs_dir):
    return compare("runs", read_runs(runs_dir).records, metric_named("val/loss"))


def test_runs_of_several_projects_have_no_place_of_their_own(tmp_path):
    for name in ("a", "b"):
        folder = write_run(tmp_path / name, [1.0])
        address = f"https://wandb.ai/team/{name}/runs/{name}"
        write_json(folder / run_folder.ENVIRONMENT, {"wandb": address})
    with pytest.raises(UserError, match="these runs are in team/a and team/b; give one of them as --project"):
        project_of(comparison_of(tmp_path))


@pytest.mark.parametrize("address", ["https://", "https://wandb.ai/team/a", "http://[x/team/a/runs/a", "a", 5])
def test_a_damaged_address_is_none(tmp_path, address):
    folder = write_run(tmp_path / "a", [1.0])
    write_json(folder / run_folder.ENVIRONMENT, {"wandb": address})
    with pytest.raises(UserError, match="none of these runs is on W&B"):
        project_of(comparison_of(tmp_path))


def test_names_are_no_markup(tmp_path):
    write_run(tmp_path / "[x](y)|z", [1.0], lr=0.1, note="a")
    write_run(tmp_path / "plain", [2.0], lr=0.01, note="two\nlines")
    lines = summary_text(comparison_of(tmp_path)).splitlines()
    assert lines[4] == r"| \[x\](y)\|z | 1.0000 | finished | 0.1 | a |"
    assert lines[5].endswith("| two lines |")
    assert markdown_cell("---") == "---"


def test_pictures_have_the_names_that_the_run_logged_them_by(tmp_path):
    folder = write_run(tmp_path / "a", [1.0], test=True)
    (folder / run_folder.PANELS).mkdir()
    for name in ("predictions-0005.png", "confusion_matrix.png", "training_images.png"):
        (folder / run_folder.PANELS / name).touch()
    assert sorted(local_keys(read_runs(tmp_path).records[0])) == [
        *("panels/predictions", "panels/training_images"),
        "test/confusion_matrix",
    ]
