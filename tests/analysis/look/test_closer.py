import pytest
import torch

from analysis.look.closer import Subject, accuracy_on_samples, closer_look, get_ready, sample_metrics
from analysis.look.latents import check_latents
from data.dataset import Split
from data.errors import UserError
from data.loader import Loader
from models.core.abilities import Samples
from models.parts.sampling import sample_metric_names
from models.registry import MODELS
from tests.models.test_objectives import INFO, build

SAMPLERS = ("vae", "cvae", "cvae_head", "vq_vae", "dc_gan", "ac_gan")


def loader_of(num, num_classes=10):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Loader(Split(images, torch.arange(num) % num_classes), INFO, torch.device("cpu"))


@pytest.fixture
def loader():
    return loader_of(20)


@pytest.fixture
def measured(monkeypatch):
    """Epochs in which samples are measured, by a network that needs no weights."""
    epochs = []

    def measure(sample, is_conditional, loader, extractor, num_images, seed):
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
    of_all_epochs = [key for key in sample_metric_names(model) if not key.endswith("_tiny_100")]
    assert list(metrics[1]) == of_all_epochs
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


class Tones:
    """Samples black and white images by their labels, and tells them apart by their values as they are evaluated."""

    num_labels = 2
    boundary = (0.5 - torch.tensor(INFO.mean)) / torch.tensor(INFO.std)  # of grey, [3]

    def __init__(self, share_told):
        self.share_told = share_told

    def sample(self, num, seed, labels):
        return labels.float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)

    def predict(self, images):
        is_white = (images.mean((2, 3)) > self.boundary).all(1).long()
        is_white[round(self.share_told * len(images)) :] = 1
        return torch.nn.functional.one_hot(is_white, 2).float()


@pytest.mark.parametrize("share_told", [1.0, 0.5])
def test_a_model_that_samples_and_classifies_is_asked_to_name_its_samples(share_told, loader):
    assert accuracy_on_samples(Tones(share_told), loader, seed=0) == share_told + (1 - share_told) / 2


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


@pytest.mark.parametrize(("split", "num"), [("val", 1), ("test", 1), ("train", 1)])
def test_too_few_images_to_look_at_latents_are_refused_before_training(split, num, loader):
    loaders = {"train": loader, **({"val": loader} if split == "test" else {}), split: loader_of(num)}
    with pytest.raises(UserError, match=f"the latents of 1 {split} image are too few to look at"):
        get_ready(build("vae"), loaders)
    get_ready(build("vae", latent_images=0), loaders)


def test_one_latent_is_refused_however_many_images_there_are(loader):
    loaders, model = {"train": loader, "val": loader}, build("vae", latent_images=1)
    with pytest.raises(UserError, match="1 val image are too few.* 2 or more, or --latent_images=0 for no look$"):
        get_ready(model, loaders)
    with pytest.raises(UserError, match="1 val image are too few.* 2 or more$"):  # analysis.latent has no such option
        check_latents(loaders, "val", 1)


@pytest.mark.parametrize(("num", "fid_images", "told"), [(5, 9, "9 generated and 5 real"), (20, 5, "5 generated and")])
@pytest.mark.parametrize("split", ["val", "test", "train"])
def test_too_few_images_for_fid_are_refused_before_training(num, fid_images, told, split, loader):
    loaders = {"train": loader, **({"val": loader} if split == "test" else {}), split: loader_of(num)}
    with pytest.raises(UserError, match=f"{told}.* there must be 6 of each"):
        get_ready(build("dc_gan", fid_every=2, fid_images=fid_images, extractor="tiny"), loaders)
    get_ready(build("dc_gan", fid_images=fid_images), loaders)


def test_the_variety_of_one_sample_is_left_out_with_a_word(capsys):
    model, loader = build("dc_gan").eval(), loader_of(1)
    get_ready(model, {"train": loader})
    assert capsys.readouterr().err == "train has 1 image: sample_variety is left out, which compares two\n"
    assert sample_metrics(model, loader, epoch=1) == {}


def test_the_variety_beside_equal_images_is_left_out_with_a_word(capsys):
    equal = Split(torch.full((5, 3, 32, 32), 7, dtype=torch.uint8), torch.arange(5))
    model, loader = build("dc_gan").eval(), Loader(equal, INFO, torch.device("cpu"))
    get_ready(model, {"train": loader})
    told = "train has equal images alone: sample_variety is left out, which compares different ones\n"
    assert capsys.readouterr().err == told
    assert sample_metrics(model, loader, epoch=1) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("num", "num_train", "num_classes"), [(2, 2, 1), (2, 3, 2), (3, 12, 10), (5, 12, 1)])
def test_latents_of_a_few_images_of_any_classes_are_looked_at(num, num_train, num_classes, tmp_path, capsys):
    loaders = {"train": loader_of(num_train, num_classes), "val": loader_of(num, num_classes)}
    found = closer_look(Subject(build("vae").eval(), loaders, "val", tmp_path))
    assert {"clusters", "interpolations", "traversals", "tsne"} <= found.images.keys()
    assert ("latent/probe_accuracy" in found.metrics) == (num_classes > 1)
    assert (tmp_path / "panels" / "latent.csv").exists() == (num_classes > 1)
    word = f"latents are compared with no classes: all {num_train} training images looked at are of one\n"
    assert capsys.readouterr().err == ("" if num_classes > 1 else word)
