"""The recipe of a run: its settings without the circumstances, and the command that tells them."""

import shlex
from dataclasses import asdict, replace

import pytest

from analysis.read.recipe import command_of, default_settings, differing_settings, model_and_dataset, recipe_of
from analysis.record.resume import resolve
from data.errors import UserError
from models.core.settings import CIRCUMSTANCES


def test_a_recipe_has_no_word_of_where_and_how_a_run_was_carried_out():
    settings = {"model": "cnn", "lr": 0.1, "weights": "a file", "runs_dir": "runs", "tags": "x", "feature_dir": "there"}
    assert recipe_of(settings) == {"model": "cnn", "lr": 0.1, "weights": "a file"}


def test_a_run_that_lacks_a_setting_differs_in_nothing_by_that():
    assert differing_settings([{"lr": 1, "later": 2}, {"lr": 1}]) == []
    assert differing_settings([{"lr": 1, "later": 2}, {"lr": 2}, {"lr": 2, "tags": "x"}, {"tags": "y"}]) == ["lr"]


def test_a_run_that_was_told_no_model_has_the_default_one():
    assert model_and_dataset({"lr": 0.1}) == ("cnn", "cifar10")
    assert model_and_dataset({"model": "vae", "dataset": "faces"}) == ("vae", "faces")


def test_a_model_that_is_no_more_has_no_defaults():
    with pytest.raises(UserError, match="model='gone' is no more: take the commit that the run was made with"):
        default_settings("gone")


@pytest.mark.parametrize(
    "told",
    [
        [],
        ["--dataset=folder", "--data_dir=my photos"],
        ["--lr=3e-5", "--mixed_precision=bf16", "--tags=a b", "--test=True", "--seed=7"],
    ],
)
def test_the_command_of_a_run_gives_its_settings(told):
    settings = resolve(["--model=mlp", "--width=32", *told], {})
    python, program, *words = shlex.split(command_of(asdict(settings)))
    assert (python, program) == ("python", "train.py")
    place = {key: getattr(settings, key) for key in CIRCUMSTANCES}
    assert replace(resolve(words, {}), **place) == settings
    assert resolve(words, {}).data_dir == settings.data_dir
    assert f"--seed={settings.seed}" in words
