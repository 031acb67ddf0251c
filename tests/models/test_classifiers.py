import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from data.dataset import Batch, DatasetInfo
from data.errors import UserError
from models.core.objective import count_parameters
from models.loading import build_objective
from models.nano_vit import EncoderLayer, NanoVit, NanoVitSettings
from models.parts.classification import Classification, ClassifierSettings
from models.parts.labelling import ONE_CLASS
from models.parts.layers import PatchEmbedding, SelfAttention
from models.patch_lstm import PatchLstm, PatchLstmSettings
from models.registry import MODELS
from models.resolve import parse, validate

BEST = Path(__file__).parents[2] / "sweeps" / "best"

INFO = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, {}, "")
CLASSIFIERS = ("mlp", "cnn", "resnet18", "nano_vit", "patch_lstm")


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
    np.random.seed(0)


def build(name, info=INFO, **settings):
    return MODELS[name].build(MODELS[name].settings_class(model=name, **settings), info)


def classify_logits(logits, labels, **settings):
    """A classifier whose images are its logits, with a batch of them."""
    objective = Classification(nn.Flatten(), ClassifierSettings(**settings), INFO)
    return objective, Batch(logits[:, :, None, None].clone(), labels)


def test_balanced_class_weights_are_those_of_scikit_learn_and_weigh_the_training_loss_alone():
    counts = (90, 9, 1, 0, 5, 5, 5, 5, 5, 5)
    classes = np.flatnonzero(counts)
    expected = compute_class_weight("balanced", classes=classes, y=np.repeat(range(10), counts))
    info = replace(INFO, class_counts=counts)
    weights = ONE_CLASS.balanced_weights(info)
    torch.testing.assert_close(weights[classes], torch.from_numpy(expected).float())
    assert weights[3] == 0
    logits, labels = torch.randn(6, 10), torch.tensor([0, 0, 0, 1, 2, 9])
    plain, weighted = (
        Classification(nn.Flatten(), ClassifierSettings(class_weights=kind), info) for kind in ("none", "balanced")
    )
    batch = Batch(logits[:, :, None, None], labels)
    share = weights[labels]
    losses = -logits.log_softmax(1)[torch.arange(6), labels]
    torch.testing.assert_close(weighted(batch, "classify")["loss"], (losses * share).mean())
    torch.testing.assert_close(plain(batch, "classify")["loss"], losses.mean())
    assert torch.equal(weighted.evaluate(batch)["loss"], plain.evaluate(batch)["loss"])
    assert weighted.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "settings", "num_parameters"),
    [
        ("mlp", {}, 1_707_274),
        ("cnn", {}, 1_147_914),
        ("resnet18", {}, 11_173_962),
        ("nano_vit", {}, 1_242_442),
        ("nano_vit", {"num_heads": 3}, 1_242_442),
        ("patch_lstm", {}, 2_536_842),
        ("patch_lstm", {"reading": "grid", "pooling": "mean"}, 2_536_842),
    ],
)
def test_parameter_counts_are_the_notebooks(name, settings, num_parameters):
    assert count_parameters(build(name, **settings)) == (num_parameters, num_parameters)


@pytest.mark.parametrize(
    ("name", "lr", "epochs"),
    [
        ("mlp", 5.6e-5, 13),
        ("cnn", 1.99e-4, 16),
        ("resnet18", 2.787e-3, 8),
        ("nano_vit", 2.32e-4, 16),
        ("patch_lstm", 4.25e-4, 20),
    ],
)
def test_defaults_are_the_notebooks_protocol(name, lr, epochs):
    settings = MODELS[name].settings_class()
    assert (settings.lr, settings.epochs) == (lr, epochs)
    assert (settings.batch_size, settings.optimizer, settings.seed) == (128, "adam", 3407)
    assert (settings.augmentation, settings.normalisation, settings.weight_decay) == ("none", "channel", 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("settings", [{"width": 24}, {"depth": 1}])
def test_width_and_depth_can_be_searched(name, settings):
    objective = build(name, **settings)
    terms = objective(Batch(torch.randn(2, 3, 32, 32), torch.tensor([3, 4])), "classify")
    assert terms["loss"].isfinite()
    assert count_parameters(objective) != count_parameters(build(name))


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("nano_vit", {"num_heads": 5}, "num_heads=5.*width=192: give 4 or 6, or another --width$"),
        ("nano_vit", {"patch_size": 5}, "patch_size=5.*32.*: give 4 or 8$"),
        ("patch_lstm", {"patch_size": 5}, "patch_size=5.*32.*: give 4 or 8$"),
        ("patch_lstm", {"patch_size": 64}, "patch_size=64.*32.*: give 32$"),
        ("cnn", {"depth": 6}, "depth=6.*32"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused_by_name(name, settings, named):
    with pytest.raises(UserError, match=named):
        build(name, **settings)


@pytest.mark.filterwarnings("error:Initializing zero-element tensors")
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(("classes", "told"), [((), "0 labelled classes"), (("a",), "1 labelled class")])
def test_fewer_than_two_classes_are_refused_before_a_network_is_built(name, classes, told):
    info = DatasetInfo("faces", 32, classes, (0.5,) * 3, (0.25,) * 3, {}, "")
    with pytest.raises(UserError, match=f"^faces has {told}, a"):
        build_objective(MODELS[name].settings_class(model=name), info)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_a_mixture_with_the_uniform_target(smoothing):
    logits, labels = torch.randn(4, 10), torch.tensor([1, 0, 9, 1])
    objective, batch = classify_logits(logits, labels, label_smoothing=smoothing)
    expected = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        surprise = [math.log(sum(map(math.exp, row))) - logit for logit in row]
        expected += ((1 - smoothing) * surprise[label] + smoothing * sum(surprise) / 10) / 4
    assert objective(batch, "classify")["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_evaluation_neither_smooths_labels_nor_mixes_images():
    logits, labels = torch.randn(5, 10), torch.tensor([1, 0, 9, 1, 2])
    labels[1] = logits[1].argmax()
    objective, batch = classify_logits(logits, labels, label_smoothing=0.5, mixup=1.0, cutmix=1.0)
    values = objective.evaluate(batch)
    pairs = list(zip(logits.tolist(), labels.tolist(), strict=True))
    expected = [math.log(sum(map(math.exp, row))) - row[label] for row, label in pairs]
    assert values["loss"].tolist() == pytest.approx(expected, rel=1e-5)
    assert values["accuracy"].tolist() == [float(row[label] == max(row)) for row, label in pairs]


def test_training_accuracy_is_the_share_of_right_answers():
    objective, batch = classify_logits(torch.eye(10)[[3, 4, 5, 6]], torch.tensor([3, 4, 5, 0]))
    assert objective(batch, "classify")["accuracy"] == 0.75


@pytest.mark.parametrize("settings", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_a_mixed_image_is_called_right_by_the_larger_of_its_shares(settings):
    labels = torch.tensor([3, 1, 2, 0])
    images = torch.eye(10)[labels][:, :, None, None].expand(-1, -1, 8, 8)
    shares_of_pixels = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logits that name both of those mixed
    objective = Classification(shares_of_pixels, ClassifierSettings(**settings), INFO)
    accuracies, losses = [], set()
    for _ in range(20):
        terms = objective(Batch(images.clone(), labels), "classify")
        accuracies.append(terms["accuracy"].item())
        losses.add(terms["loss"].item())
    assert len(losses) > 10  # they were mixed, by other shares each time
    assert accuracies == [1.0] * 20


@pytest.mark.parametrize("settings", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
@pytest.mark.parametrize("size", [8, 7, 1])
def test_mixing_gives_a_finite_loss_for_even_and_odd_batches(settings, size):
    objective = build("mlp", width=16, **settings)
    for _ in range(5):
        terms = objective(Batch(torch.randn(size, 3, 32, 32), torch.arange(size)), "classify")
        assert terms["loss"].isfinite()
        assert 0 <= terms["accuracy"] <= 1


def test_mixup_mixes_images_and_targets_by_the_same_share():
    logits = torch.eye(10)[[0, 1]] * 4
    objective, batch = classify_logits(logits, torch.tensor([0, 1]), mixup=1.0)
    losses = [objective(Batch(batch.images.clone(), batch.labels), "classify")["loss"].item() for _ in range(20)]
    share = np.linspace(0, 1, 100_001)
    # Both images mix 0 and 1 in shares s and 1 - s, and so do their targets: one loss for every s.
    possible = np.log(np.exp(4 * share) + np.exp(4 - 4 * share) + 8) - 4 * (share**2 + (1 - share) ** 2)
    assert len({round(loss, 4) for loss in losses}) > 10
    for loss in losses:
        assert np.abs(possible - loss).min() < 1e-4


@pytest.mark.parametrize("settings", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_mixing_leaves_the_batch_as_it_was(settings):
    objective, images = build("mlp", width=16, **settings), torch.randn(6, 3, 32, 32)
    batch = Batch(images.clone(), torch.arange(6))
    objective(batch, "classify")
    assert torch.equal(batch.images, images)


def test_panels_mark_right_and_wrong_and_name_the_prediction():
    objective = Classification(nn.Flatten(), ClassifierSettings(), INFO)
    objective.predict = lambda images: torch.eye(10)[[3, 4]] * 100
    pictures = torch.rand(2, 3, 32, 32)
    panel = objective.panels(Batch(torch.randn(2, 3, 32, 32), torch.tensor([3, 5])), pictures)["predictions"]
    assert torch.equal(panel.images, pictures)
    assert panel.captions == ("d 100 %", "e 100 %, is f")
    assert panel.marks == (True, False)


@torch.no_grad()
def test_resnet18_is_torchvisions_with_another_stem():
    ours = build("resnet18").net.eval()
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):  # whose initial values would make no difference
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.2, 0.2),
            ):
                tensor.uniform_(low, high)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_patches_are_taken_row_by_row():
    embed = PatchEmbedding(image_size=8, patch_size=2, dim=5)
    images = torch.randn(1, 3, 8, 8)
    other = images.clone()
    other[:, :, 2:4, 4:6] += 1  # row 1 and column 2 of 4 x 4 patches
    differs = (embed(images) != embed(other)).any(dim=2)[0]
    assert differs.nonzero().flatten().tolist() == [1 * 4 + 2]


@torch.no_grad()
def test_fused_attention_is_its_weights_times_the_values():
    attention = SelfAttention(dim=24, num_heads=3, dropout=0.5).eval()
    x = torch.randn(2, 7, 24)
    weights = attention.weights(x)  # [B, heads, T, T]
    assert weights.shape == (2, 3, 7, 7)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 7))
    values = attention.qkv(x)[:, :, -24:]
    heads = [weights[:, head] @ values[:, :, 8 * head : 8 * (head + 1)] for head in range(3)]
    torch.testing.assert_close(attention(x), attention.out(torch.cat(heads, dim=2)))


@torch.no_grad()
def test_attention_is_torchs_multihead_attention():
    ours = SelfAttention(dim=24, num_heads=3, dropout=0.5).eval()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 7, 24)
    mixed, weights = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours(x), mixed)
    torch.testing.assert_close(ours.weights(x), weights)


@torch.no_grad()
def test_encoder_layer_is_torchs_post_norm_layer():
    ours = EncoderLayer(width=24, num_heads=3, ffn_width=40, dropout=0.5).eval()
    theirs = nn.TransformerEncoderLayer(24, 3, 40, 0.5, activation="relu", batch_first=True, norm_first=False).eval()
    for parameter in ours.parameters():
        parameter.normal_()
    pairs = {
        "self_attn.in_proj_": ours.attention.qkv,
        "self_attn.out_proj.": ours.attention.out,
        "linear1.": ours.ffn[0],
        "linear2.": ours.ffn[3],
        "norm1.": ours.norm1,
        "norm2.": ours.norm2,
    }
    theirs.load_state_dict({name + key: p for name, module in pairs.items() for key, p in module.named_parameters()})
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_weights_are_those_of_the_forward_pass():
    settings = NanoVitSettings(width=24, depth=3, num_heads=3, ffn_width=40, patch_size=4)
    net = NanoVit(settings, image_size=32, num_classes=10).eval()
    inputs = []
    for layer in net.layers:
        layer.register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    images = torch.randn(2, 3, 32, 32)
    net(images)
    expected = [layer.attention.weights(x) for layer, x in zip(net.layers, inputs, strict=True)]
    weights = net.attention_weights(images)
    assert [w.shape for w in weights] == [(2, 3, 65, 65)] * 3
    for ours, theirs in zip(weights, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(ours.sum(dim=-1), torch.ones(2, 3, 65))


def test_dropout_reaches_embedding_attention_and_both_branches():
    layer = EncoderLayer(width=24, num_heads=3, ffn_width=40, dropout=0.3)
    assert layer.attention.dropout == layer.dropout.p == layer.ffn[2].p == 0.3
    x = torch.randn(2, 7, 24)
    assert not torch.equal(layer.attention(x), layer.attention(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["last", "ends", "mean"])
def test_patch_lstm_pools_the_steps_as_it_says(pooling):
    settings = PatchLstmSettings(embedding_width=8, width=12, head_width=16, patch_size=4, pooling=pooling)
    net = PatchLstm(settings, image_size=16, num_classes=10).eval()
    images = torch.randn(3, 3, 16, 16)
    steps, (h_n, _) = net.lstm(net.embed(images) + net.positions)
    pooled = {
        "last": steps[:, -1],
        "ends": torch.cat([h_n[-2], h_n[-1]], dim=1),  # the last layer's final states, forward and backward
        "mean": sum(steps[:, step] for step in range(16)) / 16,
    }
    torch.testing.assert_close(net(images), net.head(pooled[pooling]))
    others = [net.head(value) for name, value in pooled.items() if name != pooling]
    assert not any(torch.allclose(net(images), other, atol=1e-4) for other in others)


@pytest.mark.parametrize(
    ("recipe", "largest"),
    [
        ("mlp", 1_707_274),
        ("cnn", 1_147_914),
        ("resnet18", 11_173_962),
        ("nano_vit", 1_242_442),
        ("patch_lstm", 2_536_842),
    ],
)
def test_the_recipes_networks_have_at_most_the_notebooks_parameters(recipe, largest):
    settings = validate(parse([f"--config={BEST / recipe}.yaml"], {}).config, {})
    objective = MODELS[settings.model].build(settings, INFO)
    assert 0.9 * largest < count_parameters(objective)[0] <= largest
    assert objective.eval().predict(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_two_layers_along_rows_and_columns_see_every_patch_from_every_patch():
    net = build("patch_lstm", reading="grid", width=8, patch_size=8, dropout=0.0).net
    patches = torch.randn(1, 16, 128, requires_grad=True)
    for place in (0, 6, 15):
        (seen,) = torch.autograd.grad(net.lstm(patches)[0][0, place].sum(), patches)
        assert (seen[0].abs().sum(dim=1) > 0).all()


def test_the_first_layer_of_a_grid_goes_along_rows_alone():
    net = build("patch_lstm", reading="grid", width=8, depth=1, patch_size=8).net
    patches = torch.randn(1, 16, 128, requires_grad=True)
    (seen,) = torch.autograd.grad(net.lstm(patches)[0][0, 5].sum(), patches)
    assert [place for place in range(16) if seen[0, place].abs().sum() > 0] == [4, 5, 6, 7]


def test_convolutional_tokens_overlap_their_neighbours():
    embed = build("nano_vit", stem="convolutions", patch_size=8, width=16, num_heads=2).net.embed
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    tokens = embed(images)
    assert tokens.shape == (1, 16, 16)
    (seen,) = torch.autograd.grad(tokens[0, 5].sum(), images)
    assert seen[0, :, 7].abs().sum() > 0  # the last row of the patch above


def test_convolutional_tokens_are_of_patches_that_halving_reaches():
    assert build("nano_vit", stem="convolutions", patch_size=16).net.embed.num_patches == 4
    with pytest.raises(UserError, match="--patch_size=1 is not reached by halving"):
        build("nano_vit", stem="convolutions", patch_size=1)
