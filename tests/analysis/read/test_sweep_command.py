"""What is known of a sweep's runs by the command of its file."""

import pytest

from analysis.read.best_recipe import best_recipe
from analysis.read.storage import url_of_file
from analysis.read.sweep_command import model_of_command, settings_of_command, told_in_all
from analysis.read.sweep_content import entries_for
from analysis.read.sweeps import read_sweep
from data.errors import UserError
from sweeps.local.contract import checked
from sweeps.local.sweep_file import parse_sweep
from sweeps.local.trials import Trials
from tests.sweep_helpers import LR, ROOT, content

TOLD = ["--model=mlp", "--width=16", "--dataset", "digits", "--lr=1e-3", "--compile"]
TYPED = {"model": "mlp", "width": 16, "dataset": "digits", "lr": 0.001, "compile": True}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "command",
    [
        ["${env}", "${interpreter}", "${program}", *TOLD, "${args}"],
        ["${env}", "${interpreter}", "${program}", "${args}", *TOLD],
        ["python", "train.py", *TOLD, "${args_no_hyphens}"],
        ["accelerate", "launch", "--num_processes", 2, "./train.py", *TOLD, "${args}"],
        ["python", str(ROOT / "train.py"), *TOLD, "${args_json_file}"],
    ],
)
def test_the_settings_of_a_command_are_those_after_the_program_in_their_types(command):
    assert settings_of_command({"program": "train.py", "command": command}) == TYPED


def test_a_sweep_read_elsewhere_is_known_by_the_name_of_its_program(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    own = {"program": "train.py", "command": ["python", "${program}", *TOLD]}
    assert settings_of_command(own) == TYPED
    (tmp_path / "train.py").write_text("")  # another one, of which nothing is known
    assert settings_of_command(own) == {}


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"program": "train.py"},
        {"program": "train.py", "command": ["python", "train.py", "${args}"]},
        {"program": "other.py", "command": ["python", "other.py", "--lr=1", "x"]},
        {"command": ["python", "x" * 5000, "--lr=1"]},
    ],
)
def test_of_another_program_and_of_the_usual_command_there_are_none(own):
    assert settings_of_command(own) == {}
    assert model_of_command(own) == "cnn"
    assert told_in_all(own, {"lr": 1.0}) == {"lr": 1.0}


def test_variables_of_the_environment_are_filled_in_or_named(monkeypatch):
    own = {"program": "train.py", "command": ["python", "train.py", "--data_dir=${envvar:IMAGES}"]}
    monkeypatch.setenv("IMAGES", "/images")
    assert settings_of_command(own) == {"data_dir": "/images"}
    monkeypatch.delenv("IMAGES")
    with pytest.raises(UserError, match="the environment has no IMAGES: export it"):
        settings_of_command(own)


def test_what_the_sweep_tells_counts_more_than_its_command_as_in_a_run():
    own = {"program": "train.py", "command": ["python", "train.py", *TOLD]}
    assert told_in_all(own, {"width": 8, "epochs": 3}) == {**TYPED, "width": 8, "epochs": 3}


@pytest.mark.parametrize(("words", "model"), [(["--widht=16"], ""), (["--width=16"], "vq_vae_of_none"), (["x"], "")])
def test_words_that_are_no_settings_are_named(words, model):
    with pytest.raises(UserError, match="widht|vq_vae_of_none|'x' is not understood"):
        settings_of_command({"program": "train.py", "command": ["python", "train.py", *words]}, model)


def test_of_groups_that_are_named_for_models_that_of_the_commands_model_is_told():
    groups = {name: {"parameters": {"beta": {"min": 0.1, "max": high}}} for name, high in (("vae", 1.0), ("cvae", 2.0))}
    own = {"program": "train.py", "command": ["python", "train.py", "--model=cvae"], "parameters": groups}
    assert entries_for(own, {}) == {"beta": {"min": 0.1, "max": 2.0}}


def test_the_trials_of_a_sweep_have_the_settings_of_its_command_and_so_has_the_recipe_of_the_best(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    command = ["${env}", "${interpreter}", "${program}", *TOLD, "--optimizer=sgd", "--train_fraction=0.2", "${args}"]
    sweep = checked(parse_sweep(content(command=command, parameters={"momentum": {"min": 0.1, "max": 0.9}, "lr": LR})))
    folder = tmp_path / "sweeps" / "s"
    folder.mkdir(parents=True)
    trials = Trials(url_of_file(folder / "study.db"), sweep, "s", 1)
    claim = trials.take(1)
    claim.trial.report(0.5, 4)
    trials.note(claim, {"best": 0.5, "best_epoch": 4})
    [trial] = read_sweep("s").trials
    assert trial.settings == {**TYPED, "optimizer": "sgd", "train_fraction": 0.2, **claim.settings}
    assert claim.settings.keys() == {"lr", "momentum", "best_by"}
    lines = [line for line in best_recipe(read_sweep("s")).splitlines() if not line.startswith("#")]
    searched = [f"{name}: {claim.settings[name]}" for name in ("lr", "momentum")]
    others = ["model: mlp", "width: 16", "dataset: digits", "compile: true", "optimizer: sgd", "epochs: 4"]
    assert sorted(lines) == sorted([*searched, *others])


@pytest.mark.parametrize("word", ["--batch_size=${envvar:SIZE}", "--config={dir}/own.yaml"])
def test_a_sweep_is_read_whose_command_names_what_is_not_here_any_more(word, tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    monkeypatch.setenv("SIZE", "8")
    (tmp_path / "own.yaml").write_text("batch_size: 8")
    (tmp_path / "sweeps" / "s").mkdir(parents=True)
    command = ["python", "${program}", word.replace("{dir}", str(tmp_path)), "${args}"]
    sweep = checked(parse_sweep(content(command=command)))
    claim = Trials(url_of_file(tmp_path / "sweeps" / "s" / "study.db"), sweep, "s", 1).take(1)
    assert read_sweep("s").trials[0].settings == {"batch_size": 8, **claim.settings}
    monkeypatch.delenv("SIZE")
    (tmp_path / "own.yaml").unlink()
    assert read_sweep("s").trials[0].settings == claim.settings
