"""Training that starts from the weights of another run of the same model."""

import os
import re
import sys
from dataclasses import replace

import pytest
import torch

from analysis.look.initial_weights import source_of, start_from
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json
from models.core.settings import Settings
from models.loading import build_objective
from models.registry import MODELS
from sweeps.local.launch import Run
from tests.models.test_objectives import SMALL
from tests.test_train import _fresh_process_state, epochs, run, run_with_stop  # noqa: F401
from tests.trained_runs import info_for, save_run

FROZEN = ("frozen", "logistic_probe", "vit_b16_frozen")


def new_model(model, classes=("cat", "dog", "frog"), **settings):
    fresh = {} if model in FROZEN else {"seed": 9}  # which a frozen network without pretrained weights is made by
    own = MODELS[model].settings_class(model=model, **{**SMALL[model], **fresh, "init_from": "a", **settings})
    return build_objective(own, replace(info_for(model), classes=classes))


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_starts_from_a_run_of_its_kind(model, tmp_path):
    folder, objective = save_run(tmp_path / "a", model), new_model(model)
    assert re.fullmatch(rf"training starts from \d+ tensors? of {folder}", start_from(folder, objective))
    kept = torch.load(folder / run_folder.BEST, weights_only=True)
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, kept[name]), name


@pytest.mark.parametrize("model", ["cnn", "nano_vit", "resnet18", "cvae_head", "ac_gan"])
def test_what_depends_on_the_classes_is_left_where_there_are_others(model, tmp_path):
    classes = tuple("abcde")
    folder, objective, fresh = save_run(tmp_path / "a", model), new_model(model, classes), new_model(model, classes)
    told = start_from(folder, objective)
    kept = torch.load(folder / run_folder.BEST, weights_only=True)
    left = [name for name, tensor in objective.state_dict().items() if tensor.shape != kept[name].shape]
    assert left
    named = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
    assert told.endswith(f", but for {named}, which depend on the classes")
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, (fresh.state_dict() if name in left else kept)[name]), name


@pytest.mark.parametrize(("model", "is_told"), [("cnn", True), ("ac_gan", True), ("vae", False)])
def test_as_many_classes_of_other_names_are_told_where_the_model_knows_any(model, is_told, tmp_path):
    told = start_from(save_run(tmp_path / "a", model), new_model(model, ("ape", "bee", "cow")))
    assert told.endswith("; its 3 classes have other names: each starts from the one in its place") == is_told


@pytest.mark.parametrize("first", ["gaussian", "gaussian_learned", "squared_error"])
def test_a_fixed_deviation_of_pixels_is_that_of_the_new_runs_settings(first, tmp_path):
    save_run(tmp_path / "a", "vae", likelihood=first, noise_deviation=0.3)
    objective = new_model("vae", likelihood="gaussian", noise_deviation=0.01)
    before = objective.likelihood.log_variance.item()
    start_from(tmp_path / "a", objective)
    assert objective.likelihood.log_variance.item() == before


def test_another_model_or_form_and_what_is_no_run_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    folder = save_run(tmp_path / "a", "mlp")
    with pytest.raises(UserError, match="--init_from=a has --model=mlp: give --model=mlp, or another run"):
        start_from(folder, new_model("cnn"))
    with pytest.raises(UserError, match=r"--init_from=a has another form, \S+ is \[\d.*\] and not \[\d.*\]: give the"):
        start_from(folder, new_model("mlp", width=24))
    with pytest.raises(UserError, match=r"--init_from=a has another form, \S+ is \[16, 32\] and not none"):
        start_from(folder, new_model("mlp", norm="batch"))
    assert source_of(Settings(init_from="a", runs_dir=str(tmp_path))) == folder
    assert source_of(Settings(init_from="a")) == folder
    assert source_of(Settings(init_from=str(folder))) == folder
    with pytest.raises(UserError, match="--init_from=b: .*b is no run"):
        source_of(Settings(init_from="b"))


@pytest.mark.parametrize("source", ["runs/a", "runs/sweeps/other/a", "runs/sweeps/s/a"])
@pytest.mark.parametrize("place", ["runs/sweeps/s", "runs/sweeps/s/final", "elsewhere"])  # of trials, finals, estimates
def test_a_run_of_a_sweep_finds_those_that_the_sweeps_program_would(place, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VISION_SWEEPS_RUNS", raising=False)
    folder = save_run(tmp_path / source, "mlp")
    told = [sys.executable, "-c", "import os; print(*(os.environ.get(name) for name in os.environ['NAMES'].split()))"]
    names = ("VISION_SWEEPS_RUNS", "VISION_SWEEPS_ALL_RUNS")
    trial = Run(told, "b", tmp_path / place, {}, {"NAMES": " ".join(names)})
    assert trial.process.wait() == 0
    for name, value in zip(names, trial.last_lines(1).split(), strict=True):
        monkeypatch.setenv(name, value)
    assert source_of(Settings(init_from="a", runs_dir=os.environ["VISION_SWEEPS_RUNS"])) == folder


def test_a_head_on_features_has_the_weights_of_the_run_and_the_standardisation_of_the_new_images(tmp_path):
    folder, objective = save_run(tmp_path / "a", "frozen", standardise=True), new_model("frozen", standardise=True)
    kept = torch.load(folder / run_folder.BEST, weights_only=True)
    torch.save({**kept, "net.mean": kept["net.mean"] + 5, "net.weight": kept["net.weight"] + 1}, folder / "best.pt")
    features = torch.randn(50, 1, objective.num_features) * 3 + 2
    objective.net.standardise(features)
    assert "2 tensors of " in start_from(folder, objective)
    assert torch.allclose(objective.net.mean, features.mean((0, 1)), atol=1e-5)
    assert torch.allclose(objective.net.deviation, features.std((0, 1), correction=0), atol=1e-5)
    assert torch.equal(objective.net.weight, kept["net.weight"] + 1)


@pytest.mark.parametrize(
    ("name", "value"), [("input_size", 48), ("seed", 9), ("interpolation", "bicubic"), ("standardise", True)]
)
def test_a_head_is_not_put_on_features_of_another_frozen_network(name, value, tmp_path):
    folder = save_run(tmp_path / "a", "frozen")
    with pytest.raises(UserError, match=f"--init_from=a has a head for other features: give --{name}="):
        start_from(folder, new_model("frozen", **{name: value}))


@pytest.mark.slow
def test_a_run_starts_where_another_has_ended_and_goes_on_without_it(tmp_path, monkeypatch, capsys):
    own = ("--init_from=a", "--lr=1e-9", "--epochs=2", "--ema_decay=0.5")
    assert run(tmp_path, "--run_id=a", "--lr=3e-3") == 0
    assert run_with_stop(monkeypatch, 20, tmp_path, "--run_id=b", *own) == 143
    summary = read_json(tmp_path / "a" / run_folder.SUMMARY)
    [first] = epochs(tmp_path / "b")
    assert first["val/loss"] == pytest.approx(summary["val/loss"], rel=1e-4)
    assert re.search(rf"training starts from \d+ tensors of {tmp_path / 'a'}\n", capsys.readouterr().out)
    noted = read_json(tmp_path / "b" / run_folder.ENVIRONMENT)["initial_weights"]
    assert noted == run_folder.weights_fingerprint(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "gone")
    assert run(tmp_path, "--run_id=b", *own) == 0
    assert read_json(tmp_path / "b" / run_folder.ENVIRONMENT)["initial_weights"] == noted
    assert run(tmp_path, "--run_id=c", *own) == 2
    assert "--init_from=a: " in capsys.readouterr().err
