"""A run whose images have several labels: its closing look, its predictions of files, other data, exports."""

import csv
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from analysis import evaluate, export, predict
from analysis.look.closer import Subject, closer_look
from analysis.look.evaluations import labels_in
from analysis.look.label_scores import draw_precisions, tabulate_labels
from analysis.look.trained_run import load_network
from analysis.record import run_folder
from analysis.record.data_file import keep_info
from data import csv_table
from data.csv_table import LABEL
from data.dataset import Dataset, Split
from data.errors import UserError
from data.files import read_json, write_json
from data.loader import Loader
from models.core import checkpoint
from models.loading import build_objective
from models.parts.labelling import SEVERAL_LABELS
from models.registry import MODELS
from tests.models.test_objectives import SMALL
from tests.trained_runs import info_for

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("Hat", "red", "$old$")


def save_run(folder, model="cnn", **settings):
    """A run of a small model with random weights, whose predictions differ from image to image."""
    folder.mkdir(parents=True)
    own = {"dataset": "csv", "data_dir": "gone", "run_id": folder.name, "runs_dir": str(folder.parent)}
    chosen = MODELS[model].settings_class(model=model, **{**SMALL[model], **own, "eval_batch_size": 4, **settings})
    info = replace(info_for(model), classes=NAMES, several_labels=True)
    write_json(folder / run_folder.SETTINGS, asdict(chosen))
    keep_info(folder, info)
    objective = build_objective(chosen, info)
    for parameter in objective.parameters():
        parameter.data *= 1.5
    checkpoint.save(folder / run_folder.BEST, objective.state_dict())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file of 12 pictures and their labels, in another order than the run's, with one more."""
    folder, random = tmp_path_factory.mktemp("there"), np.random.RandomState(0)
    with (folder / "there.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", *(f"{LABEL}{name}" for name in (*NAMES[::-1], "more")), "light"])
        for i in range(12):
            Image.fromarray(random.randint(0, 256, (32, 32, 3), dtype=np.uint8) // (1 + i % 4)).save(
                folder / f"{i}.png"
            )
            rows.writerow([f"{i}.png", i % 2, int(i % 3 == 0), int(i > 8), 1, ("day", "night")[i % 2]])
    return folder / "there.csv"


def expected_of(run, table):
    """Logits and labels [12, 3] of the pictures of a table, each by itself."""
    network, dataset = load_network(run), csv_table.load(table, 32, 0)
    images = Loader(dataset.train, network.info, torch.device("cpu")).batch(torch.arange(12)).images
    with torch.no_grad():
        logits = torch.cat([network.objective.predict(image[None]) for image in images])
    return logits, dataset.train.labels[:, [2, 1, 0]]


def said(capsys, program, *words):
    code = program.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_closing_look_has_the_figures_of_each_label(run, table, tmp_path):
    network = load_network(run)
    logits, labels = expected_of(run, table)
    dataset = csv_table.load(table, 32, 0)
    split = dataset.train._replace(labels=labels)
    loader = Loader(split, network.info, torch.device("cpu"))
    found = closer_look(Subject(network.objective, {"val": loader}, "val", tmp_path))
    assert set(found.images) == {"average_precision", "reliability", "mistakes"}
    for i, (name, precision, area, _, _, f1, support) in enumerate(found.tables["per_class"].rows):
        own, scores = labels[:, i].numpy(), logits[:, i].numpy()
        assert (name, support) == (NAMES[i], own.sum())
        assert precision == pytest.approx(average_precision_score(own, scores), abs=1e-4)
        assert area == pytest.approx(roc_auc_score(own, scores), abs=1e-4)
        assert f1 == pytest.approx(f1_score(own, scores > 0), abs=1e-4)
    with (tmp_path / run_folder.PREDICTIONS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"{i}.png" for i in range(12)]
    kept = np.array([[row[f"probability:{name}"] for name in NAMES] for row in rows], dtype=np.float32)
    np.testing.assert_allclose(kept, logits.sigmoid(), atol=1e-5)
    assert [[row[f"{LABEL}{name}"] for name in NAMES] for row in rows] == [[f"{v:.0f}" for v in own] for own in labels]
    losses = SEVERAL_LABELS.losses(logits, labels)
    np.testing.assert_allclose([float(row["loss"]) for row in rows], losses, rtol=1e-4)
    calibration = read_json(tmp_path / run_folder.CALIBRATION)
    assert (calibration["num_images"], found.metrics["ece"]) == (12, calibration["ece"])


def test_pictures_are_told_with_the_labels_above_a_half(run, table, tmp_path, capsys):
    logits, labels = expected_of(run, table)
    code, out, err = said(capsys, predict, run, table, "--format=jsonl")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    for row, own, label, loss in zip(rows, logits, labels, SEVERAL_LABELS.losses(logits, labels), strict=True):
        assert row["probabilities"] == pytest.approx(dict(zip(NAMES, own.sigmoid().tolist(), strict=True)), abs=1e-5)
        assert set(row["labels"]) == {name for name, value in zip(NAMES, own, strict=True) if value > 0}
        truth = [name for name, value in zip(NAMES, label, strict=True) if value]
        assert (row["true"], row["loss"]) == (", ".join(truth) or "none", pytest.approx(loss.item(), rel=1e-4))
    sheet = tmp_path / "sheet.png"
    code, out, err = said(capsys, predict, run, table, "--slice-by=light", "--sheet", sheet, "--with", run)
    assert (code, err, sheet.stat().st_size > 1000) == (0, "", True)
    accuracy = ((logits > 0) == labels.bool()).float().mean().item()
    figures = SEVERAL_LABELS.split_metrics(SEVERAL_LABELS.kept(logits, labels))
    assert f"label_accuracy {accuracy:.2%} of 12 images".replace("%", " %") in out
    assert f"mAP {100 * figures['mAP']:.2f} %, auroc {figures['auroc']:.4f}" in out
    assert "the 2 runs disagree on 0 of 12 images" in out
    for told in ("worst mistakes", "by light", "average precision", "night"):
        assert told in out


def test_figures_of_a_sure_network_are_those_of_its_logits(run, table, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    weights = load_network(folder).objective.state_dict()
    last = [name for name, value in weights.items() if value.shape == (len(NAMES),)][-1]
    weights[last] = weights[last] + 25
    checkpoint.save(folder / run_folder.BEST, weights)
    logits, labels = expected_of(folder, table)
    assert (logits.sigmoid() == 1).any()
    code, out, err = said(capsys, predict, folder, table, "--format=jsonl")
    losses = [json.loads(line)["loss"] for line in out.splitlines()]
    assert (code, losses) == (0, pytest.approx(SEVERAL_LABELS.losses(logits, labels).tolist(), rel=1e-4)), err
    figures = SEVERAL_LABELS.split_metrics(SEVERAL_LABELS.kept(logits, labels))
    assert f"mAP {100 * figures['mAP']:.2f} %, auroc {figures['auroc']:.4f}" in err


def test_pictures_without_known_labels_are_told_alike(run, table, tmp_path, capsys):
    code, out, err = said(capsys, predict, run, *table.parent.glob("*.png"), "--out", tmp_path / "told.csv")
    assert (code, err, out) == (0, "", f"{tmp_path / 'told.csv'}\n")
    with (tmp_path / "told.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "labels", *(f"probability:{name}" for name in NAMES)]
    assert len(rows) == 12


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (f"{LABEL}red", "red", f" lacks the column {LABEL}red, a label of the run: add it, or leave all of them out"),
        ("0.png,0", "0.png,no", f": row 1: the column {LABEL}$old$ holds 'no': write 1 or 0"),
    ],
)
def test_a_table_of_other_labels_or_values_is_told_in_one_line(old, new, fault, run, table, capsys):
    changed = table.with_name("changed.csv")
    changed.write_text(table.read_text().replace(old, new))
    code, out, err = said(capsys, predict, run, changed)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{changed}{fault}" in err
    changed.unlink()


def test_metrics_on_other_data_are_those_of_the_labels_by_name(run, table, capsys):
    logits, labels = expected_of(run, table)
    code, out, err = said(capsys, evaluate, run, "--data_dir", table)
    assert (code, err) == (0, "")
    [(_, entry)] = read_json(run / run_folder.EVALUATIONS).items()
    expected = SEVERAL_LABELS.split_metrics(SEVERAL_LABELS.kept(logits, labels))
    expected["loss"] = SEVERAL_LABELS.losses(logits, labels).mean().item()
    assert {name: entry["metrics"][name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert entry["metrics"].keys() == {*expected, "label_accuracy", "ece"}


def test_labels_of_the_other_kind_or_lacking_ones_are_told():
    info = replace(info_for("cnn"), classes=NAMES, several_labels=True)
    pixels = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)

    def other(classes, labels):
        return Dataset("other", classes, Split(pixels, labels), None, "")

    with pytest.raises(UserError, match="other lacks the column label:red, a label of the run: add it"):
        labels_in(other(("Hat", "$old$"), torch.zeros(2, 2)), info)
    with pytest.raises(UserError, match="other has one class an image, but the run several labels an image: name"):
        labels_in(other(NAMES, torch.zeros(2, dtype=torch.long)), info)
    with pytest.raises(UserError, match="other has several labels an image, but the run one class an image: name"):
        labels_in(other(NAMES, torch.zeros(2, 3)), replace(info, several_labels=False))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "form"), [("cnn", "onnx"), ("timm", "timm"), ("timm", "hf"), ("frozen", "pt2")])
def test_exports_give_the_probability_of_each_label(model, form, tmp_path, table, capsys):
    own = {"input_size": 0, "feature_precision": "fp32"} if model == "frozen" else {}
    folder = save_run(tmp_path / "run", model, **own)
    code, out, err = said(capsys, export, folder, "--to", form, "--check", table.parent / "0.png")
    assert (code, err) == (0, "")
    if form == "hf":
        config = read_json(folder / "export" / "hf" / "config.json")
        assert (config["problem_type"], config["about"]["labels"]) == ("multi_label_classification", "several an image")
        assert ".sigmoid()" in (folder / "export" / "hf" / "README.md").read_text()


def test_the_figure_is_drawn_of_many_labels_and_of_such_that_no_image_has(tmp_path):
    random = np.random.RandomState(0)
    for num in (3, 80):
        labels = torch.from_numpy(random.rand(40, num) < 0.4).float()
        labels[:, 0] = 0
        scores = torch.from_numpy(random.randn(40, num))
        table = tabulate_labels(scores, (scores > 0).float(), labels, [f"label {i}" for i in range(num)])
        assert table.rows[0][1:3] == (None, None)
        draw_precisions(table, 40, "val", tmp_path / f"{num}.png")
        assert (tmp_path / f"{num}.png").stat().st_size > 5000
