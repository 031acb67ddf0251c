"""What a classifier predicts is kept image by image, and its temperature with it."""

import csv
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from analysis.look.calibration import UNCHANGED, calibration_of, fit_temperature
from analysis.look.closer import Subject, closer_look
from analysis.look.split_predictions import Predictions, predict_split, save_predictions
from analysis.read.predictions import right_by_image
from analysis.record import run_folder
from data.dataset import DatasetInfo, Split
from data.files import read_json
from data.loader import Loader
from models.parts.labelling import ONE_CLASS, SEVERAL_LABELS
from tests.models.test_objectives import build

INFO = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, {}, "")


def loader_of(num, names=(), seed=0):
    images = torch.randint(256, (num, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Loader(Split(images, torch.arange(num) % 10, names=names), INFO, torch.device("cpu"))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_names_that_are_no_text_are_kept_as_they_are_on_the_disk(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    save_predictions(tmp_path / "p.csv", {"val": predict_split(build("cnn").eval(), loader_of(1, [name]))}, INFO)
    assert b"caf\xe9.png" in (tmp_path / "p.csv").read_bytes()
    (tmp_path / "p.csv").rename(tmp_path / run_folder.PREDICTIONS)
    assert list(right_by_image([tmp_path], "val")) == [name]


@pytest.mark.slow
def test_every_validation_and_test_image_of_a_run_is_in_its_table_to_the_last_digit(tmp_path):
    model = build("cnn", eval_batch_size=4).eval()
    names = [f'val/{i}, "odd".png' for i in range(7)]
    loaders = {"train": loader_of(12), "val": loader_of(7, names), "test": loader_of(9, seed=1)}
    closer_look(Subject(model, loaders, "test", tmp_path))
    rows = rows_of(tmp_path / run_folder.PREDICTIONS)
    assert [(row["file"], row["split"]) for row in rows] == [(name, "val") for name in names] + [
        (str(i), "test") for i in range(9)
    ]
    for split in ("val", "test"):
        own = [row for row in rows if row["split"] == split]
        metrics = [model.evaluate(batch) for batch in loaders[split].evaluation_batches(4)]
        losses, right = (torch.cat([each[key] for each in metrics]) for key in ("loss", "accuracy"))
        assert [np.float32(row["loss"]) for row in own] == losses.tolist()
        assert [row["true"] == row["predicted"] for row in own] == right.bool().tolist()
        assert [row["true"] for row in own] == [INFO.classes[label] for label in loaders[split].labels]
    kept = read_json(tmp_path / run_folder.CALIBRATION)
    assert kept.pop("weights") == run_folder.weights_fingerprint(tmp_path)
    assert kept == pytest.approx(calibration_of(predict_split(model, loaders["val"])))


def test_without_held_out_images_those_that_are_looked_at_are_in_the_table(tmp_path):
    loaders = {"train": loader_of(5)}
    closer_look(Subject(build("cnn").eval(), loaders, "train", tmp_path))
    assert {row["split"] for row in rows_of(tmp_path / run_folder.PREDICTIONS)} == {"train"}
    assert not (tmp_path / run_folder.CALIBRATION).exists()


def test_numbers_in_the_table_are_those_of_the_network_bit_for_bit(tmp_path):
    logits = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 5
    labels = torch.arange(200) % 3
    save_predictions(tmp_path / "p.csv", {"val": Predictions(logits, labels)}, INFO)
    read = np.array([[row["probability"], row["loss"]] for row in rows_of(tmp_path / "p.csv")], dtype=np.float32)
    assert np.array_equal(read[:, 0], logits.softmax(1).amax(1).numpy())
    assert np.array_equal(read[:, 1], nn.functional.cross_entropy(logits, labels, reduction="none").numpy())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 640.0])  # the last as of losses of a CVAE
def test_the_temperature_that_logits_were_multiplied_by_is_found(temperature):
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(40_000, 4, generator=generator)
    labels = torch.multinomial(true.softmax(1), 1, generator=generator).squeeze(1)
    assert fit_temperature(temperature * true, labels) == pytest.approx(temperature, rel=0.05)
    mended = calibration_of(Predictions(3 * true, labels))
    assert mended["ece"] > 0.1
    assert mended["ece_calibrated"] < 0.02


@pytest.mark.parametrize("labelling", [ONE_CLASS, SEVERAL_LABELS])
def test_without_a_mistake_the_probabilities_stay_as_they_are(labelling):
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    labels = labelling.decide(labelling.probabilities(logits))
    found = calibration_of(Predictions(logits, labels, labelling=labelling))
    assert found["temperature"] == UNCHANGED
    assert found["ece"] == found["ece_calibrated"] > 0
    labels[0] = 1 - labels[0] if labelling is SEVERAL_LABELS else (labels[0] + 1) % 4
    assert calibration_of(Predictions(logits, labels, labelling=labelling))["temperature"] != UNCHANGED


def test_a_split_is_predicted_without_gradients_in_its_order():
    model = SimpleNamespace(settings=SimpleNamespace(eval_batch_size=2), predict=lambda images: images.mean((2, 3)))
    loader = loader_of(5)
    found = predict_split(model, loader)
    torch.testing.assert_close(found.logits, loader.batch(torch.arange(5)).images.mean((2, 3)))
    assert found.names == ["0", "1", "2", "3", "4"]
