"""`wandb sweep`, `wandb agent` and `wandb.Api`, all of them real, against a double of the server."""

from pathlib import Path

import pytest
import torch
import yaml

from analysis.record import run_folder
from analysis.record.wandb_start import short
from data.files import read_json
from sweeps.local.sweep_file import OURS
from tests.forks import Fork
from tests.sweep_helpers import content
from tests.wandb_site import ACCELERATE_2, ROOT, SMALL, server, site, weights  # noqa: F401

pytestmark = pytest.mark.waits


@pytest.mark.slow
def test_wandb_sweep_takes_every_file_as_it_is_and_warns_of_our_own_keys_alone(site, server):
    # The command itself, which would take seconds to import for each of them.
    code = "import sys; from wandb.cli.cli import cli\nfor path in sys.argv[1:]:\n"
    code += " print('wandb', 'sweep', path, flush=True)\n cli(['sweep', path], standalone_mode=False)"
    own = {str(site.folder / f"{key}.yaml"): key for key in OURS}
    for path, key in own.items():
        Path(path).write_text(yaml.safe_dump(content(**{key: 3})))
    paths = [*sorted(map(str, (ROOT / "sweeps").glob("*.yaml"))), *own]
    first, *outputs = site.finish(site.start("python", "-c", code, *paths)).split("wandb sweep ")
    assert [output.splitlines()[0] for output in outputs] == paths
    for path, output, sweep in zip(paths, outputs, server.sweeps.values(), strict=True):
        assert "wandb agent team/" in output
        assert ("WARN" in first + output) == (f"'{own.get(path)}' was unexpected" in output) == (path in own)
        assert "ERROR" not in first + output
        assert sweep.config == yaml.safe_load(Path(path).read_text())  # no distribution was left for W&B to guess


@pytest.mark.slow
def test_two_agents_share_a_sweep_and_all_of_its_trials_arrives(site, server):
    learning_rates = [0.001, 0.01]
    path = site.sweep([{"lr": lr, "epochs": 3} for lr in learning_rates])
    agents = [site.agent(path), site.agent(path)]
    for agent in agents:
        site.finish(agent)
    assert sorted(run.config["lr"] for run in server.runs.values()) == learning_rates  # each of them once
    assert {run.agent for run in server.runs.values()} == server.agents.keys()
    for run in server.runs.values():
        folder = site.runs / run.name
        assert run.state == "finished"
        assert run.sweep == "sweep0"
        assert read_json(folder / "settings.json")["lr"] == run.config["lr"]
        address = read_json(folder / "environment.json")["wandb"]
        assert address.startswith("http")
        assert address.endswith(f"/project/runs/{run.name}")
        rows = run_folder.read_metrics(folder)
        assert [row["epoch"] for row in rows] == [1, 2, 3, 3]
        assert [row.items() & local.items() == local.items() for row, local in zip(run.history, rows, strict=True)]
        summary = read_json(folder / "summary.json")
        assert summary["state"] == "finished"
        assert run.summary.items() >= {key: value for key, value in summary.items() if value is not None}.items()
        pictures = {key: value for row in run.history for key, value in row.items() if "image-file" in str(value)}
        panels = {"panels/predictions", "panels/training_images"}
        assert pictures.keys() == panels | {"val/confusion_matrix", "val/mistakes", "val/reliability"}
        for picture in pictures.values():
            assert run.files[picture["path"]].startswith(b"\x89PNG")
        assert "model" not in {artifact["artifactTypeName"] for artifact in run.artifacts}  # no weights of a trial
        assert run.display_name == f"lr={short(run.config['lr'])} epochs=3"
        assert (run.job_type, run.group) == ("trial", run.sweep)
        assert run.config["environment"].keys() == {"data", "num_processes", "commit"}

    trials = site.trials(path)
    assert {trial.run_id: trial.settings["lr"] for trial in trials} == {
        name: run.config["lr"] for name, run in server.runs.items()
    }
    losses = {name: [row.get("val/loss", 99) for row in run.history] for name, run in server.runs.items()}
    assert [trial.value for trial in trials] == sorted(map(min, losses.values()))
    assert all(losses[trial.run_id][trial.best_epoch - 1] == trial.value for trial in trials)


@pytest.mark.slow
def test_the_values_of_a_sweep_win_on_every_rank(site, server):
    # They come by WANDB_SWEEP_PARAM_PATH alone. A rank that trained at another rate would send other gradients, and
    # the weights would not be those of one process: without dropout and batch norm, they are.
    common = {"epochs": 2, "optimizer": "sgd", "val_fraction": 0.2}
    agent = site.agent(site.sweep([{**common, "lr": 0.01}], ACCELERATE_2, ("--lr=0.5",)))
    words = [*SMALL, "--run_id=one", "--lr=0.01", "--tracking=off", f"--runs_dir={site.runs}"]
    alone = Fork("train", [*words, *(f"--{key}={common[key]}" for key in common)], site.folder / "one.log")
    assert alone.wait() == 0
    site.finish(agent)
    two = site.runs / "trial0"
    assert server.runs["trial0"].config["lr"] == read_json(two / "settings.json")["lr"] == 0.01
    assert read_json(two / "environment.json")["num_processes"] == 2
    one, two = weights(site.runs / "one"), weights(two)
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_agent_goes_on(site, server):
    diverging = {"optimizer": "sgd", "lr": 1e30, "epochs": 1}
    agent = site.agent(site.sweep([diverging, {"lr": "high"}, {"epochs": 1}]))
    output = site.finish(agent)
    diverged, refused, good = server.runs.values()
    assert diverged.state == "failed"
    assert diverged.exit_code == 1
    assert run_folder.state(site.runs / diverged.name) == diverged.summary["state"] == "failed"
    assert "lower --lr" in output
    assert "lr='high' is of type str, not float" in output
    assert refused.exit_code is None  # it never told W&B that it began
    assert good.state == "finished"
