"""Sweeps in groups and of several models: what of their values a run is told, as W&B's agent hands them over."""

import json

import pytest
import yaml

from analysis.record.resume import resolve, resolve_with_checkpoint
from data.errors import UserError
from models.cnn import CnnSettings
from models.setting_groups import entries, settings_for

SWEEP = "WANDB_SWEEP_PARAM_PATH"


@pytest.fixture
def under(tmp_path):
    """The arguments and the environment of a run that W&B's agent starts."""

    def start(**values):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump({key: {"value": value} for key, value in values.items()}))
        return [f"--{key}={value}" for key, value in values.items()], {SWEEP: str(tmp_path / "a.yaml")}

    return start


def test_the_leaves_of_groups_are_settings_at_any_depth(under):
    settings = resolve(*under(model="mlp", net={"width": 64, "more": {"depth": 4}}, optimizer={"lr": 0.02}))
    assert (settings.width, settings.depth, settings.lr, settings.optimizer) == (64, 4, 0.02, "adam")
    assert resolve(*under(optimizer={"optimizer": "sgd"}, net={"model": "mlp"})).optimizer == "sgd"


def test_a_group_that_is_named_for_a_model_is_told_to_that_model_alone(under):
    values = {"mlp": {"width": 64, "lr": 0.1}, "cnn": {"width": 16, "pooling": "mean"}}
    mlp, cnn = resolve(*under(model="mlp", **values)), resolve(*under(**values))  # cnn is the default
    assert (mlp.model, mlp.width, mlp.lr) == ("mlp", 64, 0.1)
    assert (cnn.model, cnn.width, cnn.lr, cnn.pooling) == ("cnn", 16, CnnSettings.lr, "mean")
    chosen = resolve(["--model=mlp", *under(**values)[0]], under(**values)[1])
    assert (chosen.model, chosen.width) == ("mlp", 64)


@pytest.mark.parametrize(
    "values", [{"lr": 0.1, "a": {"lr": 0.2}}, {"lr": 0.1, "cnn": {"lr": 0.2}}, {"a": {"b": {"lr": 1}, "lr": 1}}]
)
def test_a_setting_that_stands_in_two_places_is_refused(under, values):
    with pytest.raises(UserError, match=r"^lr is given twice, as \S+ and \S+: .*leave one out$"):
        resolve(*under(**values))


def test_a_setting_of_another_model_is_left_out_in_one_line_and_one_of_none_is_refused(under, capsys):
    arguments, environment = under(model="mlp", convolutions="vgg", num_heads=4, width=32)
    assert resolve(arguments, environment).width == 32
    assert resolve_with_checkpoint(arguments, environment).width == 32
    [line] = capsys.readouterr().out.splitlines()
    assert line == "mlp has no convolutions, num_heads: what the sweep gives for other models is left out"
    with pytest.raises(UserError, match="widht=3 is not a setting of --model=mlp, did you mean --width"):
        resolve(*under(model="mlp", widht=3))
    with pytest.raises(UserError, match="convolutions=vgg is not a setting of --model=mlp, it belongs to cnn"):
        resolve(["--model=mlp", "--convolutions=vgg"], {})


def test_a_group_takes_nothing_from_the_command_line_but_what_the_agent_wrote_there(under):
    arguments, environment = under(model="mlp", optimizer={"lr": 0.2})
    settings = resolve(["--optimizer=sgd", *arguments, f"--optimizer={json.dumps({'lr': 0.2})}"], environment)
    assert (settings.optimizer, settings.lr) == ("sgd", 0.2)
    with pytest.raises(UserError, match="mpl_lr=0.2 is not a setting"):
        resolve(*under(model="mlp", mpl={"mpl_lr": 0.2}, nothing={}))


def test_entries_of_a_sweep_file_are_those_of_its_groups():
    lr = {"min": 0.1, "max": 1.0}
    assert list(entries({"lr": lr, "a": {"parameters": {"b": {"parameters": {"c": lr}}}}})) == [
        (("lr",), lr),
        (("a", "b", "c"), lr),
    ]
    for group, message in (
        ({"parameters": {}}, "parameter a: the group holds none"),
        ({"parameters": 3}, "parameter a: the group holds none"),
        ({"parameters": {"lr": lr}, "min": 1}, "parameter a: a group has parameters: alone, and no min"),
    ):
        with pytest.raises(UserError, match=message):
            list(entries({"a": group}))
    assert settings_for("cnn", {}) == {}
