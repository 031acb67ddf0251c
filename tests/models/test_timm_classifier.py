"""Networks of timm that are trained: stems, frozen stages, learning rates by layer."""

import pytest
import timm
import torch
from torch import nn

from data.dataset import Batch, DatasetInfo
from data.errors import UserError
from models import resnet18, timm_classifier
from models.core.optimization import lr_factor, lr_of, set_lr
from models.timm_classifier import ResNet18PretrainedSettings, TimmSettings, VitB16FinetuneSettings, freeze

INFO = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), {}, "")


def build(kind=TimmSettings, **settings):
    torch.manual_seed(0)
    return timm_classifier.build(kind(model="timm", **{"pretrained": False, **settings}), INFO)


def make_batch(size=6, image_size=32):
    images = torch.randn(size, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(size) % 10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of ResNet-18's weights as the hub has them: 7x7 stem, 1000 classes."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    net = timm.create_model("resnet18")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
    torch.save(net.state_dict(), path)
    return path


def resnet(weights, **settings):
    return build(ResNet18PretrainedSettings, pretrained=True, weights=str(weights), **settings).net.backbone


@pytest.mark.slow
def test_a_small_stem_is_the_centre_of_the_pretrained_one_or_random(weights):
    large = torch.load(weights)["conv1.weight"]
    nets = {init: resnet(weights, stem_init=init) for init in ("centre", "random")}
    assert torch.equal(nets["centre"].conv1.weight, large[:, :, 2:5, 2:5])
    assert not torch.isclose(nets["random"].conv1.weight, large[:, :, 2:5, 2:5]).any(dim=(1, 2, 3)).all()
    for net in nets.values():
        assert (net.conv1.stride, net.conv1.padding, net.conv1.bias) == ((1, 1), (1, 1), None)
        assert not any(isinstance(module, nn.MaxPool2d) for module in net.modules())
        rest = {key: value for key, value in torch.load(weights).items() if not key.startswith(("conv1", "fc"))}
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in rest.items())
        assert sum(parameter.numel() for parameter in net.parameters()) == 11_173_962


@pytest.mark.slow
@torch.no_grad()
def test_resnet18_with_a_small_stem_computes_what_our_own_does(weights):
    backbone = resnet(weights, stem_init="centre").eval()
    own = resnet18.ResNet18(64, 2, 10).eval()
    own.load_state_dict(backbone.state_dict())
    images = make_batch().images
    torch.testing.assert_close(backbone(images), own(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_network_sees_images_as_its_pretrained_config_says():
    objective = build(arch="test_resnet", input_size=48).eval()
    images = make_batch().images
    pixels = images * torch.tensor(INFO.std).view(3, 1, 1) + torch.tensor(INFO.mean).view(3, 1, 1)
    large = nn.functional.interpolate(pixels, size=48, mode="bilinear", antialias=True)
    expected = objective.net.backbone((large - 0.5) / 0.5)
    torch.testing.assert_close(objective.predict(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["test_vit", "test_efficientnet", "resnet10t"])
def test_a_small_stem_needs_a_7x7_convolution(arch):
    with pytest.raises(UserError, match=r"^--stem=small: \w+ does not begin with a 7x7 convolution: leave it out$"):
        build(arch=arch, stem="small", input_size=32)


def train(objective, num_steps=2, image_size=32):
    [phase] = objective.phases()
    objective.train()
    for _ in range(num_steps):
        objective(make_batch(image_size=image_size), phase.name)["loss"].backward()
        phase.optimizer.step()
        phase.optimizer.zero_grad()


FROZEN = {
    "resnet18": [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)],
    "test_efficientnet": [("conv_stem", "bn1"), ("blocks.0",), ("blocks.1",)],
    "test_vit": [("cls_token", "pos_embed", "patch_embed", "norm_pre"), ("blocks.0",), ("blocks.1",), ("blocks.2",)],
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", FROZEN)
@pytest.mark.parametrize("num_stages", [0, 1, 2, 3])
def test_frozen_stages_keep_weights_and_running_statistics_and_the_others_move(arch, num_stages):
    objective = build(arch=arch, frozen_stages=num_stages, optimizer="sgd", lr=0.1, input_size=32)
    state = objective.net.backbone.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    train(objective)
    moved = {key for key, value in state.items() if not torch.equal(value, before[key])}
    frozen = tuple(name for stage in FROZEN[arch][:num_stages] for name in stage)
    assert moved == {key for key in state if not key.startswith(frozen or "none")}
    assert not any(p.requires_grad for key, p in objective.net.backbone.named_parameters() if key not in moved)


def test_frozen_stages_draw_no_dropout_and_the_others_do():
    objective = build(arch="test_vit", frozen_stages=2, input_size=32).train()
    modules = dict(objective.net.backbone.named_modules())
    assert [modules[name].training for name in ("patch_embed", "blocks.0", "blocks.1", "head")] == [False] * 2 + [
        True
    ] * 2
    assert not any(module.training for module in objective.eval().modules())


def test_evaluation_of_a_frozen_network_and_training_again_restore_the_modes():
    objective = build(arch="test_resnet", frozen_stages=1).train()
    modes = [module.training for module in objective.modules()]
    assert [module.training for module in objective.eval().train().modules()] == modes


@pytest.mark.parametrize(("arch", "most"), [("resnet18", 5), ("test_vit", 7)])
def test_more_frozen_stages_than_there_are_below_the_head_are_refused(arch, most):
    objective = build(arch=arch, frozen_stages=most, input_size=32)
    trainable = [name for name, p in objective.net.backbone.named_parameters() if p.requires_grad]
    assert {name.partition(".")[0] for name in trainable} == {timm.get_pretrained_cfg(arch).classifier}
    with pytest.raises(UserError, match=f"^--frozen_stages={most + 1}: there are {most} below the head$"):
        build(arch=arch, frozen_stages=most + 1, input_size=32)


@pytest.mark.slow
def test_a_random_stem_is_not_frozen(weights):
    with pytest.raises(UserError, match="^--frozen_stages=1 would freeze a random stem: give --stem_init=centre$"):
        resnet(weights, frozen_stages=1)
    assert not resnet(weights, frozen_stages=1, stem_init="centre").conv1.weight.requires_grad


@pytest.mark.slow
def test_networks_whose_stages_timm_does_not_know_train_whole_and_are_not_frozen_in_part():
    net = nn.Sequential(nn.Linear(2, 2))
    freeze(net, 0)
    with pytest.raises(UserError, match="^--frozen_stages=1: timm divides no Sequential into stages"):
        freeze(net, 1)
    assert build(arch="pit_ti_224", input_size=224).phases()


def rates(objective):
    """Learning rate and weight decay of every trainable parameter, by name."""
    [phase] = objective.phases()
    names = {id(p): name for name, p in objective.net.backbone.named_parameters()}
    groups = phase.optimizer.param_groups
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion"])
def test_learning_rates_of_a_vit_fall_by_the_factor_in_every_layer_below_the_head(optimizer):
    objective = build(arch="test_vit", input_size=32, lr=0.1, layer_decay=0.5, weight_decay=0.3, optimizer=optimizer)
    depth = len(objective.net.backbone.blocks)
    found = rates(objective)
    assert found.keys() == dict(objective.net.backbone.named_parameters()).keys()
    for name, (lr, decay) in found.items():
        layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else 0
        layer = {"norm": depth, "head": depth + 1}.get(name.partition(".")[0], layer)
        assert lr == pytest.approx(0.1 * 0.5 ** (depth + 1 - layer)), name
        has_decay = name.endswith("weight") and "norm" not in name
        assert decay == (0.3 if has_decay else 0.0), name
    assert found["pos_embed"][1] == found["cls_token"][1] == 0
    assert found["head.weight"] == (0.1, 0.3)


def test_learning_rates_of_a_resnet_fall_by_the_factor_in_every_block_below_the_head():
    found = rates(build(arch="resnet18", lr=1.0, layer_decay=0.5, frozen_stages=1))
    assert "conv1.weight" not in found
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    for name, (lr, _) in found.items():
        above = 0 if name.startswith("fc") else len(blocks) - blocks.index(name[: len("layer1.0")])
        assert lr == pytest.approx(0.5**above), name


def test_the_rate_that_is_logged_is_that_of_the_head_not_of_the_lowest_layer():
    objective = build(arch="test_vit", input_size=32, lr=0.1, layer_decay=0.5)
    [phase] = objective.phases()
    set_lr(phase.optimizer, 0.25)
    assert lr_of(phase.optimizer, objective.settings) == 0.1 * 0.25


def test_without_layer_decay_all_layers_learn_alike():
    assert {lr for lr, _ in rates(build(arch="test_vit", input_size=32, lr=0.25)).values()} == {0.25}


def test_a_schedule_keeps_the_ratios_between_layers():
    objective = build(VitB16FinetuneSettings, arch="test_vit", input_size=32, lr=0.1)
    [phase] = objective.phases()
    peaks = [group["lr"] for group in phase.optimizer.param_groups]
    assert len(set(peaks)) > 3
    for step in (0, 1, 7, 29):
        factor = lr_factor(objective.settings, step, steps_per_epoch=10)
        set_lr(phase.optimizer, factor)
        assert [group["lr"] for group in phase.optimizer.param_groups] == pytest.approx([p * factor for p in peaks])


@pytest.mark.parametrize(
    ("output", "told"), [(lambda image: image.new_empty(1, 5, 7), r"\(5, 7\)"), (lambda image: [image, image], r"\(\)")]
)
def test_a_network_without_a_classifier_is_refused(output, told, monkeypatch):
    class Features(torch.nn.Module):
        def forward(self, image):
            return output(image)

    monkeypatch.setattr(timm, "create_model", lambda *args, **options: Features())
    message = f"^--arch=test_vit has no classifier, its output for an image is {told}: name another$"
    with pytest.raises(UserError, match=message):
        build(arch="test_vit", input_size=32)


def test_drop_rates_are_those_that_timm_builds_a_network_with():
    rates = {"drop_rate": 0.25, "drop_path_rate": 0.5}
    ours = build(arch="test_vit", input_size=32, **rates).net.backbone
    theirs = timm.create_model("test_vit", num_classes=10, img_size=32, **rates)
    assert str(ours) == str(theirs)
    images = make_batch().images
    ours.load_state_dict(theirs.state_dict())
    outputs = []
    for net in (ours, theirs):
        torch.manual_seed(0)
        outputs.append(net.train()(images))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], ours.eval()(images))


@pytest.mark.parametrize("arch", ["vgg11", "hrnet_w18_small"])
def test_a_network_without_stochastic_depth_is_refused_with_it(arch):
    with pytest.raises(UserError, match=f"^--drop_path_rate=0.1: timm's {arch} does not take it: leave it out$"):
        build(arch=arch, drop_rate=0.2, drop_path_rate=0.1)
