import pytest
import torch

from analysis.look.closer import Subject, closer_look, sample_metrics
from data.dataset import Split
from data.loader import Loader
from models.core.abilities import Samples
from models.registry import MODELS
from tests.models.test_objectives import INFO, build

SAMPLERS = ("vae", "cvae", "cvae_head", "vq_vae", "dc_gan", "ac_gan")


@pytest.fixture
def loader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Loader(Split(images, torch.arange(20) % 10), INFO, torch.device("cpu"))


@pytest.fixture
def measured(monkeypatch):
    """Epochs in which samples are measured, by a network that needs no weights."""
    epochs = []

    def measure(sample, loader, extractor, num_images, seed):
        assert extractor == "the tiny network"
        assert sample(3, seed).shape == (3, 3, 32, 32)
        return {f"fid_tiny_{num_images}": 1.0}

    monkeypatch.setattr("analysis.look.closer.measure", measure)
    monkeypatch.setattr("analysis.look.closer.find_extractor", lambda name, device: f"the {name} network")
    return epochs


@pytest.mark.slow
def test_the_models_that_sample_are_known():
    assert {name for name in MODELS if isinstance(build(name), Samples)} == set(SAMPLERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_of_every_model_that_draws_some_are_measured_when_it_is_due(name, loader, measured):
    model = build(name, fid_every=2, fid_images=100, extractor="tiny", epochs=5).eval()
    metrics = {epoch: sample_metrics(model, loader, epoch) for epoch in range(1, 6)}
    assert [epoch for epoch, found in metrics.items() if "fid_tiny_100" in found] == [2, 4, 5]
    assert all(found["sample_variety"] >= 0 for found in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_without_a_measurement_the_variety_of_samples_is_told(name, loader):
    assert "sample_variety" in sample_metrics(build(name).eval(), loader, epoch=1)


def test_a_gan_is_judged_by_its_measurement():
    assert build("dc_gan", fid_every=2, fid_images=100, extractor="tiny").best_metric == "fid_tiny_100"
    assert build("dc_gan").best_metric == ""
    assert build("vae", fid_every=2).best_metric == "loss"


def test_a_classifier_has_no_metrics_of_samples(loader):
    assert sample_metrics(build("cnn").eval(), loader, epoch=1) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cvae", "cvae_head", "ac_gan"])
def test_a_model_that_samples_and_classifies_is_asked_to_name_its_samples(name, loader):
    assert 0 <= sample_metrics(build(name).eval(), loader, epoch=1)["generated_accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("cnn", {"confusion_matrix", "reliability", "mistakes"}),
        ("cvae_head", {"confusion_matrix", "reliability", "mistakes"}),
        ("vq_vae", {"code_usage"}),
        ("dc_gan", {"interpolations"}),
        ("ac_gan", {"interpolations", "confusion_matrix", "reliability", "mistakes"}),
    ],
)
def test_the_closer_looks_are_chosen_by_what_a_model_can_do(name, pictures, loader, tmp_path):
    found = closer_look(Subject(build(name).eval(), {"val": loader}, "val", tmp_path))
    assert set(found.images) == pictures
    assert all(path.exists() for path in found.images.values())
