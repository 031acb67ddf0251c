"""Models that sample, and the programs that write and use the samples of finished runs."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from analysis import classification_score, generation, samples
from analysis.look.classification_score import score_run, train_and_test
from analysis.look.samples import load_sampling_run, sample_images, sampler, to_pixels
from analysis.look.trained_run import TrainedRun, load_network, load_run
from analysis.read.runs import generation_scores, read_runs
from analysis.record import run_folder
from analysis.record.resume import resolve
from data import arrays
from data.dataset import Split
from data.datasets import describe
from data.files import write_json
from data.seeding import mix_seeds
from models.core import checkpoint
from models.core.abilities import Samples
from models.loading import build_objective
from models.parts.sampling import balanced_labels
from models.registry import MODELS
from tests.analysis.look.test_fidelity import Pixels
from tests.forks import fork_train_py
from tests.models.test_objectives import build
from tests.trained_runs import save_run

SAMPLING = [name for name in ("vae", "cvae", "cvae_head", "vq_vae", "dc_gan", "ac_gan") if name in MODELS]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", SAMPLING)
def test_samples_are_pictures_that_depend_on_the_seed_alone(name):
    model = build(name).eval()
    assert isinstance(model, Samples)
    state = torch.get_rng_state()
    images = model.sample(12, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert images.shape == (12, 3, 32, 32)
    assert 0 <= images.min() < images.max() <= 1
    torch.manual_seed(1)
    assert torch.equal(model.sample(12, seed=4), images)
    assert not torch.equal(model.sample(12, seed=5), images)
    if model.num_labels:
        labels = balanced_labels(12, model.num_labels, 4)
        assert torch.equal(model.sample(12, 4, labels), images)
        assert not torch.equal(model.sample(12, 4, (labels + 1) % model.num_labels), images)


def test_labels_that_are_left_out_are_balanced_and_begin_anywhere():
    counts = torch.bincount(balanced_labels(25, 10, seed=7), minlength=10)
    assert (counts.min(), counts.max()) == (2, 3)
    assert balanced_labels(3, 10, seed=8).tolist() == [8, 9, 0]
    assert balanced_labels(3, 0, seed=8).tolist() == [0, 0, 0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a cvae, a vae and a cnn, as a run leaves them, of networks that have learnt nothing."""
    folder = tmp_path_factory.mktemp("runs")
    for model in ("cvae", "vae", "cnn"):
        settings = resolve([f"--model={model}", "--dataset=digits", "--width=4"], {})
        (folder / model).mkdir()
        write_json(folder / model / run_folder.SETTINGS, asdict(settings))
        objective = build_objective(settings, describe("digits", 0))
        checkpoint.save(folder / model / run_folder.BEST, objective.state_dict())
    return folder


def test_samples_of_a_conditional_run_are_sorted_by_class_and_the_same_for_the_same_seed(runs, tmp_path):
    for name in ("a", "b"):
        assert samples.main([str(runs / "cvae"), "--num=30", f"--out={tmp_path / name}", "--seed=2"]) == 0
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert [str(path) for path in files[:4]] == ["0/000000.png", "0/000010.png", "0/000020.png", "1/000001.png"]
    assert len(files) == 30
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)
    with Image.open(tmp_path / "a-grid.png") as grid:
        assert grid.size == (10 * 164 + 4, 3 * 180 + 4)


def test_samples_of_a_run_without_classes_lie_flat_and_of_chosen_classes_alone(runs, tmp_path):
    assert samples.main([str(runs / "vae"), "--num=9", f"--out={tmp_path / 'flat'}"]) == 0
    assert len(list((tmp_path / "flat").glob("*.png"))) == 9
    assert samples.main([str(runs / "cvae"), "--num=9", "--classes", "7", "3", "--out", str(tmp_path / "two")]) == 0
    assert {path.name: len(list(path.iterdir())) for path in (tmp_path / "two").iterdir()} == {"7": 5, "3": 4}


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_a_finished_run_samples_in_the_precision_of_its_training(precision, tmp_path, monkeypatch):
    monkeypatch.setattr("models.core.precision.cpu_has_bf16", lambda: True)
    run = load_sampling_run(save_run(tmp_path / "run", "vae", mixed_precision=precision), "", load_network)
    [seed] = mix_seeds(5, 0, num=1)
    [sampled] = sample_images(sampler(run), 4, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        as_in_training = to_pixels(run.objective.sample(256, seed))[:4]
    exact = to_pixels(run.objective.sample(256, seed))[:4]
    assert torch.equal(sampled, as_in_training)
    assert torch.equal(sampled, exact) == (precision == "no")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cnn"], "cnn makes no images of its own"),
        (["vae", "--classes", "3"], "without regard to classes"),
        (["cvae", "--classes", "33"], "--classes=33 is not known, did you mean 3"),
        (["cvae", "--out=."], "is not an empty folder"),
    ],
)
def test_what_cannot_be_sampled_ends_in_one_line(words, message, runs, tmp_path, capsys):
    assert samples.main([str(runs / words[0]), f"--out={tmp_path / 'new'}", *words[1:]]) == 2
    assert message in capsys.readouterr().err


def test_a_finished_run_is_measured_and_its_figures_kept(runs, monkeypatch, capsys):
    class FewPixels(Pixels):
        def __call__(self, images):
            return super().__call__(images)[:, ::64]

    monkeypatch.setattr(generation, "build_extractor", lambda name, device: FewPixels())
    assert generation.main([str(runs / "cvae"), "--num=50"]) == 0
    figures = json.loads((runs / "cvae" / "generation.json").read_text())
    assert "test/fid_pixels_50" in figures
    assert "test/fid_pixels_50" in capsys.readouterr().out
    assert generation.main([str(runs / "cvae"), "--num=50", "--split=tset"]) == 2


def test_figures_of_weights_that_a_run_no_longer_has_are_left_out(tmp_path, monkeypatch, capsys):
    folder = save_run(tmp_path / "run", "vae")
    [record] = read_runs(tmp_path).records
    monkeypatch.setattr(generation, "build_extractor", lambda name, device: SimpleNamespace(name="pixels"))
    splits = {"train": None, "val": None}
    monkeypatch.setattr(generation, "load_sampling_run", lambda *told: TrainedRun(None, None, splits, None))
    monkeypatch.setattr(generation, "measure_run", lambda *told: {f"{told[2]}/fid_pixels_{told[3]}": 1.0})
    assert generation.main([str(folder), "--num=10"]) == 0
    assert generation_scores(record) == {"val/fid_pixels_10": 1.0}  # as the run has no test images
    splits["test"] = None
    with (folder / run_folder.BEST).open("ab") as file:  # a better epoch
        file.write(b"0")
    capsys.readouterr()
    assert generation_scores(record) == {}
    assert capsys.readouterr().err.endswith("generation.json: left out: the run has gone on since: measure it again\n")
    assert generation.main([str(folder), "--num=20"]) == 0
    assert generation_scores(record) == {"test/fid_pixels_20": 1.0}
    (folder / run_folder.BEST).unlink()  # pruned
    assert generation_scores(record) == {"test/fid_pixels_20": 1.0}
    write_json(folder / run_folder.GENERATION, {"test/fid_pixels_5": 2.0})  # of 0.1.0
    assert generation_scores(record) == {"test/fid_pixels_5": 2.0}


def classes_by_colour(num, seed, shuffled=False):
    """Images whose class is their brightest channel, or with labels that have nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 3
    images = torch.randint(100, (num, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images[torch.arange(num), labels] += 100
    return Split(images, labels[torch.randperm(num, generator=generator)] if shuffled else labels)


@pytest.mark.slow
@pytest.mark.parametrize(("shuffled", "low", "high"), [(False, 0.95, 1.0), (True, 0.0, 0.7)])
def test_the_score_is_high_where_samples_show_their_classes_and_low_where_not(monkeypatch, shuffled, low, high):
    monkeypatch.setattr("analysis.look.classification_score.run_train_py", fork_train_py)
    settings = resolve(["--width=4", "--head_width=16", "--epochs=6", "--lr=1e-2", "--batch_size=30"], {})
    splits = classes_by_colour(300, 0, shuffled), classes_by_colour(90, 1)
    assert low <= train_and_test(settings, ("r", "g", "b"), *splits)["test/accuracy"] <= high


def test_samples_are_scored_on_real_images_as_far_as_the_run_sees_them(runs, tmp_path, monkeypatch):
    seen = []

    def read_images(told, runs_dir):
        seen.append(arrays.load(Path(told["data_dir"]), told["image_size"], 0))
        write_json(tmp_path / run_folder.SUMMARY, {"test/accuracy": 0.5})
        return tmp_path

    monkeypatch.setattr("analysis.look.classification_score.run_train_py", read_images)
    run = load_run(runs / "cvae")
    stored = torch.randint(256, (6, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    splits = {"test": Split(stored, torch.arange(6), rows=torch.tensor([5, 4, 3, 2, 1, 0]))}
    run = run._replace(info=replace(run.info, stored_size=40), splits=splits)
    words = ["--model=mlp", "--epochs=3", "--image_size=8"], ["--model=mlp", "--epochs=4", "--seed=2"], ["--model=mlp"]
    scores = [score_run(run, "test", 10, 0, resolve(told, {})) for told in words]
    names = [f"test/classification_score_mlp_10{told}" for told in ("_epochs=3", "_epochs=4", "")]
    assert scores == [{name: 0.5} for name in names]
    assert torch.equal(seen[0].test.images, stored.flip(0)[:, :, 4:36, 4:36])


@pytest.mark.slow
def test_a_finished_run_is_scored_with_settings_as_of_train_py(runs, lean, capsys):
    words = ["--num=100", "--epochs=1", "--model=mlp", "--width=8", "--batch_size=50"]
    assert classification_score.main([str(runs / "cvae"), *words]) == 0
    figures = json.loads((runs / "cvae" / "generation.json").read_text())
    assert "test/classification_score_mlp_100_epochs=1_batch_size=50_width=8" in figures
    assert classification_score.main([str(runs / "vae"), *words]) == 2
    assert classification_score.main([str(runs / "cvae"), "--epoch=1"]) == 2
    assert "did you mean --epochs?" in capsys.readouterr().err


def test_samples_need_no_images_of_the_run(tmp_path):
    folder = save_run(tmp_path / "run", "vae")
    assert samples.main([str(folder), "--num=3", f"--out={tmp_path / 'new'}"]) == 0
    assert len(list((tmp_path / "new").iterdir())) == 3
