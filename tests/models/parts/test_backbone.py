"""Networks of timm: the images that they are given, and weights from files of every kind."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from data.dataset import DatasetInfo
from data.errors import UserError
from models.parts.backbone import (
    BackboneSettings,
    Preprocess,
    build_network,
    network_size,
)
from models.parts.pretrained_weights import pretrained_config
from tests.data.faults import FAULTS_OF_THE_MACHINE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INFO = DatasetInfo("synthetic", 24, tuple("abc"), (0.1, 0.5, 0.7), (0.5, 0.25, 2.0), {}, "")


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch):
    monkeypatch.delenv("VISION_SWEEPS_DATA", raising=False)


def make_images(num=2, size=24):
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(0))


def normalised(images, mean, std):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (images - mean) / std


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [10, 24, 37, 64, 0])
def test_images_are_resized_and_normalised_as_by_torchvision(size, mode):
    images = make_images()
    expected = images
    if size:
        expected = vision.resize(images, [size, size], InterpolationMode(mode), antialias=True).clamp(0, 1)
    prepare = Preprocess(INFO, MEAN, STD, size, mode)
    result = prepare(normalised(images, INFO.mean, INFO.std))
    torch.testing.assert_close(result, normalised(expected, MEAN, STD), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [16, 61])
def test_bicubic_resizing_leaves_no_pixel_darker_than_black_or_brighter_than_white(size):
    images = (torch.arange(24) // 6 % 2).float().expand(1, 3, 24, 24)  # stripes, at whose edges it overshoots
    overshot = vision.resize(images, [size, size], InterpolationMode.BICUBIC, antialias=True)
    assert overshot.min() < -0.005
    assert overshot.max() > 1.005
    result = Preprocess(INFO, MEAN, STD, size, "bicubic")(normalised(images, INFO.mean, INFO.std))
    torch.testing.assert_close(result, normalised(overshot.clamp(0, 1), MEAN, STD), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("is_reduced", "input_size", "told"), [(True, 224, 1), (True, 0, 0), (True, 8, 0), (False, 224, 0)]
)
def test_images_that_were_reduced_only_to_be_enlarged_again_are_told(is_reduced, input_size, told, capsys):
    info = replace(INFO, name="pets", image_size=64, is_reduced=is_reduced)
    assert network_size(BackboneSettings(input_size=input_size), info) == (input_size or 64)
    line = "pets: images are reduced to 64 pixels and then enlarged to 224 for resnet18: --image_size=224 keeps their "
    line += "detail"
    assert capsys.readouterr().err.splitlines() == [line] * told


@pytest.mark.parametrize("arch", ["test_vit", "tf_efficientnet_lite0"])
def test_images_of_the_right_size_are_prepared_as_by_timm_s_own_transform(arch):
    config = pretrained_config(arch)
    pixels = (make_images(1, size=32) * 255).byte()
    data_config = {**timm.data.resolve_data_config(pretrained_cfg=config.to_dict()), "input_size": (3, 32, 32)}
    transform = timm.data.create_transform(**{**data_config, "crop_pct": 1.0})
    prepare = Preprocess(INFO, config.mean, config.std, 0, "bilinear")
    result = prepare(normalised(pixels / 255, INFO.mean, INFO.std))
    torch.testing.assert_close(result[0], transform(vision.to_pil_image(pixels[0])), rtol=1e-5, atol=1e-5)


def test_preprocessing_leaves_no_trace_in_a_state_dict():
    assert Preprocess(INFO, MEAN, STD, 8, "bilinear").state_dict() == {}


def write_network(path, arch="test_efficientnet", wrap=None, **options):
    """Save the weights of a random network; returns it."""
    torch.manual_seed(1)
    net = timm.create_model(arch, pretrained=False, **options).eval()
    for module in net.modules():  # running statistics that are not the initial ones
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
    state = net.state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    return net


FILES = [("a.safetensors", None), ("a.pth", None), ("a.bin", None), ("a.pt", "state_dict"), ("a.tar", "model")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrap"), FILES)
@pytest.mark.parametrize("arch", ["test_efficientnet", "test_resnet", "test_vit"])
@torch.no_grad()
def test_weights_of_every_kind_of_file_give_the_same_figures(tmp_path, arch, name, wrap):
    net, images = write_network(tmp_path / name, arch, wrap, num_classes=10), make_images(2, 160)
    loaded = build_network(arch, 10, 160, tmp_path / name).eval()
    assert torch.equal(loaded(images), net(images))
    features = build_network(arch, 0, 160, tmp_path / name).eval()(images)
    assert torch.equal(features, net.forward_head(net.forward_features(images), pre_logits=True))


def test_a_wrapped_checkpoint_of_a_data_parallel_network_is_read(tmp_path):
    net = write_network(tmp_path / "a.pth")
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    loaded = build_network("test_efficientnet", 1000, 32, tmp_path / "a.pth")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("num_pretrained", [0, 7, 1000])
@pytest.mark.parametrize("arch", ["test_efficientnet", "test_resnet", "test_vit"])
def test_a_head_is_kept_where_it_fits_and_fresh_where_not(tmp_path, arch, num_pretrained):
    path = tmp_path / "a.safetensors"
    state = write_network(path, arch, num_classes=num_pretrained).state_dict()
    head = pretrained_config(arch).classifier
    for num_classes in (7, 10):
        loaded = build_network(arch, num_classes, 160, path).state_dict()
        assert loaded[f"{head}.weight"].shape[0] == num_classes
        same = {key for key, value in state.items() if torch.equal(value, loaded[key].new_tensor(value.tolist()))}
        assert same == state.keys()  # so that the comparison below is of the file
        kept = {key for key in state if state[key].shape == loaded[key].shape and torch.equal(state[key], loaded[key])}
        fresh = set() if num_classes == num_pretrained else {f"{head}.weight", f"{head}.bias"}
        assert kept == state.keys() - fresh


@pytest.mark.slow
def test_pretrained_weights_at_another_size_are_those_that_timm_makes(tmp_path):
    path = tmp_path / "vit.pth"
    write_network(path, "test_vit")
    ours = build_network("test_vit", 0, 64, path)
    overlay = {"file": str(path), "custom_load": False}
    theirs = timm.create_model("test_vit", True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=64)
    assert ours.pos_embed.shape == (1, 1 + 16, 64)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_random_weights_at_another_size_have_their_positions(tmp_path):
    assert build_network("test_vit", 3, 48, None).pos_embed.shape == (1, 1 + 9, 64)
    assert build_network("test_resnet", 3, 48, None)(torch.zeros(1, 3, 48, 48)).shape == (1, 3)


def edit(path, change):
    state = torch.load(path)
    change(state)
    torch.save(state, path)


MISFITS = {
    "missing": (lambda s: s.pop("conv1.1.weight"), "1 missing (conv1.1.weight)"),
    "unexpected": (lambda s: s.update(more=torch.zeros(1)), "1 unexpected (more)"),
    "shape": (
        lambda s: s.update({"bn1.weight": torch.zeros(3)}),
        "1 of another shape (bn1.weight [3] instead of [32])",
    ),
    "all": (
        lambda s: (s.pop("bn1.bias"), s.update({"x.y": torch.zeros(1), "bn1.weight": torch.zeros(3)})),
        "1 missing (bn1.bias); 1 unexpected (x.y); 1 of another shape (bn1.weight [3] instead of [32])",
    ),
    "many": (
        lambda s: s.update({f"k{i}": torch.zeros(1) for i in range(8)}),
        "8 unexpected (k0, k1, k2, k3, k4 and 3 ",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_keys_that_do_not_fit_are_named_on_one_line(tmp_path, case):
    change, expected = MISFITS[case]
    path = tmp_path / "a.pth"
    write_network(path, "test_resnet")
    edit(path, change)
    with pytest.raises(UserError) as failure:
        build_network("test_resnet", 3, 32, path)
    assert str(failure.value).startswith(f"{path} does not fit --arch=test_resnet: {expected}")
    assert "\n" not in str(failure.value)


ARCHS = ["test_vit", "test_vit2", "test_efficientnet", "test_resnet", "test_convnext", "test_nfnet", "test_mambaout"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", ARCHS + ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224"]
)
def test_the_weights_of_another_network_are_refused_in_one_line(tmp_path, arch):
    for other in ("test_vit", "test_resnet"):
        if other != arch:
            write_network(tmp_path / other, other)
            with pytest.raises(UserError, match="does not fit --arch=") as failure:
                build_network(arch, 3, 224, tmp_path / other)
            assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "content", ["text", "pickle", "cut", "cut safetensors", "list", "nested", "no weights", "empty"]
)
def test_what_holds_no_weights_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / ("a.safetensors" if "safetensors" in content else "a.pth")
    write_network(path)
    if content.startswith("cut"):
        os.truncate(path, path.stat().st_size // 2)
    elif content in ("text", "empty"):
        path.write_text("<html>not found</html>" if content == "text" else "")
    else:
        objects = {
            "pickle": Path("a"),
            "no weights": {},
            "list": [torch.zeros(1)],
            "nested": {"objective": {"a": torch.zeros(1)}},
        }
        torch.save(objects[content], path)
    with pytest.raises(UserError, match="cannot be read as safetensors or torch weights|holds no table") as failure:
        build_network("test_efficientnet", 3, 32, path)
    assert str(failure.value).startswith(str(path))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("error", FAULTS_OF_THE_MACHINE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", ["create_model", "load_state_dict"])
def test_a_fault_of_the_machine_is_not_laid_on_the_weights(tmp_path, monkeypatch, name, error):
    def fail(*_, **options):
        if name == "load_state_dict" or options.get("pretrained_cfg_overlay"):
            raise error
        return real(*_, **options)

    write_network(tmp_path / "a.pth", "test_resnet")
    place = timm if name == "create_model" else timm.models
    real = getattr(place, name)
    monkeypatch.setattr(place, name, fail)
    with pytest.raises(type(error)) as caught:
        build_network("test_resnet", 3, 32, tmp_path / "a.pth")
    assert caught.value is error


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("default", [True, False])
def test_a_file_of_weights_runs_no_code_whatever_timm_does_untold(default, tmp_path, monkeypatch):
    real = timm.models.load_state_dict

    def load_state_dict(path, use_ema=True, device="cpu", weights_only=default):  # older versions: False
        return real(path, use_ema, device, weights_only)

    monkeypatch.setattr(timm.models, "load_state_dict", load_state_dict)
    torch.save({"state_dict": {"a": Evil(tmp_path / "ran")}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="cannot be read as safetensors or torch weights"):
        build_network("test_efficientnet", 3, 32, tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


UNKNOWN = {
    "resnet_18": "--arch=resnet_18 is not known, did you mean resnet18?",
    "resnet18.tv_in2k": "--arch=resnet18.tv_in2k: resnet18 has no weights called tv_in2k; there are: a1_in1k",
    "zzz": "--arch=zzz is not known; see timm.list_models()",
    "": "--arch= is not known; see",
}


@pytest.mark.parametrize("arch", UNKNOWN)
def test_an_unknown_network_is_refused_with_what_was_meant(arch):
    with pytest.raises(UserError) as failure:
        build_network(arch, 3, 32, None)
    assert str(failure.value).startswith(UNKNOWN[arch])


@pytest.mark.parametrize(("arch", "size"), [("test_vit", 8), ("test_vit", 30), ("xcit_nano_12_p8_224", 7)])
@pytest.mark.parametrize("has_weights", [False, True])
def test_a_size_that_a_network_cannot_take_is_refused_in_one_line(tmp_path, arch, size, has_weights):
    path = tmp_path / "a.pth"
    path.touch()
    with pytest.raises(UserError, match=rf"^--arch={arch} cannot be built for {size}-pixel .*: set --input_size$"):
        build_network(arch, 3, size, path if has_weights else None)
