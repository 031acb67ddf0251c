"""A file of settings: a recipe, or the settings of another run."""

import re

import pytest

from analysis.record import run_folder
from data.errors import UserError
from tests.models.core.test_settings import ACCELERATE, parse, save_run, sweep  # noqa: F401


def test_a_file_of_settings_gives_way_to_the_command_line_and_to_the_sweep(tmp_path, sweep):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: mlp\nlr: 0.5\nepochs: 7\nbatch_size: 32\nmixed_precision: bf16\n")
    settings = parse(f"--config={path}", "--epochs=3", **sweep(batch_size=64), **{ACCELERATE: "fp16"})
    assert (settings.model, settings.lr, settings.epochs, settings.batch_size) == ("mlp", 0.5, 3, 64)
    assert settings.mixed_precision == "bf16"


def test_the_settings_of_a_run_are_those_of_another_run(save_run, tmp_path):
    save_run("first", "--model=mlp", "--width=48", "--lr=0.25")
    settings = parse(f"--config={tmp_path / 'runs' / 'first' / run_folder.SETTINGS}", "--seed=2")
    assert (settings.width, settings.lr, settings.seed) == (48, 0.25, 2)
    assert settings.run_id == ""
    assert settings.runs_dir == "runs"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("- lr", "does not hold `setting: value`"),
        ("parameters: {lr: {value: 0.1}}", "is a sweep, which python sweeps/agent.py"),
        ("lr: 0.1\nlr: 0.2", "twice"),
        ("modle: cnn", "--modle=cnn is not a setting"),
        ("lr: 1e-3", "write 1.0e-3"),
        ("lr: [0.1]", "is of type list"),
    ],
)
def test_a_file_that_holds_no_settings_is_told(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as told:
        parse(f"--config={path}")
    assert "\n" not in str(told.value)


def test_a_run_is_resumed_with_its_recipe_and_refuses_another(save_run, tmp_path):
    save_run("first", "--model=mlp", "--lr=0.25")
    runs_dir = f"--runs_dir={tmp_path / 'runs'}"
    (tmp_path / "same.yaml").write_text("model: mlp\nlr: 0.25")
    assert parse(runs_dir, "--run_id=first", f"--config={tmp_path / 'same.yaml'}").lr == 0.25
    (tmp_path / "other.yaml").write_text("lr: 0.5")
    with pytest.raises(UserError, match="lr=0.5 differs from the 0.25 of run 'first'"):
        parse(runs_dir, "--run_id=first", f"--config={tmp_path / 'other.yaml'}")
