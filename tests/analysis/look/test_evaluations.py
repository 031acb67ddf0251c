"""A run is evaluated on other images, whose classes are found by name, and its own figures stay as they were."""

import csv
import shutil

import numpy as np
import pytest
import torch

from analysis import evaluate, predict
from analysis.look import evaluations
from analysis.look.trained_run import load_network
from analysis.record import run_folder
from analysis.record.data_file import keep_info
from data.errors import UserError
from data.files import read_json, write_json
from data.paths import cache_dir
from models.core import precision
from tests.loaded import load_splits
from tests.trained_runs import save_pictures, save_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tmp_path):
    folder = save_run(tmp_path / "run", "cnn", eval_batch_size=4)
    write_json(folder / run_folder.SUMMARY, {"state": "finished", "val/accuracy": 0.125, "val/loss": 7.5})
    return folder


def evaluated(capsys, *words):
    code = evaluate.main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_metrics_on_other_images_are_those_of_the_predictions_there(run, tmp_path, capsys):
    save_pictures(tmp_path / "there")
    shutil.rmtree(tmp_path / "there" / "cat")  # so that labels there are others than the run's
    kept = (run / run_folder.SUMMARY).read_bytes()
    code, out, err = evaluated(capsys, run, "--data_dir", tmp_path / "there")
    assert (code, err) == (0, "")
    assert f"6 images of {tmp_path / 'there'}: all" in out
    assert "12.50 %" in out
    [(key, entry)] = read_json(run / run_folder.EVALUATIONS).items()
    assert key.endswith("/all")
    assert (entry["num_images"], entry["are_the_runs_own"]) == (6, False)
    predict.main([str(run), str(tmp_path / "there"), "--format=csv"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    losses = [float(row["loss"]) for row in rows]
    is_right = [row["true"] == row["class"] for row in rows]
    assert entry["metrics"]["accuracy"] == pytest.approx(sum(is_right) / 6)
    assert entry["metrics"]["loss"] == pytest.approx(sum(losses) / 6, rel=1e-4)
    assert entry["metrics"].keys() == {"loss", "accuracy", "ece"}
    assert (run / run_folder.SUMMARY).read_bytes() == kept


def test_images_are_decoded_as_the_runs_own_were(tmp_path, capsys):
    folder = save_run(tmp_path / "run", "cnn", eval_batch_size=4, decode="each")
    save_pictures(tmp_path / "there")
    before = set(cache_dir().rglob("images.npy"))
    assert evaluated(capsys, folder, "--data_dir", tmp_path / "there")[0] == 0
    assert set(cache_dir().rglob("images.npy")) == before


def test_splits_there_are_kept_one_beside_the_other(run, tmp_path, capsys):
    for i, split in enumerate(("train", "test")):
        save_pictures(tmp_path / "there" / split, num=6 + 3 * i, seed=i)
    for words in ((), ("--split=train",), ("--split=test",)):
        assert evaluated(capsys, run, "--data_dir", tmp_path / "there", *words)[0] == 0
    kept = read_json(run / run_folder.EVALUATIONS)
    assert {key.rpartition("/")[2]: entry["num_images"] for key, entry in kept.items()} == {"train": 6, "test": 9}


def test_the_runs_own_images_are_read_once_and_divided_as_they_were_for_it(run, tmp_path, capsys):
    save_pictures(tmp_path / "own", num=30)
    (tmp_path / "own" / "cat" / "broken.png").write_bytes(b"no picture")
    settings = load_network(run).settings
    keys = ("train_fraction", "val_fraction", "data_seed", "normalisation", "max_corrupt_images")
    info, _ = load_splits(
        "folder", str(tmp_path / "own"), image_size=32, **{key: getattr(settings, key) for key in keys}
    )
    keep_info(run, info)
    capsys.readouterr()
    code, out, err = evaluated(capsys, run, "--data_dir", tmp_path / "own")
    assert (code, err.count("\n")) == (0, 1)
    assert f"3 images of {tmp_path / 'own'}: the run's own images, val" in out


def test_the_runs_own_images_are_warned_of_where_they_have_changed_since(run, tmp_path, capsys):
    save_pictures(tmp_path / "own", num=30)
    settings = read_json(run / run_folder.SETTINGS)
    write_json(run / run_folder.SETTINGS, {**settings, "dataset": "folder", "data_dir": str(tmp_path / "own")})
    code, _, err = evaluated(capsys, run)
    assert (code, err.count("\n")) == (0, 1)
    assert f"{tmp_path / 'own'} has changed since: the run was trained on some of these images" in err


def test_another_dataset_is_looked_for_where_it_usually_is(run, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(evaluate, "read_other_data", lambda *arguments: asked.append(arguments[1:]) or fail())
    settings = read_json(run / run_folder.SETTINGS)
    write_json(run / run_folder.SETTINGS, {**settings, "dataset": "folder", "data_dir": "photos"})
    for words in (["--dataset=cifar10"], [], ["--dataset=cifar10", "--data_dir=there"]):
        evaluated(capsys, run, *words)
    assert asked == [("cifar10", "", ""), ("folder", "photos", ""), ("cifar10", "there", "")]


def test_the_column_of_the_labels_is_the_runs_own_unless_another_one_is_named(run, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(evaluate, "read_other_data", lambda *arguments: asked.append(arguments[3]) or fail())
    settings = read_json(run / run_folder.SETTINGS)
    write_json(run / run_folder.SETTINGS, {**settings, "dataset": "hf/a", "label_column": "fine"})
    for words in ([], ["--label_column=coarse"], ["--dataset=hf/b"], ["--dataset=hf/b", "--label_column=kind"]):
        evaluated(capsys, run, *words)
    assert asked == ["fine", "coarse", "", "kind"]


def test_images_whose_size_is_another_and_cannot_be_changed_are_refused(run, tmp_path, capsys):
    (tmp_path / "small").mkdir()
    np.savez(tmp_path / "small" / "train.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.zeros(4, int))
    code, _, err = evaluated(capsys, run, "--dataset=arrays", "--data_dir", tmp_path / "small")
    assert code == 2
    assert "--dataset=arrays has images of 8 pixels alone, and the run has seen 32: name a run on images of 8" in err


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_a_run_is_evaluated_in_fp32_where_its_precision_would_be_emulated(kind, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluations, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: False)
    settings = read_json(run / run_folder.SETTINGS)
    write_json(run / run_folder.SETTINGS, {**settings, "mixed_precision": kind})
    used = []
    make = evaluations.make_accelerator
    monkeypatch.setattr(
        evaluations, "make_accelerator", lambda own, on_cpu: used.append(own.mixed_precision) or make(own, on_cpu)
    )
    save_pictures(tmp_path / "there")
    code, _, err = evaluated(capsys, run, "--data_dir", tmp_path / "there")
    assert (code, used) == (0, ["no"])
    assert "emulates" not in err


def fail():
    raise UserError("asked")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "gone is not a folder: name the folder of your images with --data_dir"),
        (["--data_dir={dir}/flat"], "flat has no classes, but the run has 3: sort the images into folders"),
        (["--data_dir={dir}/more"], "more has the class cow, which the run does not know: it knows cat, dog, frog"),
        (["--data_dir={dir}/nosuch", "--split=tset"], "--split=tset is not known, did you mean test?"),
        (["--data_dir={dir}/split", "--split=test"], "--split=test: {dir}/split has train, val"),
        (["--data_dir={dir}/flat", "--dataset=flowers"], "--dataset=flowers is not known"),
    ],
)
def test_bad_inputs_are_told_in_one_line(words, told, run, tmp_path, capsys):
    [picture, *_] = save_pictures(tmp_path / "more")
    (tmp_path / "more" / "dog").rename(tmp_path / "more" / "cow")
    (tmp_path / "flat").mkdir()
    shutil.copy(picture, tmp_path / "flat" / picture.name)
    for split in ("train", "val"):
        save_pictures(tmp_path / "split" / split)
    code, out, err = evaluated(capsys, run, *(word.format(dir=tmp_path) for word in words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told.format(dir=tmp_path) in err
    assert not (run / run_folder.EVALUATIONS).exists()
