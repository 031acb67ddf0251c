"""A sweep over several models, under the real `wandb agent`, against a double of the server."""

import pytest

from data.files import read_json
from tests.wandb_site import server, site  # noqa: F401

pytestmark = pytest.mark.waits


@pytest.mark.slow
def test_each_run_of_a_sweep_over_models_takes_what_its_model_has_and_says_what_is_left_out(site, server):
    groups = {"mlp": {"width": 16}, "cnn": {"width": 4, "net": {"depth": 1}}, "rate": {"lr": 0.01}}
    common = {"epochs": 1, "limit_batches": 2, "pooling": "mean", **groups}  # as W&B hands groups over
    agent = site.agent(path := site.sweep([{"model": model, **common} for model in ("mlp", "cnn")]))
    output = site.finish(agent)
    mlp, cnn = (read_json(site.runs / name / "settings.json") for name in server.runs)
    assert (mlp["model"], mlp["width"], mlp["lr"], "pooling" in mlp) == ("mlp", 16, 0.01, False)
    assert (cnn["model"], cnn["width"], cnn["depth"], cnn["lr"], cnn["pooling"]) == ("cnn", 4, 1, 0.01, "mean")
    assert output.count("mlp has no pooling: what the sweep gives for other models is left out") == 1
    assert "cnn has no" not in output
    for run, settings in zip(server.runs.values(), (mlp, cnn), strict=True):
        assert run.state == "finished"
        assert run.config["rate"] == {"lr": 0.01}  # config.rate.lr, as in any sweep of W&B
        assert run.config["lr"] == 0.01
        assert run.config["width"] == settings["width"]
        assert run.config["environment"].get("not_applicable") == (["pooling"] if settings is mlp else None)
        assert run.display_name.startswith(f"model={settings['model']} epochs=1") == (settings is mlp)
        assert f"width={settings['width']}" in run.display_name
    for trial in site.trials(path):
        own = {"mlp": mlp, "cnn": cnn}[trial.settings["model"]]
        assert {key: trial.settings[key] for key in own if key in trial.settings} == {
            key: own[key] for key in own if key in trial.settings
        }
        assert not {"rate", "mlp", "cnn"} & trial.settings.keys()
        assert ("pooling" in trial.settings) == (own is cnn)
