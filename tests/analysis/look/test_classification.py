import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from analysis.look.classification import (
    NUM_MISTAKES,
    analyse_classifier,
    calibrate,
    count_confusions,
    draw_confusion_matrix,
    mistakes_panel,
    tabulate_classes,
)
from analysis.look.split_predictions import Predictions
from data.dataset import DatasetInfo, Split
from data.loader import Loader

INFO = DatasetInfo("synthetic", 2, ("ant", "bee", "cat"), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), {}, "")


def read_image(path):
    with Image.open(path) as image:
        image.load()
        return image


def test_calibration_by_hand():
    probabilities = np.array([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]])  # confidence .6 .8 .9 .7
    labels = np.array([0, 0, 0, 0])  # right but for the second
    calibration = calibrate(probabilities, labels, num_bins=5)  # bins hold their upper end
    np.testing.assert_allclose(calibration.confidence, [np.nan, np.nan, 0.6, 0.75, 0.9])
    np.testing.assert_allclose(calibration.accuracy, [np.nan, np.nan, 1.0, 0.5, 1.0])
    np.testing.assert_allclose(calibration.share, [0, 0, 0.25, 0.5, 0.25])
    assert calibration.error == pytest.approx(0.25 * 0.4 + 0.5 * 0.25 + 0.25 * 0.1)


def test_a_perfectly_calibrated_classifier_has_no_calibration_error():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 50_000)
    labels = (random.random(50_000) >= confidence).astype(int)  # class 0 as often as it is promised
    assert calibrate(np.stack([confidence, 1 - confidence], axis=1), labels).error < 0.01


def test_always_sure_and_half_right_is_a_calibration_error_of_a_half():
    probabilities = np.tile([1.0, 0.0], (10, 1))
    assert calibrate(probabilities, np.arange(10) % 2).error == 0.5


@pytest.fixture
def six_images():
    """What a classifier predicts of six images that hold their own number, and their loader."""
    sure = [(0, 0.9), (0, 0.62), (1, 0.82), (1, 0.7), (2, 0.95), (2, 0.5)]  # predicted class, confidence
    probabilities = torch.tensor([[p if c == k else (1 - p) / 2 for c in range(3)] for k, p in sure])
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    return Predictions(probabilities.log(), labels), numbered_images(labels)


def numbered_images(labels):
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    info = replace(INFO, mean=(0.0,) * 3, std=(1 / 255,) * 3)  # so that a network is given the numbers themselves
    return Loader(Split(images, labels), info, torch.device("cpu"))


@pytest.mark.slow
def test_a_classifiers_figures_by_hand(six_images, tmp_path):
    analysis = analyse_classifier(*six_images, INFO.classes, "val", tmp_path)
    with (tmp_path / "per_class.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "precision", "recall", "f1-score", "support"]
    assert [row[0] for row in rows] == ["ant", "bee", "cat"]
    expected = [[1, 2 / 3, 0.8, 3], [1 / 2, 1 / 2, 1 / 2, 2], [1 / 2, 1, 2 / 3, 1]]
    np.testing.assert_allclose([list(map(float, row[1:])) for row in rows], expected, atol=1e-4)
    assert [list(map(str, row)) for row in analysis.tables["per_class"].rows] == rows
    # Each image has a bin of its own.
    assert analysis.metrics["ece"] == pytest.approx((0.1 + 0.38 + 0.82 + 0.3 + 0.95 + 0.5) / 6)


def test_confusions_and_the_figures_of_each_class_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predicted = torch.from_numpy(rng.integers(0, 5, 200)), torch.from_numpy(rng.integers(0, 4, 200))
    labels[labels == 2] = 3  # a class without images, and others that are never predicted
    matrix = count_confusions(labels, predicted, 6)
    np.testing.assert_array_equal(matrix, confusion_matrix(labels, predicted, labels=range(6)))
    wanted = precision_recall_fscore_support(labels, predicted, labels=range(6), zero_division=0.0)
    figures = [row[1:] for row in tabulate_classes(matrix, tuple("abcdef")).rows]
    np.testing.assert_allclose(figures, np.stack(wanted, 1), atol=5.1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "classes", [("accuracy", "macro avg", "weighted avg"), ("micro avg", "$x^$", "a_{$"), ("ant", "ant ", "Käfer 漢")]
)
def test_names_of_classes_are_taken_as_they_are(classes, six_images, tmp_path, capsys):
    plain = analyse_classifier(*six_images, INFO.classes, "val", tmp_path)
    analysis = analyse_classifier(*six_images, classes, "val", tmp_path)
    rows, expected = (found.tables["per_class"].rows for found in (analysis, plain))
    assert rows == [(name, *row[1:]) for name, row in zip(classes, expected, strict=True)]
    assert set(analysis.images) == {"confusion_matrix", "reliability", "mistakes"}
    assert capsys.readouterr().err == ""
    assert (tmp_path / "per_class.csv").read_text("utf-8").splitlines()[1].startswith(classes[0])


def test_dollars_in_the_name_of_a_class_are_no_mathematics(tmp_path, monkeypatch):
    from matplotlib.cbook import is_math_text
    from matplotlib.figure import Figure

    shown = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: shown.append(figure.axes[0].get_xticklabels()))
    draw_confusion_matrix(np.eye(2, dtype=int), (r"$\frac$", "$a$ and $b$"), "val", tmp_path / "x.png")
    texts = [text.get_text() for text in shown[0]]
    assert not any(is_math_text(text) for text in texts)
    assert [text.replace(r"\$", "$") for text in texts] == [r"$\frac$", "$a$ and $b$"]


@pytest.mark.filterwarnings("error")
def test_names_in_letters_that_no_font_has_are_drawn_without_a_warning(tmp_path):
    draw_confusion_matrix(np.eye(2, dtype=int), ("漢", "🦊"), "val", tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()


def test_a_classifiers_pictures_are_written_and_name_the_split(six_images, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    titles, save = {}, Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda it, path, dpi: titles.update({path.stem: it.axes[0].get_title()}) or save(it, path)
    )
    analysis = analyse_classifier(*six_images, INFO.classes, "val", tmp_path)
    assert analysis.images == {
        name: tmp_path / f"{name}.png" for name in ("confusion_matrix", "reliability", "mistakes")
    }
    for path in analysis.images.values():
        assert min(read_image(path).size) > 100
    assert titles["confusion_matrix"] == "confusion matrix, 6 val images"
    assert titles["reliability"] == "reliability, 6 val images, ECE 50.83 %"


def test_without_a_mistake_there_is_no_picture_of_mistakes(six_images, tmp_path):
    predictions, loader = six_images
    flawless = Predictions(predictions.logits, predictions.predicted)
    assert "mistakes" not in analyse_classifier(flawless, loader, INFO.classes, "val", tmp_path).images
    assert not (tmp_path / "mistakes.png").exists()


def test_mistakes_come_surest_first(six_images):
    predictions, loader = six_images
    images = loader.batch(torch.arange(6)).images
    panel = mistakes_panel(loader, INFO.classes, predictions)
    assert panel.captions == ("bee as cat", "ant as bee")  # .95 and .82
    assert panel.marks == (False, False)
    torch.testing.assert_close(panel.images, images[[4, 2]] / 255)


def test_mistakes_are_named_by_their_files_where_there_are_any(six_images):
    predictions, loader = six_images
    loader.names = [f"cat/{i}.png" for i in range(6)]
    captions = mistakes_panel(loader, INFO.classes, predictions).captions
    assert captions == ("bee as cat\ncat/4.png", "ant as bee\ncat/2.png")


def test_only_the_worst_mistakes_are_shown():
    confidence = torch.linspace(0.5, 0.9, NUM_MISTAKES + 5)
    probabilities = torch.stack([confidence, 1 - confidence, torch.zeros_like(confidence)], dim=1)
    loader = numbered_images(torch.ones(NUM_MISTAKES + 5, dtype=torch.long))
    panel = mistakes_panel(loader, INFO.classes, Predictions(probabilities.log(), loader.labels))
    shown = (panel.images[:, 0, 0, 0] * 255).round().tolist()
    assert shown == list(reversed(range(5, NUM_MISTAKES + 5)))
