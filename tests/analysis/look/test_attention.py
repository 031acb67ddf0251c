import os
from dataclasses import asdict

import numpy as np
import pytest
import timm
import torch
from matplotlib import colormaps
from PIL import Image
from torch.nn import functional as F

from analysis.look import attention
from analysis.look.attention import (
    HasAttention,
    class_attention,
    find_run,
    load_run,
    overlay,
    rollout,
    tile_side,
)
from analysis.look.panels import GAP, HEADING_HEIGHT, draw_table
from analysis.record import run_folder
from data.dataset import Batch, DatasetInfo
from data.datasets import load_splits
from data.errors import UserError
from models.core import checkpoint
from models.parts.layers import SelfAttention
from models.parts.timm_attention import missing_attention, timm_attention_weights
from models.registry import MODELS
from train import build_objective

INFO = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, {}, "")
NANO_VIT = {"model": "nano_vit", "patch_size": 4, "width": 32, "depth": 2, "num_heads": 4, "ffn_width": 64}

# A class token alone, with another, with registers; norms of queries and keys; rotary and relative positions.
VITS = [
    ("vit_tiny_patch16_224", {"img_size": 64}, 1),
    ("test_vit", {}, 1),
    ("deit3_small_patch16_224", {"img_size": 64}, 1),
    ("deit_tiny_distilled_patch16_224", {"img_size": 64}, 2),
    ("vit_tiny_patch16_224", {"img_size": 64, "qk_norm": True, "scale_attn_norm": True}, 1),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, 5),
    ("vit_small_patch16_dinov3", {"img_size": 64}, 5),
    ("eva02_tiny_patch14_224", {"img_size": 56}, 1),
    ("beit_base_patch16_224", {"img_size": 64, "depth": 2}, 1),
    ("vit_relpos_base_patch16_clsgap_224", {"img_size": 64, "depth": 2}, 1),
]


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def make_vit(name, settings):
    """A ViT whose weights are so large that no attention is uniform, with two images."""
    vit = timm.create_model(name, pretrained=False, **settings).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return vit, torch.randn(2, *vit.default_cfg["input_size"][:1], *[settings.get("img_size", 160)] * 2)


def nano_vit(**settings):
    settings_class, build = MODELS["nano_vit"]
    return build(settings_class(**{**NANO_VIT, **settings}), INFO).eval()


@torch.no_grad()
@pytest.mark.parametrize(("name", "settings", "num_prefix_tokens"), VITS)
def test_a_timm_vits_weights_are_those_of_its_fused_kernels(name, settings, num_prefix_tokens, monkeypatch):
    vit, images = make_vit(name, settings)
    calls = []  # values and result of each kernel of an ordinary forward pass
    fused = F.scaled_dot_product_attention

    def watched(q, k, v, **options):
        calls.append((v, fused(q, k, v, **options)))
        return calls[-1][1]

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", watched)
        logits = vit(images)
    weights = timm_attention_weights(vit, images)
    assert len(weights) == len(calls) == len(vit.blocks)
    for ours, (v, mixed) in zip(weights, calls, strict=True):
        torch.testing.assert_close(ours.sum(dim=-1), torch.ones(ours.shape[:3]))
        torch.testing.assert_close(ours @ v, mixed, rtol=1e-4, atol=1e-4)
        assert ours.max() > 2 / ours.shape[-1]  # else any weights would agree
    assert vit.num_prefix_tokens == num_prefix_tokens
    assert class_attention(weights, num_prefix_tokens).shape[3] ** 2 == weights[0].shape[-1] - num_prefix_tokens
    assert torch.equal(vit(images), logits)  # the fused kernels are back, and no hook is left


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"qk_norm": True, "scale_attn_norm": True}])
def test_weights_times_values_projected_is_what_timms_attention_gives(settings):
    vit, images = make_vit("vit_tiny_patch16_224", {"img_size": 64, **settings})
    seen = []
    hooks = [
        block.attn.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out))) for block in vit.blocks
    ]
    vit(images)
    for hook in hooks:
        hook.remove()
    for block, weights, (x, out) in zip(vit.blocks, timm_attention_weights(vit, images), seen, strict=True):
        assert block.attn.fused_attn
        values = block.attn.qkv(x)[:, :, -192:]
        heads = [weights[:, head] @ values[:, :, 64 * head : 64 * (head + 1)] for head in range(3)]
        merged = block.attn.norm(torch.cat(heads, dim=2))
        torch.testing.assert_close(block.attn.proj(merged), out, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("resnet18", {}, "ResNet is no plain transformer"),
        ("swin_tiny_patch4_window7_224", {}, "SwinTransformer is no plain transformer"),
        ("test_vit2", {}, "VisionTransformer has no class token"),
        ("xcit_nano_12_p16_224", {}, "Xcit is made of XCA"),
        ("vit_dwee_patch16_reg1_gap_256", {}, "made of DiffAttention"),
        ("vit_small_patch16_18x2_224", {}, "made of ParallelThingsBlock"),
        ("mixer_s32_224", {}, "made of MixerBlock"),
    ],
)
def test_a_timm_model_without_such_attention_says_in_one_line_what_is_missing(name, settings, named):
    net = timm.create_model(name, pretrained=False, **settings)
    with pytest.raises(UserError, match=named) as error:
        timm_attention_weights(net, torch.zeros(1, 3, 224, 224))
    assert "\n" not in str(error.value)
    assert missing_attention(net) in str(error.value)


@torch.no_grad()
def test_timm_weights_are_float32_and_the_same_under_autocast():
    vit, images = make_vit("test_vit", {})
    expected = timm_attention_weights(vit, images)
    with torch.autocast("cpu", torch.bfloat16):
        weights = timm_attention_weights(vit, images)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, expected, strict=True))
    assert all(w.dtype == torch.float32 for w in timm_attention_weights(vit.bfloat16(), images))


def test_a_failing_forward_pass_leaves_the_fused_kernels_on():
    vit, images = make_vit("test_vit", {})
    with pytest.raises(RuntimeError):
        timm_attention_weights(vit, images[:, :2])
    assert all(block.attn.fused_attn for block in vit.blocks)
    assert not any(block.attn.attn_drop._forward_pre_hooks for block in vit.blocks)


@torch.no_grad()
def test_own_weights_under_bf16_are_a_float32_softmax():
    layer, x = SelfAttention(dim=24, num_heads=3, dropout=0.5).eval(), torch.randn(2, 7, 24) * 8
    with torch.autocast("cpu", torch.bfloat16):
        weights = layer.weights(x)
        q, k, _ = layer.split_heads(x)
    assert q.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    scores = q.double() @ k.double().transpose(-2, -1) / np.sqrt(8)
    torch.testing.assert_close(weights.double(), scores.softmax(dim=-1), rtol=1e-4, atol=1e-6)


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
        torch.testing.assert_close(black[:, row, column], 0.6 * colour, rtol=0, atol=0.01)
        torch.testing.assert_close(white[:, row, column], 0.6 * colour + 0.4, rtol=0, atol=0.01)
    steps = (black[:, :, 1:] - black[:, :, :-1]).abs().max()
    assert steps < 0.06  # smooth, where two squares would differ by half of the colours' range
    red = overlay(torch.tensor([0.9, 0.0, 0.0])[:, None, None].expand(-1, 8, 8), attention_map)
    torch.testing.assert_close(red - overlay(torch.zeros(3, 8, 8), attention_map), torch.full((3, 8, 8), 0.4 * 0.3))


def test_an_overlay_of_uniform_attention_is_dark_throughout():
    shown = overlay(torch.zeros(3, 8, 8), torch.full((4, 4), 1 / 16))
    assert shown.isfinite().all()
    assert shown.max() < 0.02


def test_nano_vit_has_attention_and_others_do_not():
    small = {"mlp": {"width": 8}, "cnn": {"width": 8}}
    has = {
        name: isinstance(build(settings_class(**small.get(name, {})), INFO).net, HasAttention)
        for name, (settings_class, build) in MODELS.items()
        if name in ("mlp", "cnn", "resnet18", "nano_vit", "patch_lstm")
    }
    assert [name for name, value in has.items() if value] == ["nano_vit"]


@torch.no_grad()
@pytest.mark.parametrize("num_images", [12, 3])
def test_the_panel_shows_each_image_then_its_layers_and_rollout(num_images):
    objective = nano_vit()
    pictures, labels = torch.rand(num_images, 3, 32, 32), torch.arange(num_images) % 10
    batch = Batch(torch.randn(num_images, 3, 32, 32), labels)
    panels = objective.panels(batch, pictures)
    panel, num_shown = panels["attention"], min(num_images, 8)
    assert panel.columns == 1 + 2 + 1
    assert panel.images.shape == (num_shown * 4, 3, 192, 192)
    rows = panel.images.unflatten(0, (num_shown, 4))
    assert torch.equal(rows[:, 0, :, ::6, ::6], pictures[:num_shown])
    assert panel.captions[::4] == panels["predictions"].captions[:num_shown]
    weights = objective.net.attention_weights(batch.images)
    for i in range(num_shown):
        mean = weights[1][i, :, 0, 1:].mean(dim=0).reshape(8, 8)
        torch.testing.assert_close(rows[i, 2], overlay(rows[i, 0], mean), rtol=0, atol=0.02)
        assert panel.captions[4 * i + 2] == f"layer 2, peak {mean.max() / mean.mean():.1f}x"
        torch.testing.assert_close(rows[i, 3], overlay(rows[i, 0], rollout(weights, 1)[i]), rtol=0, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert objective.panels(batch, pictures)["attention"].images.isfinite().all()


def test_a_network_without_attention_has_no_such_panel():
    objective = MODELS["cnn"][1](MODELS["cnn"][0](width=8), INFO).eval()
    panels = objective.panels(Batch(torch.randn(2, 3, 32, 32), torch.arange(2)), torch.rand(2, 3, 32, 32))
    assert panels.keys() == {"predictions"}


@torch.no_grad()
def test_a_compiled_vit_gives_the_same_weights():
    vit, images = make_vit("test_vit", {"depth": 2})
    expected = timm_attention_weights(vit, images)
    vit.compile(backend="eager")
    vit(images)
    for ours, theirs in zip(timm_attention_weights(vit, images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("image_size", "side"), [(28, 196), (32, 192), (64, 192), (192, 192), (224, 224)])
def test_tiles_are_large_enough_for_smooth_maps_in_whole_pixels(image_size, side):
    assert tile_side(image_size) == side


def test_a_table_has_its_images_in_place_and_names_around_them():
    tiles = torch.zeros(2, 3, 3, 160, 160)
    tiles[1, 2, 0] = 1  # red
    picture = draw_table(tiles, ("a", "b", "c"), ("one\nlong name", "two"), [("x", "y", "z")] * 2)
    pixels = np.asarray(picture)
    red = np.argwhere((pixels == (255, 0, 0)).all(axis=2))
    assert len(red) == 160 * 160
    margin = picture.width - GAP - 3 * (160 + GAP)
    assert red.min(axis=0).tolist() == [HEADING_HEIGHT + GAP + 160 + GAP + 16, margin + GAP + 2 * (160 + GAP)]
    assert (pixels[:HEADING_HEIGHT, margin:] < 128).any()
    assert (pixels[HEADING_HEIGHT:, :margin] < 128).any()
    assert (pixels[:, margin : margin + GAP] == 255).all()  # no name runs into an image


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """Runs as train.py leaves them, but untrained."""
    folder = tmp_path_factory.mktemp("runs")
    for run_id, settings in {
        "vit": NANO_VIT,
        "sweeps/s/no_val": {**NANO_VIT, "val_fraction": 0.0},
        "cnn": {"model": "cnn", "width": 8},
        "fresh": NANO_VIT,
    }.items():
        home = folder / run_id
        (home / run_folder.PANELS).mkdir(parents=True)
        settings = MODELS[settings["model"]][0](
            **settings, dataset="digits", run_id=home.name, runs_dir=str(home.parent)
        )
        run_folder.write_json(home / run_folder.SETTINGS, asdict(settings))
        if run_id != "fresh":
            info = DatasetInfo("digits", 32, tuple("0123456789"), (0.0,) * 3, (1.0,) * 3, {}, "")
            checkpoint.save(home / run_folder.BEST, build_objective(settings, info).state_dict())
    return folder


def draw(*arguments):
    return attention.main([str(argument) for argument in arguments])


def test_the_command_draws_the_first_images_of_the_validation_split(runs_dir, capsys, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(runs_dir))
    assert draw("vit") == 0
    path = runs_dir / "vit" / "panels" / "attention.png"
    assert capsys.readouterr().out == f"{path}\n"
    width, height = Image.open(path).size
    assert height == HEADING_HEIGHT + GAP + 8 * (192 + 16 + GAP)
    assert width > GAP + 4 * (192 + GAP)


def test_the_command_draws_every_head_of_images_and_files(runs_dir, tmp_path, capsys):
    Image.new("RGB", (90, 60), "orange").save(tmp_path / "fruit.png")
    out = tmp_path / "new" / "a.png"
    assert draw(runs_dir / "vit", "--images", 3, tmp_path / "fruit.png", "--heads", "--out", out) == 0
    paths = [out, *(out.with_name(f"a-heads-{i}.png") for i in (1, 2))]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    heights = [Image.open(path).size[1] for path in paths]
    assert heights == [HEADING_HEIGHT + GAP + num * (192 + 16 + GAP) for num in (2, 5, 5)]


@pytest.mark.parametrize(("run_id", "split"), [("vit", "val"), ("sweeps/s/no_val", "test")])
def test_numbers_are_indices_of_the_validation_split_or_else_of_the_test_split(run_id, split, runs_dir):
    run = load_run(find_run(str(runs_dir / run_id)))
    _, splits = load_splits(
        "digits",
        "",
        image_size=0,
        train_fraction=1.0,
        val_fraction=run.settings.val_fraction,
        data_seed=3407,
        normalisation="channel",
        max_corrupt_images=0,
    )
    examples = attention.choose_images(run, ["5", "0"])
    expected = splits[split].images[[5, 0]]
    assert torch.equal((examples.pictures[:, :, ::6, ::6] * 255).round(), expected.float())
    assert examples.classes == [str(label) for label in splits[split].labels[[5, 0]].tolist()]
    assert examples.names == [f"{split} 5", f"{split} 0"]


def test_a_file_is_seen_as_the_same_image_of_the_split_would_be(runs_dir, tmp_path):
    run = load_run(runs_dir / "vit")
    Image.fromarray(run.splits["val"].images[4].permute(1, 2, 0).numpy()).save(tmp_path / "four.png")
    examples = attention.choose_images(run, ["4", str(tmp_path / "four.png")])
    torch.testing.assert_close(examples.images[1], examples.images[0])
    assert examples.classes[1] == ""


def test_a_files_central_square_is_shown_in_its_own_resolution(runs_dir, tmp_path):
    pixels = np.zeros((192, 400, 3), dtype=np.uint8)
    pixels[:, 104:296] = np.random.RandomState(0).randint(1, 256, (192, 192, 3))
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    examples = attention.choose_images(load_run(runs_dir / "vit"), [str(tmp_path / "wide.png")])
    np.testing.assert_array_equal((examples.pictures[0] * 255).round().permute(1, 2, 0).numpy(), pixels[:, 104:296])
    assert examples.images.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere is no run"),
        (["fresh"], "fresh has no weights yet: best.pt"),
        (["cnn"], "cnn has no attention: nano_vit and timm's ViTs do"),
        (["vit", "--images", "144"], "--images=144: the val split has 144 images, 0 to 143"),
        (["vit", "--images", "nothing.png"], "--images=nothing.png: there is no such file"),
        (["vit", "--images", __file__], "no image"),
        (["vit", "--out", "a.jpg"], "--out=a.jpg: give a file name that ends in .png"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(arguments, named, runs_dir, capsys, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(runs_dir))
    assert draw(*arguments) == 2
    out, err = capsys.readouterr()
    assert named in err
    assert err.startswith("attention: ")
    assert err.count("\n") == 1
    assert out == ""


def test_a_run_whose_data_has_changed_is_refused(runs_dir, tmp_path, capsys):
    folder = tmp_path / "vit"
    folder.mkdir()
    for name in (run_folder.SETTINGS, run_folder.BEST):
        os.link(runs_dir / "vit" / name, folder / name)
    run_folder.write_json(folder / run_folder.ENVIRONMENT, {"data": "0123456789abcdef"})
    assert draw(folder) == 2
    assert "0123456789abcdef" in capsys.readouterr().err
