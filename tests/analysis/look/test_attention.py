"""Maps of attention beside independent computations, and the panel of them."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from analysis.look.attention import attention_panel, class_attention, overlay, rollout, tile_side
from analysis.look.closer import draw_panels
from analysis.look.panels import GAP
from data.dataset import Batch, DatasetInfo, Split
from data.loader import Loader
from models.core.abilities import HasAttention
from models.registry import MODELS

INFO = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, {}, "")
NANO_VIT = {"model": "nano_vit", "patch_size": 4, "width": 32, "depth": 2, "num_heads": 4, "ffn_width": 64}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def nano_vit(**settings):
    model = MODELS["nano_vit"]
    return model.build(model.settings_class(**{**NANO_VIT, **settings}), INFO).eval()


def test_the_class_tokens_row_becomes_a_map_row_by_row():
    weights = torch.zeros(2, 3, 4 + 6, 4 + 6)[:, :, : 2 + 4, : 2 + 4]  # two prefix tokens, 2 x 2 patches
    weights[:, :, 0] = torch.tensor([9.0, 9.0, 1.0, 2.0, 3.0, 4.0])
    weights[1, 2, 0] *= 10
    maps = class_attention([weights, 2 * weights], 2)
    assert maps.shape == (2, 2, 3, 2, 2)
    assert maps[0, 0, 0].tolist() == [[1, 2], [3, 4]]
    assert maps[1, 1, 2].tolist() == [[20, 40], [60, 80]]


def test_rollout_of_two_layers_by_hand():
    heads1 = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [0.0, 1.0]]])
    heads2 = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    # Means [[3/4, 1/4], [1/4, 3/4]] and [[1/2, 1/2], [1, 0]]; with half of the identity [[7/8, 1/8], [1/8, 7/8]] and
    # [[3/4, 1/4], [1/2, 1/2]]; the class token's row of the upper times the lower: 3/4 x 1/8 + 1/4 x 7/8 on the patch.
    assert rollout([heads1[None], heads2[None]], 1).tolist() == [[[5 / 16]]]


def test_rollout_is_the_product_of_all_layers():
    weights = [torch.rand(2, 3, 11, 11).softmax(dim=-1) for _ in range(4)]
    expected = []
    for i in range(2):
        product = np.eye(11)
        for layer in weights:
            mixed = layer[i].double().numpy().mean(axis=0) + np.eye(11)
            product = mixed / mixed.sum(axis=1, keepdims=True) @ product
        expected.append(product[0, 2:].reshape(3, 3))
    np.testing.assert_allclose(rollout(weights, 2).numpy(), np.stack(expected), rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(rollout(weights, 2).numpy(), np.stack(expected), rtol=1e-5)


def test_an_overlay_runs_from_the_least_to_the_greatest_weight_and_keeps_the_picture():
    attention_map = torch.tensor([[0.01, 0.02], [0.03, 0.05]])
    black, white = (overlay(torch.full((3, 40, 60), grey), attention_map) for grey in (0.0, 1.0))
    inferno = colormaps["inferno"]
    corners = {(0, 0): 0.0, (0, -1): 0.25, (-1, 0): 0.5, (-1, -1): 1.0}
    for (row, column), scaled in corners.items():
        colour = torch.tensor(inferno(scaled)[:3], dtype=torch.float32)
        torch.testing.assert_close(black[:, row, column], 0.7 * colour, rtol=0, atol=0.01)
        torch.testing.assert_close(white[:, row, column], 0.7 * colour + 0.15, rtol=0, atol=0.01)
    steps = (black[:, :, 1:] - black[:, :, :-1]).abs().max()
    assert steps < 0.06  # smooth, where two squares would differ by half of the colours' range
    assert white[:, 0, 0].mean() < black[:, -1, -1].mean() / 2  # white with the least weight, black with the greatest
    red = overlay(torch.tensor([0.9, 0.0, 0.0])[:, None, None].expand(-1, 8, 8), attention_map)
    torch.testing.assert_close(red - overlay(torch.zeros(3, 8, 8), attention_map), torch.full((3, 8, 8), 0.15 * 0.3))


def test_an_overlay_of_uniform_attention_is_dark_throughout():
    shown = overlay(torch.zeros(3, 8, 8), torch.full((4, 4), 1 / 16))
    assert shown.isfinite().all()
    assert shown.max() < 0.02


def test_nano_vit_has_attention_and_others_do_not():
    small = {"mlp": {"width": 8}, "cnn": {"width": 8}}
    has = {
        name: isinstance(MODELS[name].build(MODELS[name].settings_class(**small.get(name, {})), INFO).net, HasAttention)
        for name in ("mlp", "cnn", "resnet18", "nano_vit", "patch_lstm")
    }
    assert [name for name, value in has.items() if value] == ["nano_vit"]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("num_images", [12, 3])
def test_the_panel_shows_each_image_then_its_layers_and_rollout(num_images):
    objective = nano_vit()
    pictures, labels = torch.rand(num_images, 3, 32, 32), torch.arange(num_images) % 10
    batch = Batch(torch.randn(num_images, 3, 32, 32), labels)
    captions, num_shown = objective.panels(batch, pictures)["predictions"].captions, min(num_images, 8)
    shown = batch.images[:8], pictures[:8], captions[:8]
    panel = attention_panel(objective.net, *shown)
    assert panel.columns == 1 + 2 + 1
    assert panel.images.shape == (num_shown * 4, 3, 192, 192)
    rows = panel.images.unflatten(0, (num_shown, 4))
    assert torch.equal(rows[:, 0, :, ::6, ::6], pictures[:num_shown])
    assert panel.captions[::4] == captions[:num_shown]
    weights = objective.net.attention_weights(batch.images)
    for i in range(num_shown):
        mean = weights[1][i, :, 0, 1:].mean(dim=0).reshape(8, 8)
        torch.testing.assert_close(rows[i, 2], overlay(rows[i, 0], mean), rtol=0, atol=0.02)
        assert panel.captions[4 * i + 2] == f"layer 2, peak {mean.max() / mean.mean():.1f}x"
        torch.testing.assert_close(rows[i, 3], overlay(rows[i, 0], rollout(weights, 1)[i]), rtol=0, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention_panel(objective.net, *shown).images.isfinite().all()


def loader(num_images):
    images = torch.randint(256, (num_images, 3, 32, 32), dtype=torch.uint8)
    return Loader(Split(images, torch.arange(num_images) % 10), INFO, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize(("num_images", "num_shown"), [(12, 8), (3, 3)])
def test_the_panel_is_drawn_in_training_for_a_few_images(num_images, num_shown, tmp_path):
    paths = draw_panels(nano_vit(), loader(num_images), tmp_path, epoch=5)
    assert {name: path.name for name, path in paths.items()} == {
        "predictions": "predictions-0005.png",
        "attention": "attention-0005.png",
    }
    with Image.open(paths["attention"]) as picture:
        assert picture.size == (GAP + 4 * (192 + GAP), GAP + num_shown * (192 + 16 + GAP))


def test_a_network_without_attention_has_no_such_panel(tmp_path):
    objective = MODELS["cnn"].build(MODELS["cnn"].settings_class(width=8), INFO).eval()
    assert draw_panels(objective, loader(2), tmp_path, epoch=5).keys() == {"predictions"}


@pytest.mark.parametrize(("image_size", "side"), [(28, 196), (32, 192), (64, 192), (192, 192), (224, 224)])
def test_tiles_are_large_enough_for_smooth_maps_in_whole_pixels(image_size, side):
    assert tile_side(image_size) == side
