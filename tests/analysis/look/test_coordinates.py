import numpy as np
import pytest
import torch
from torch import nn

from analysis.look.coordinate_figure import table
from analysis.look.coordinates import Coordinates, activations_of, check_coordinates, slope
from analysis.transfer import main
from data.errors import UserError
from models.parts.layers import SelfAttention
from models.registry import MODELS
from tests.models.test_objectives import build, make_batch

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = 0.25


def check(model, widths, num_seeds=2, num_steps=3, **settings):
    told = {"dataset": "digits", "batch_size": 32, "lr": 1e-3, "seed": 1, **settings}
    return check_coordinates(MODELS[model].settings_class(model=model, **told), widths, num_seeds, num_steps)


def test_sizes_keep_in_mup_and_do_not_in_the_standard_parametrization_of_the_mlp():
    found = check("mlp", [64, 128, 256, 512], batch_size=16, num_steps=2)
    assert not found["mup"].outside(TOLERANCE)
    assert found["standard"].outside(TOLERANCE)


def test_sizes_keep_in_mup_and_do_not_in_the_standard_parametrization_of_the_cnn():
    small = {"head_width": 32, "batch_size": 8, "depth": 2}
    found = check("cnn", [4, 8, 16, 32], num_steps=2, **small)
    assert not found["mup"].outside(TOLERANCE)
    assert found["standard"].outside(TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "widths", "settings"),
    [
        ("mlp", [64, 128, 256, 512], {"optimizer": "sgd", "lr": 1e-2}),
        ("mlp", [64, 128, 256, 512], {"optimizer": "adamw", "weight_decay": 0.1}),
        ("cnn", [8, 16, 32, 64], {"optimizer": "sgd", "lr": 1e-2, "batch_size": 8}),
        ("resnet18", [4, 8, 16, 32], {"depth": 1, "batch_size": 8}),
        ("nano_vit", [32, 64, 128, 256], {"patch_size": 8, "num_heads": 2, "ffn_width": 64, "depth": 2}),
    ],
)
def test_sizes_keep_in_mup_and_do_not_in_the_standard_parametrization(model, widths, settings):
    found = check(model, widths, **settings)
    assert not found["mup"].outside(TOLERANCE)
    assert found["standard"].outside(TOLERANCE)


def test_the_slope_is_the_power_and_seeds_count_by_their_geometric_mean():
    widths = [8, 16, 64]
    sizes = np.array([[3 * width**0.7 / 5, 3 * width**0.7 * 5] for width in widths])
    assert slope(widths, sizes) == pytest.approx(0.7)
    assert slope(widths, sizes * [[1], [np.nan], [1]]) == np.inf
    assert slope(widths, 0 * sizes) == np.inf


@pytest.mark.parametrize(
    ("activation", "change", "outside"),
    [
        ({}, {}, []),
        ({"b": 0.3}, {}, ["b"]),
        ({"b": -0.5}, {}, []),
        ({}, {"b": -0.3}, ["b"]),  # it learns less the wider it is
        ({}, {"a.scores": -0.5, "logits": -0.5}, []),
        ({}, {"a.scores": 0.3, "logits": 0.3}, ["a.scores", "logits"]),
    ],
)
def test_layers_fail_where_sizes_grow_and_hidden_ones_where_they_learn_less(activation, change, outside):
    widths, layers = [8, 32], ("a.scores", "b", "logits")
    sizes = [
        {layer: np.array([[[width ** slopes.get(layer, 0.0)]] for width in widths]) for layer in layers}
        for slopes in (activation, change)
    ]
    found = Coordinates(widths, *sizes)
    assert found.outside(0.25) == outside
    assert sum("!" in line for line in table({"mup": found}, 0.25)[3:]) == len(outside)


def test_layers_are_recorded_as_they_come_out_and_in_their_order():
    objective = build("nano_vit")
    images = make_batch(objective, 2).images
    found = activations_of(objective.net.eval(), images)
    modules = {name: m for name, m in objective.net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    scores = {f"{name}.scores" for name, m in objective.net.named_modules() if isinstance(m, SelfAttention)}
    assert found.keys() == modules.keys() | scores
    assert list(found)[-1] == "head.1"
    with torch.no_grad():
        assert torch.equal(found["head.1"], objective.net(images))
    attention = objective.net.layers[0].attention
    tokens = objective.net.tokens(images)
    torch.testing.assert_close(torch.softmax(found["layers.0.attention.scores"], -1), attention.weights(tokens))
    assert not any(module._forward_hooks for module in objective.net.modules())


@pytest.mark.parametrize(
    ("model", "widths", "message"),
    [
        ("vae", [8, 16], "--model=vae has no parametrisation: give mlp, cnn, resnet18, nano_vit"),
        ("mlp", [8, 8], "--widths 8: a slope takes two widths"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(model, widths, message):
    with pytest.raises(UserError, match=message):
        check(model, widths)


def test_the_program_prints_the_slopes_draws_a_picture_and_ends_by_the_verdict(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "runs"))
    picture = tmp_path / "runs" / "coords-mlp.png"
    words = [
        "coords",
        "--model",
        "mlp",
        "--dataset=digits",
        "--seeds=1",
        "--steps=1",
        "--lr",
        "1e-3",
    ]
    assert main([*words, "--widths", "64", "512"]) == 0
    assert "muP passes in all 3 layers" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    other = tmp_path / "other.png"
    assert main([*words, "--widths", "64", "512", "--tolerance=1e-9", f"--out={other}"]) == 1
    assert other.exists()


@pytest.mark.parametrize("words", [["coords", "--modell=mlp"], ["coords", "--widths", "0"], ["cords"], []])
def test_the_program_refuses_odd_words_with_one_line(words, capsys):
    assert main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
