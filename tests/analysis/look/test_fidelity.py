"""Measuring what a model draws: names, cached references, images that depend on the seed alone."""

import json

import pytest
import torch

from analysis.look.fidelity import keep, measure, pick, real_gaussian
from analysis.look.samples import IMAGES_AT_ONCE, sample_images
from analysis.record import run_folder
from data.dataset import DatasetInfo, Split
from data.errors import UserError
from data.feature_cache import FeatureCache
from data.loader import Loader
from data.splitting import stratified_order
from models.parts.sampling import SCORES

INFO = DatasetInfo("synthetic", 4, (), (0.5,) * 3, (0.5,) * 3, {}, "")
pytestmark = pytest.mark.usefixtures("one_thread")


class Pixels:
    """Pixels in place of features."""

    name = "pixels"
    num_features = 48

    def __init__(self, batch_size=16):
        self.batch_size = batch_size
        self.num_seen = 0

    def description(self):
        return {"arch": self.name, "precision": "fp32"}

    def __call__(self, images):
        self.num_seen += len(images)
        return images.flatten(1).float() / 255

    def classify(self, features):
        return features[:, :5].softmax(dim=1)


def noise(num, seed, labels=None):
    return torch.rand(num, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def loader(num=300):
    images = (noise(num, 99) * 255).round().byte()
    return Loader(Split(images, torch.zeros(num, dtype=torch.long)), INFO, torch.device("cpu"))


def test_metrics_are_named_after_the_extractor_and_the_number_of_images():
    for num_real in (300, 100):
        metrics = measure(noise, False, loader(num_real), Pixels(), 200, seed=0)
        assert list(metrics) == [f"{name}_pixels_200" for name in SCORES]


def test_the_real_images_themselves_are_at_no_distance_and_black_ones_far_away():
    real = loader(IMAGES_AT_ONCE)
    copies = measure(lambda *_: real.images / 255, False, real, Pixels(), IMAGES_AT_ONCE, seed=0)
    black = measure(lambda num, *_: torch.zeros(num, 3, 4, 4), False, real, Pixels(), IMAGES_AT_ONCE, seed=0)
    assert copies["fid_pixels_256"] == pytest.approx(0, abs=1e-3)
    assert copies["coverage_pixels_256"] == 1
    assert black["fid_pixels_256"] > 5
    assert black["coverage_pixels_256"] == 0


def test_features_of_real_images_are_computed_once():
    first, second = Pixels(), Pixels()
    metrics = measure(noise, False, loader(), first, 200, seed=0)
    assert measure(noise, False, loader(), second, 200, seed=0) == metrics
    assert (first.num_seen, second.num_seen) == (400, 200)


def test_the_gaussian_of_other_images_as_many_is_another(tmp_path):
    cache = FeatureCache(tmp_path, Pixels().description(), Pixels.num_features)
    cache.folder.mkdir()
    for name in (b"one", b"two"):
        features = torch.rand(50, 4)
        gaussian, root = real_gaussian(cache, [name] * 50, features)
        torch.testing.assert_close(gaussian.mean, features.double().mean(0))
        torch.testing.assert_close(root @ root, gaussian.covariance)


def test_metrics_do_not_depend_on_the_batches_or_on_a_random_state():
    metrics = measure(noise, False, loader(), Pixels(), 200, seed=0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert measure(noise, False, loader(), Pixels(batch_size=33), 200, seed=0) == metrics
    assert torch.equal(torch.get_rng_state(), state)
    assert measure(noise, False, loader(), Pixels(), 200, seed=1) != metrics


def test_the_first_images_are_the_same_however_many_are_drawn():
    few, many = (torch.cat(list(sample_images(noise, num, 3))) for num in (100, 2 * IMAGES_AT_ONCE + 5))
    assert len(few) == 100
    assert len(many) == 2 * IMAGES_AT_ONCE + 5
    assert torch.equal(few, many[:100])
    assert not torch.equal(many[:100], many[IMAGES_AT_ONCE : IMAGES_AT_ONCE + 100])


def test_classes_take_turns_over_all_batches():
    def labels_as_pixels(num, seed, labels):
        return (labels / 255).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)

    images = torch.cat(list(sample_images(labels_as_pixels, IMAGES_AT_ONCE + 10, 0, classes=(7, 2, 5))))
    assert images[:, 0, 0, 0].tolist() == [(7, 2, 5)[i % 3] for i in range(IMAGES_AT_ONCE + 10)]


@pytest.mark.parametrize("order", [lambda labels: stratified_order(labels, seed=3407), torch.argsort])
@pytest.mark.parametrize("num", [40, 200, 500])
def test_real_images_are_of_all_classes_alike_in_whatever_order_they_are(order, num):
    labels = torch.arange(1000) % 10
    labels = labels[order(labels)]
    images = labels.byte().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    picked = pick(Loader(Split(images, labels), INFO, torch.device("cpu")), num)[:, 0, 0, 0]
    assert picked.bincount().tolist() == [num // 10] * 10


@pytest.mark.parametrize("num_real", [300, 90])
def test_a_conditional_model_is_compared_by_samples_of_the_classes_of_the_real_images(num_real):
    labels = (torch.arange(num_real) % 10 == 0).long().sort(descending=True).values  # a tenth is of class 1

    def draw(num, seed, labels):  # each class exactly as it is
        return (noise(num, seed) + labels.view(-1, 1, 1, 1)) / 2

    real = Loader(Split((draw(num_real, 99, labels) * 255).byte(), labels), INFO, torch.device("cpu"))
    asked = []
    found = measure(lambda *a: asked.append(a[2]) or draw(*a), True, real, Pixels(), 256, seed=0)
    assert torch.cat(asked).float().mean().item() == pytest.approx(0.1, abs=0.005)
    alike = measure(lambda num, seed, _: draw(num, seed, torch.arange(num) % 2), False, real, Pixels(), 256, seed=0)
    assert found["fid_pixels_256"] < 0.2 * alike["fid_pixels_256"]


@pytest.mark.parametrize(("num_fake", "num_real"), [(5, 300), (300, 5)])
def test_fewer_images_than_a_ball_needs_are_refused(num_fake, num_real):
    with pytest.raises(UserError, match="there must be 6 of each"):
        measure(noise, False, loader(num_real), Pixels(), num_fake, seed=0)


def test_metrics_of_a_run_add_up_in_its_folder(tmp_path):
    keep(tmp_path, {"test/fid_a_10": 1.0}, "one")
    path = keep(tmp_path, {"test/fid_b_10": 2.0}, "one")
    assert path == tmp_path / run_folder.GENERATION
    assert json.loads(path.read_text()) == {"test/fid_a_10": 1.0, "test/fid_b_10": 2.0, "weights": "one"}
    keep(tmp_path, {"test/fid_b_10": 3.0}, "other")
    assert json.loads(path.read_text()) == {"test/fid_b_10": 3.0, "weights": "other"}
