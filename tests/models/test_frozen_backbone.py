"""A frozen network of timm: what its features are, when they are computed, and the heads on them."""

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F
from torchvision.transforms import functional as vision

from data.dataset import Batch, DatasetInfo, Split
from data.errors import UserError
from data.feature_cache import HASH_BYTES
from models import frozen_backbone
from models.core.objective import count_parameters
from models.frozen_backbone import (
    FrozenBackbone,
    FrozenSettings,
    Head,
    ImagesOf,
    LogisticProbe,
    LogisticProbeSettings,
    VitB16FrozenSettings,
)
from models.parts import feature_extractor
from models.parts.feature_extractor import FeatureExtractor

INFO = DatasetInfo("synthetic", 16, tuple("abcde"), (0.1, 0.5, 0.7), (0.5, 0.25, 2.0), {}, "")
SMALL = {"arch": "test_efficientnet", "pretrained": False, "input_size": 32, "feature_precision": "fp32"}


def make_split(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(num) % 5)


def build(kind=FrozenSettings, info=INFO, **settings):
    make = LogisticProbe if kind is LogisticProbeSettings else FrozenBackbone
    return make(kind(model="frozen", **{**SMALL, **settings}), info)


def encode(objective, **splits):
    return objective.prepare(splits, Accelerator(cpu=True))


@pytest.fixture
def num_computed(monkeypatch):
    """Numbers of images that the frozen network was given, a list that grows."""
    sizes, call = [], FeatureExtractor.__call__
    monkeypatch.setattr(
        FeatureExtractor, "__call__", lambda self, images: sizes.append(len(images)) or call(self, images)
    )
    return sizes


def prepared(images, size, mean, std):
    large = vision.resize(images / 255, [size, size], antialias=True)
    return vision.normalize(large, mean, std)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["test_efficientnet", "test_resnet", "test_vit"])
@pytest.mark.parametrize("flips", [False, True])
@torch.no_grad()
def test_features_are_those_of_the_network_run_directly(tmp_path, arch, flips):
    torch.manual_seed(3)
    net = timm.create_model(arch, num_classes=9, **({"img_size": 32} if arch == "test_vit" else {})).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    objective = build(arch=arch, pretrained=True, weights=str(tmp_path / "net.pth"), flips=flips)
    splits = {"train": make_split(10), "val": make_split(70, seed=1)}  # more than a batch
    encoded = encode(objective, **splits)
    config = timm.get_pretrained_cfg(arch)
    for name, split in splits.items():
        copies = [split.images, split.images.flip(-1)] if flips and name == "train" else [split.images]
        assert encoded[name].features.shape == (len(split.labels), len(copies), objective.num_features)
        for features, images in zip(encoded[name].features.unbind(1), copies, strict=True):
            inputs = prepared(images, 32, config.mean, config.std)
            expected = net.forward_head(net.forward_features(inputs), pre_logits=True)
            torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
        assert torch.equal(encoded[name].images, split.images)


def test_other_splits_of_the_same_images_compute_nothing_and_a_larger_share_only_the_rest(num_computed):
    whole = make_split(40)

    def part(index):
        return Split(whole.images[index], whole.labels[index])

    order = torch.randperm(40)
    encode(build(), train=part(order[:20]), val=part(order[20:25]))
    assert sum(num_computed) == 25
    encode(build(lr=0.1), train=part(order[5:25]), val=part(order[:5]))
    assert sum(num_computed) == 25
    encode(build(), train=part(order[:35]), val=part(order[35:]))
    assert sum(num_computed) == 40
    encode(build(flips=True), train=part(order[:10]), val=part(order[10:]))
    assert sum(num_computed) == 50


CHANGES = {
    "arch": {"arch": "test_resnet"},
    "seed of random weights": {"seed": 1},
    "size": {"input_size": 48},
    "interpolation": {"interpolation": "bicubic"},
    "precision": {"feature_precision": "bf16"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CHANGES)
def test_another_network_has_features_of_its_own(num_computed, case):
    split = make_split(6)
    first = encode(build(), train=split)["train"].features
    other = encode(build(**CHANGES[case]), train=split)["train"].features
    assert sum(num_computed) == 12
    assert other.shape != first.shape or not torch.equal(first.float(), other.float())
    assert torch.equal(encode(build(), train=split)["train"].features, first)
    assert sum(num_computed) == 12


@pytest.mark.slow
def test_other_weights_of_the_same_name_have_features_of_their_own(tmp_path, num_computed):
    path, features = tmp_path / "net.pth", []
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_efficientnet").state_dict(), path)
        objective = build(pretrained=True, weights=str(path))
        features.append(encode(objective, train=make_split(6))["train"].features)
    assert sum(num_computed) == 12
    assert not torch.equal(*features)


@pytest.mark.slow
def test_settings_of_the_head_alone_share_the_features(num_computed):
    for changes in (
        {},
        {"lr": 0.5},
        {"batch_size": 2},
        {"feature_batch_size": 3},
        {"standardise": True},
        {"epochs": 2},
    ):
        encode(build(**changes), train=make_split(6))
    encode(build(LogisticProbeSettings), train=make_split(6))
    assert sum(num_computed) == 6


def test_bf16_features_agree_with_fp32(tmp_path):
    features = {}
    for precision in ("bf16", "fp32"):
        objective = build(feature_precision=precision, feature_dir=str(tmp_path))
        features[precision] = encode(objective, train=make_split(40))["train"].features
    assert features["bf16"].dtype == torch.bfloat16
    error = (features["bf16"].float() - features["fp32"]).norm() / features["fp32"].std(0).norm() / 40**0.5
    assert error < 0.05


def test_features_that_are_kept_are_taken_and_others_kept_in_a_scratch_folder_alone(num_computed, tmp_path):
    settings = {"feature_dir": str(tmp_path / "kept")}
    known = encode(build(**settings), train=make_split(10))["train"].features
    num_computed.clear()
    others = make_split(12)._replace(stored=torch.cat([make_split(10).images, make_split(2, seed=1).images]))
    objective = build(**settings)
    for _ in range(2):
        found = objective.prepare({"new": others}, Accelerator(cpu=True), tmp_path / "scratch")["new"].features
        assert torch.equal(found[:10], known)
        assert sum(num_computed) == 2
    [hashes] = (tmp_path / "kept").rglob("images")
    assert hashes.stat().st_size == 10 * HASH_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(("deviation", "kind"), [(0.02, torch.bfloat16), (0.2, torch.float32)])
def test_auto_takes_bf16_where_it_was_measured_to_be_sound(monkeypatch, tmp_path, num_computed, deviation, kind):
    monkeypatch.setattr(feature_extractor, "has_fast_bf16", lambda device: True)
    settings = {"feature_precision": "auto", "feature_dir": str(tmp_path)}
    encode(build(**settings), train=make_split(40))
    assert num_computed[:2] == [32, 32]
    [note] = tmp_path.glob("*/deviation")
    assert 0 <= float(note.read_text()) < 0.1
    note.write_text(str(deviation))
    num_computed.clear()
    assert encode(build(**settings), train=make_split(40))["train"].features.dtype == kind
    assert 32 not in num_computed


def test_a_deviation_that_is_known_is_read_from_a_folder_that_may_only_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(feature_extractor, "has_fast_bf16", lambda device: True)
    monkeypatch.setattr(feature_extractor, "locked", lambda *_: pytest.fail("locked"))
    (tmp_path / "deviation").write_text("0.02")
    extractor = feature_extractor.FeatureExtractor(None, torch.device("cpu"))
    assert extractor.sound_precision(torch.zeros(2, 3, 4, 4), tmp_path / "deviation") == "bf16"


@pytest.mark.slow
def test_auto_is_fp32_where_bf16_is_not_computed_in(monkeypatch, num_computed):
    monkeypatch.setattr(feature_extractor, "has_fast_bf16", lambda device: False)
    features = encode(build(feature_precision="auto"), train=make_split(10))["train"].features
    assert (features.dtype, sum(num_computed)) == (torch.float32, 10)


@pytest.mark.parametrize("kind", [FrozenSettings, LogisticProbeSettings])
@pytest.mark.parametrize(
    ("name", "value"), [("augmentation", "crop_flip"), ("cutout", 8), ("cutmix", 1.0)], ids=lambda value: str(value)
)
def test_settings_that_need_the_images_in_every_epoch_are_refused_in_one_line(kind, name, value):
    with pytest.raises(UserError, match=f"^--{name}={value} has no effect here: features are computed once.*$"):
        build(kind, **{name: value})


GRADIENT_STEPS = {"optimizer": "sgd", "momentum": 0.5, "beta1": 0.5, "beta2": 0.5, "weight_decay": 0.1}
GRADIENT_STEPS |= {"schedule": "cosine", "warmup_epochs": 1.0, "grad_clip": 1.0, "mixup": 0.5}


@pytest.mark.parametrize(("name", "value"), GRADIENT_STEPS.items())
def test_settings_of_gradient_steps_are_refused_where_none_are_taken(name, value):
    with pytest.raises(UserError, match=f"^--{name}={value} has no effect here: L-BFGS.*$"):
        build(LogisticProbeSettings, **{name: value})
    assert build(**{name: value})


def test_the_head_of_vit_b16_has_7690_parameters_and_the_backbone_is_not_saved_with_it():
    info = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, {}, "")
    settings = VitB16FrozenSettings(model="vit_b16_frozen", pretrained=False)
    objective = FrozenBackbone(settings, info)
    # 12 blocks of two norms, attention and a fourfold feed-forward; patches, positions, class token, last norm.
    block = 2 * 2 * 768 + (768 + 1) * 3 * 768 + (768 + 1) * 768 + (768 + 1) * 4 * 768 + (4 * 768 + 1) * 768
    backbone = 12 * block + (3 * 16 * 16 + 1) * 768 + (14 * 14 + 1) * 768 + 768 + 2 * 768
    assert count_parameters(objective) == (7_690, backbone + 7_690) == (7_690, 85_806_346)
    assert {key: tuple(value.shape) for key, value in objective.state_dict().items()} == {
        "net.weight": (10, 768),
        "net.bias": (10,),
        "net.mean": (768,),
        "net.deviation": (768,),
    }


def test_a_network_without_one_vector_an_image_is_refused(monkeypatch):
    outline = (timm.create_model("test_vit"), torch.Size((1, 5, 7)))
    monkeypatch.setattr(frozen_backbone, "outline_network", lambda *_: outline)
    with pytest.raises(UserError, match=r"^--arch=test_vit gives no vector of features, but \(5, 7\): name another$"):
        build(arch="test_vit")


def make_features(num=90, dim=7):
    """Classes that overlap, features of unlike spread."""
    random = np.random.RandomState(0)
    labels = np.arange(num) % 5
    features = random.randn(num, dim) + 1.5 * random.randn(5, dim)[labels]
    return features * np.geomspace(0.3, 20, dim) + np.arange(dim), labels


def test_a_standardising_head_sees_features_of_mean_0_and_deviation_1_as_by_sklearn():
    features, _ = make_features()
    features[:, 2] = 4  # a constant
    head = Head(7, 3)
    head.standardise(torch.from_numpy(features).float().view(45, 2, 7))
    standardised = torch.from_numpy(StandardScaler().fit_transform(features)).float()
    expected = F.linear(standardised, head.weight, head.bias)
    torch.testing.assert_close(head(torch.from_numpy(features).float()), expected, rtol=1e-4, atol=1e-4)


def test_standardisation_is_that_of_the_training_images_and_part_of_the_weights():
    objective = build(standardise=True, flips=True)
    splits = encode(objective, train=make_split(30), val=make_split(10, seed=1))
    rows = splits["train"].features.flatten(0, 1)
    assert len(rows) == 60
    torch.testing.assert_close(objective.net.mean, rows.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(objective.net.deviation, rows.std(0, correction=0), rtol=1e-4, atol=1e-6)
    other = build(standardise=True)
    other.load_state_dict(objective.state_dict())
    assert torch.equal(other.predict(rows), objective.predict(rows))


@pytest.fixture
def probe(monkeypatch):
    """A logistic regression on the 7 features of make_features, standardised."""
    shape = (timm.create_model("test_vit"), torch.Size((1, 7)))
    monkeypatch.setattr(frozen_backbone, "outline_network", lambda *_: shape)
    objective = build(LogisticProbeSettings, l2=1.0, l2_ratio=0.1)
    features, labels = make_features()
    objective.net.standardise(torch.from_numpy(features).float()[:, None])
    return objective, Batch(torch.from_numpy(features).float(), torch.from_numpy(labels))


def fit(objective, batch, phase):
    objective.train()
    terms = {}

    def closure():
        phase.optimizer.zero_grad()
        terms.update(objective(batch, phase.name))
        terms["loss"].backward()
        return terms["loss"]

    phase.optimizer.step(closure)
    return terms


@pytest.mark.slow
def test_every_epoch_solves_the_logistic_regression_of_its_strength_as_sklearn_does(probe):
    objective, batch = probe
    [phase] = objective.phases()
    features = StandardScaler().fit_transform(batch.images.numpy().astype(np.float64))
    for epoch in range(5):
        objective.epoch = float(epoch)
        terms = fit(objective, batch, phase)
        strength = 0.1**epoch
        assert terms["l2"].item() == pytest.approx(strength)
        theirs = LogisticRegression(C=1 / (len(features) * strength), tol=1e-10, max_iter=10_000)
        theirs.fit(features, batch.labels.numpy())
        cross_entropy = -np.log(theirs.predict_proba(features)[np.arange(90), batch.labels.numpy()]).mean()
        head = objective.net
        coefficients, intercept = head.weight.detach().numpy(), head.bias.detach().numpy()
        loss = cross_entropy + strength / 2 * (theirs.coef_**2).sum()
        assert objective(batch, "fit")["loss"].item() == pytest.approx(loss, abs=1e-5)
        assert objective.evaluate(batch)["loss"].mean().item() == pytest.approx(cross_entropy, abs=1e-3)
        np.testing.assert_allclose(coefficients, theirs.coef_, atol=3e-3 * np.abs(theirs.coef_).max())
        # A constant added to all intercepts changes no probability.
        centred = theirs.intercept_ - theirs.intercept_.mean()
        np.testing.assert_allclose(intercept - intercept.mean(), centred, atol=5e-3 * max(0.2, np.abs(centred).max()))


def test_autocast_changes_no_figure_of_the_line_search(probe):
    objective, batch = probe
    expected = objective(batch, "fit")["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective(batch, "fit")["loss"], expected)


def test_the_notes_of_a_cache_tell_what_its_network_is(tmp_path):
    encode(build(feature_dir=str(tmp_path), seed=5), train=make_split(4))
    texts = [path.read_text() for path in tmp_path.glob("*/network.json")]
    assert any('"precision": "fp32"' in text and '"weights": "random-seed5-' in text for text in texts)
    assert all(path.name.startswith("test_efficientnet-") for path in tmp_path.iterdir())


@pytest.mark.parametrize(("precision", "is_rounded"), [("fp32", False), ("bf16", True)])
def test_features_in_fp32_are_not_rounded_to_tf32(precision, is_rounded, monkeypatch):
    extractor = FeatureExtractor(build().frozen, torch.device("cpu"))
    extractor.precision = precision
    seen = []
    monkeypatch.setitem(extractor.__dict__, "network", lambda x: seen.append(torch.backends.cudnn.allow_tf32) or x)
    extractor(make_split(2).images)
    assert seen == [is_rounded]
    assert torch.backends.cudnn.allow_tf32


def test_a_mirror_image_has_its_sides_exchanged():
    split = make_split(3)
    assert torch.equal(ImagesOf(split, is_mirrored=True)[torch.tensor([2])], split.images[2:].flip(-1))


def test_the_penalty_has_one_strength_throughout_an_epoch(probe):
    objective, batch = probe
    objective.epoch = 1.5
    assert objective(batch, "fit")["l2"].item() == pytest.approx(0.1)
