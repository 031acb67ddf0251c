"""Pictures are predicted as a run's own images are, by one run or several, and told in every form."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from rich.console import Console

from analysis.look.calibration import calibration_of
from analysis.look.closer import Subject, closer_look
from analysis.look.picture_files import PictureFile, find_pictures
from analysis.look.prediction import load_members, predict_files
from analysis.look.split_predictions import predict_split
from analysis.look.trained_run import load_network, load_run
from analysis.predict import main
from analysis.record import run_folder
from analysis.record.data_file import keep_info
from data.files import read_json, write_json
from data.folder import load
from data.pixels import decode_image
from models.loading import put_on_device
from models.parts.feature_extractor import FeatureExtractor, FrozenNetwork
from models.registry import MODELS
from tests.trained_runs import CLASSES, info_for, save_pictures, save_run

pytestmark = pytest.mark.usefixtures("one_thread")
CALIBRATED = {"temperature": 4.0, "ece": 0.25, "ece_calibrated": 0.125, "num_images": 1000}  # as a run's folder says
CLASSIFIERS = [name for name in MODELS if name not in ("vae", "vq_vae", "dc_gan")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "one", "cnn", eval_batch_size=4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder)
    return folder


def predict(capsys, *words):
    """The exit code, output and errors of the program."""
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def read_csv(text):
    return list(csv.DictReader(text.splitlines()))


def by_hand(folder, paths, flip=False):
    """Probabilities [N, C] of pictures, each alone: decoded, normalised and put through the network."""
    run = load_network(folder)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (run.info.mean, run.info.std))
    found = []
    for path in paths:
        pixels = torch.from_numpy(decode_image(path, 32).pixels.copy())[None]
        with torch.no_grad():
            found.append(run.objective.predict(((pixels.flip(-1) if flip else pixels) / 255 - mean) / std).softmax(1))
    return torch.cat(found)


def test_pictures_go_through_the_network_as_by_hand(run, pictures):
    paths = sorted(pictures.rglob("*.*"))
    [member] = load_members([run], "", False)
    for flip in (False, True):
        found = predict_files([member], [PictureFile(path) for path in paths], flip)
        expected = by_hand(run, paths)
        expected = (expected + by_hand(run, paths, flip=True)) / 2 if flip else expected
        torch.testing.assert_close(found.probabilities, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.pictures[3], torch.from_numpy(decode_image(paths[3], 32).pixels.copy()))


@pytest.mark.parametrize("name", ["cnn", "frozen"])
def test_predictions_are_those_of_the_runs_own_closing_look_to_the_last_digit(name, tmp_path, capsys):
    folder = save_run(tmp_path / "run", name, eval_batch_size=3)
    save_pictures(tmp_path / "pictures")
    dataset = load(tmp_path / "pictures", 32, 0)
    run = load_network(folder)
    loaders = put_on_device(run.objective, {"val": dataset.train}, Accelerator(cpu=True))
    run.objective.eval()
    closer_look(Subject(run.objective, loaders, "val", folder))
    own = read_csv((folder / run_folder.PREDICTIONS).read_text())
    capsys.readouterr()
    _, out, _ = predict(capsys, folder, tmp_path / "pictures", "--format=csv")
    told = [(row["file"], row["class"], row["probability"], row["true"]) for row in read_csv(out)]
    where = tmp_path / "pictures"
    assert told == [(f"{where / row['file']}", row["predicted"], row["probability"], row["true"]) for row in own]


def test_pictures_in_many_parts_need_one_frozen_network_which_sees_each_once_and_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.look.prediction.DECODED_AT_ONCE", 1)
    # Where bf16 is fast, it is tried on images first.
    monkeypatch.setattr("models.parts.feature_extractor.has_fast_bf16", lambda device: False)
    built, seen = [], []
    build, call = FrozenNetwork.build, FeatureExtractor.__call__
    monkeypatch.setattr(FrozenNetwork, "build", lambda *given: built.append(given) or build(*given))
    monkeypatch.setattr(
        FeatureExtractor, "__call__", lambda self, images: seen.append(len(images)) or call(self, images)
    )
    kept = tmp_path / "features"
    folders = [save_run(tmp_path / name, "frozen", eval_batch_size=2, feature_dir=str(kept)) for name in ("a", "b")]
    files = [PictureFile(path) for path in save_pictures(tmp_path / "pictures")]
    members, state = load_members(folders, "", False), torch.get_rng_state()
    predict_files(members, files, flip=True)
    assert (len(built), sum(seen)) == (1, 2 * 9)
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(kept.rglob("images"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_predicts_without_its_images(name, tmp_path):
    folder = save_run(tmp_path / "run", name)
    found = predict_files(load_members([folder], "", False), [PictureFile(path) for path in save_pictures(tmp_path)])
    assert found.probabilities.shape == (9, 3)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(9))


def test_a_run_that_saw_the_centre_of_its_images_sees_it_in_pictures(run, pictures, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    content = read_json(run / run_folder.DATA)
    write_json(tmp_path / "run" / run_folder.DATA, {**content, "stored_size": 40})
    paths = sorted(pictures.rglob("*.*"))[:3]
    network = load_network(tmp_path / "run")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (network.info.mean, network.info.std))
    pixels = torch.stack([torch.from_numpy(decode_image(path, 40).pixels.copy()) for path in paths])[..., 4:36, 4:36]
    with torch.no_grad():
        expected = network.objective.predict((pixels / 255 - mean) / std).softmax(1)
    found = predict_files(load_members([tmp_path / "run"], "", False), [PictureFile(path) for path in paths], False)
    torch.testing.assert_close(found.probabilities, expected)
    assert torch.equal(found.pictures, pixels)


def test_of_an_odd_margin_the_mirror_image_is_that_of_the_centre(run, pictures, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    write_json(folder / run_folder.DATA, {**read_json(run / run_folder.DATA), "stored_size": 35})
    paths, network = sorted(pictures.rglob("*.*"))[:3], load_network(folder)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (network.info.mean, network.info.std))
    pixels = torch.stack([torch.from_numpy(decode_image(path, 35).pixels.copy()) for path in paths])[..., 1:33, 1:33]
    with torch.no_grad():
        both = [network.objective.predict((each / 255 - mean) / std).softmax(1) for each in (pixels, pixels.flip(-1))]
    found = predict_files(load_members([folder], "", False), [PictureFile(path) for path in paths], flip=True)
    torch.testing.assert_close(found.probabilities, (both[0] + both[1]) / 2)


def test_each_run_has_its_own_temperature_and_what_is_uncalibrated_has_none(run, pictures, tmp_path):
    folders = [shutil.copytree(run, tmp_path / "one"), save_run(tmp_path / "two", "mlp", seed=7)]
    for folder, temperature in zip(folders, (4.0, 0.5), strict=True):
        write_json(folder / run_folder.CALIBRATION, {**CALIBRATED, "temperature": temperature})
    paths = sorted(pictures.rglob("*.*"))
    found = predict_files(load_members(folders, "", True), [PictureFile(path) for path in paths])
    plain = [by_hand(folder, paths) for folder in folders]
    sharpened = [(each.log() / value).softmax(1) for each, value in zip(plain, (4.0, 0.5), strict=True)]
    torch.testing.assert_close(found.uncalibrated.softmax(1), (plain[0] + plain[1]) / 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.probabilities, (sharpened[0] + sharpened[1]) / 2, rtol=1e-4, atol=1e-6)


def test_votes_of_several_runs_stay_with_their_runs_however_many_images_are_decoded_at_once(
    run, pictures, tmp_path, monkeypatch
):
    members = load_members([run, save_run(tmp_path / "other", "mlp", seed=7)], "", False)
    files = [PictureFile(path) for path in sorted(pictures.rglob("*.*"))]
    whole = predict_files(members, files)
    monkeypatch.setattr("analysis.look.prediction.DECODED_AT_ONCE", 4)
    parts = predict_files(members, files)
    assert whole.votes.shape == (2, 9)
    assert torch.equal(parts.votes, whole.votes)
    assert torch.equal(parts.agreed, whole.agreed)


@pytest.mark.parametrize(("precision", "is_exact"), [("bf16", False), ("no", True)])
def test_a_run_predicts_in_its_own_precision(precision, is_exact, tmp_path, monkeypatch):
    monkeypatch.setattr("models.core.precision.cpu_has_bf16", lambda: True)
    [member] = load_members([save_run(tmp_path / "run", "mlp", mixed_precision=precision)], "", False)
    logits = member.logits(torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8), tmp_path)
    assert torch.equal(logits, logits.bfloat16().float()) != is_exact


def test_a_folder_with_classes_is_told_with_its_accuracy(run, pictures, capsys):
    code, out, err = predict(capsys, run, pictures, "--format=csv")
    rows = read_csv(out)
    assert (code, len(rows)) == (0, 9)
    paths = sorted(pictures.rglob("*.*"))
    assert [row["file"] for row in rows] == [str(path) for path in paths]
    assert [row["true"] for row in rows] == [path.parent.name for path in paths]
    expected = by_hand(run, paths)
    assert [row["class"] for row in rows] == [CLASSES[i] for i in expected.argmax(1)]
    shares = np.array([[row[f"probability{rank}"] for rank in ("", "_2", "_3")] for row in rows], dtype=float)
    np.testing.assert_allclose(shares, expected.sort(descending=True).values, rtol=1e-4)
    num_right = sum(row["class"] == row["true"] for row in rows)
    assert err.startswith(f"accuracy {100 * num_right / 9:.2f} % of 9 images, loss ")
    code, table, _ = predict(capsys, run, pictures)
    assert code == 0
    for told in (str(paths[0]), "worst mistakes", "true classes in rows", "accuracy"):
        assert told in table


def test_a_table_of_many_images_shows_the_first_and_says_how_to_get_all(run, pictures, capsys, monkeypatch):
    monkeypatch.setattr("analysis.predict.MOST_ROWS", 8)
    paths = list(map(str, sorted(pictures.rglob("*.*"))))
    table = predict(capsys, run, pictures)[1].partition("the first 8 of 9 images: --out=predictions.csv has all")
    assert table[1]
    assert all(path in table[0] for path in paths[:8])
    assert paths[8] not in table[0]
    assert len(read_csv(predict(capsys, run, pictures, "--format=csv")[1])) == 9


def test_a_narrow_terminal_has_room_for_the_file_for_want_of_the_next_classes(run, pictures, capsys, monkeypatch):
    headings = []
    for width in (40, 300):
        monkeypatch.setattr("analysis.predict.make_console", lambda width=width: Console(width=width))
        lines = predict(capsys, run, pictures)[1].splitlines()
        headings.append(next(line.split() for line in lines if "file" in line))
    assert headings == [["file", "class", "probability", "true"], ["file", "class", "probability", "next", "true"]]


def test_predictions_are_written_as_json_lines_with_the_next_classes(run, pictures, tmp_path, capsys):
    path = next(pictures.rglob("*.png"))
    out = tmp_path / "new" / "p.jsonl"
    code, printed, _ = predict(capsys, run, path, "--out", out, "--sheet", tmp_path / "s.png")
    assert (code, printed.split()) == (0, [str(out), str(tmp_path / "s.png")])
    row = json.loads(out.read_text())
    assert row.keys() == {"file", "class", "probability", "next"}
    [expected] = by_hand(run, [path]).tolist()
    told = {row["class"]: row["probability"]} | {each["class"]: each["probability"] for each in row["next"]}
    assert told == pytest.approx(dict(zip(CLASSES, expected, strict=True)), rel=1e-4)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (4 + 160 + 4, 4 + 160 + 2 * 16 + 4)


@pytest.mark.parametrize("dataset", ["folder", "csv"])
def test_images_that_the_run_was_trained_on_are_told_beside_the_accuracy(dataset, tmp_path, capsys):
    pictures, new = tmp_path / "pictures", tmp_path / "new"
    paths = save_pictures(pictures)
    shutil.copytree(pictures, new)
    table = pictures / "images.csv"
    table.write_text("path\n")
    own = {"folder": pictures, "csv": table}[dataset]
    folder = save_run(tmp_path / "run", "mlp", dataset=dataset, data_dir=str(own))
    told = f"of them {folder} was trained on: of new images fewer will be right"
    assert " of 18 images, loss " in (err := predict(capsys, folder, pictures, new, "--format=csv")[2])
    assert f"\n9 {told}\n" in err
    held_out = [f"{path.relative_to(pictures)},val" for path in paths[:7]]
    (folder / run_folder.PREDICTIONS).write_text("\n".join(["file,split", *held_out]))
    assert f"\n2 {told}\n" in predict(capsys, folder, pictures, new, "--format=csv")[2]
    for path in paths[7:]:
        path.unlink()
    assert "was trained on" not in predict(capsys, folder, pictures, new, "--format=csv")[2]


def test_several_runs_give_their_mean_and_how_often_they_disagree(run, pictures, tmp_path, capsys):
    other = save_run(tmp_path / "other", "mlp", seed=7)
    paths = sorted(pictures.rglob("*.*"))
    _, out, err = predict(capsys, run, pictures, "--with", other, "--format=csv")
    each = torch.stack([by_hand(folder, paths) for folder in (run, other)])
    rows, mean = read_csv(out), each.mean(0)
    assert [row["class"] for row in rows] == [CLASSES[i] for i in mean.argmax(1)]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], mean.amax(1), rtol=1e-4)
    votes = each.argmax(2)
    assert [row["agreed"] for row in rows] == [f"{n}/2" for n in (votes == mean.argmax(1)).sum(0).tolist()]
    assert f"the 2 runs disagree on {int((votes[0] != votes[1]).sum())} of 9 images" in err
    assert f"{other}: accuracy" in err


def test_a_temperature_divides_the_logits_and_is_told(run, pictures, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    write_json(folder / run_folder.CALIBRATION, CALIBRATED)
    _, out, err = predict(capsys, folder, pictures, "--temperature=val", "--format=csv")
    expected = (by_hand(run, sorted(pictures.rglob("*.*"))).log() / 4).softmax(1).amax(1)
    np.testing.assert_allclose([float(row["probability"]) for row in read_csv(out)], expected, rtol=1e-4)
    assert f"{folder}: temperature 4.000, ece on 1,000 validation images 25.00 % -> 12.50 %" in err
    assert "ece on these images " in err


def test_a_temperature_of_other_weights_is_not_taken(run, pictures, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    own = run_folder.weights_fingerprint(run)
    for weights, is_taken in ((own, True), ("sha256-of-an-earlier-epoch", False)):
        write_json(folder / run_folder.CALIBRATION, {**CALIBRATED, run_folder.MEASURED: weights})
        code, _, err = predict(capsys, folder, pictures, "--temperature=val", "--format=csv")
        assert ("temperature 4.000" in err) == is_taken == (code == 0)


@pytest.mark.parametrize(("calibrated", "is_worse"), [(0.125, False), (0.25, False), (0.375, True)])
def test_a_temperature_that_makes_calibration_worse_is_told(calibrated, is_worse, run, pictures, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    write_json(folder / run_folder.CALIBRATION, {**CALIBRATED, "ece_calibrated": calibrated})
    _, _, err = predict(capsys, folder, pictures, "--temperature=val", "--format=csv")
    assert f" % -> {100 * calibrated:.2f} %{', which is worse: ' if is_worse else chr(10)}" in err


def test_that_a_temperature_cannot_be_found_is_told(run, pictures, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    write_json(folder / run_folder.CALIBRATION, {**CALIBRATED, "temperature": 1.0, "ece_calibrated": 0.25})
    _, _, err = predict(capsys, folder, pictures, "--temperature=val", "--format=csv")
    assert " 25.00 % -> 25.00 %: without a mistake among them, a temperature cannot be found\n" in err


def test_without_a_kept_temperature_validation_images_are_asked_for(run, pictures, tmp_path, capsys):
    assert (
        predict(capsys, run, pictures, "--temperature=val")[2]
        == "predict: gone is not a folder: name the folder of your images with --data_dir\n"
    )
    folder = shutil.copytree(run, tmp_path / "run")
    write_json(folder / run_folder.SETTINGS, {**read_json(run / run_folder.SETTINGS), "val_fraction": 0.0})
    assert "has held out no images to validate with" in predict(capsys, folder, pictures, "--temperature=val")[2]


def test_accuracy_is_told_by_the_values_of_a_column(run, pictures, capsys):
    paths = sorted(pictures.rglob("*.*"))
    lines = [f"{path.relative_to(pictures)},{path.parent.name},{'ab'[i % 2]}" for i, path in enumerate(paths)]
    (pictures / "list.csv").write_text("\n".join(["File,label,camera", *lines]))
    _, out, _ = predict(capsys, run, pictures / "list.csv", "--slice-by=camera")
    is_right = by_hand(run, paths).argmax(1) == torch.tensor([CLASSES.index(path.parent.name) for path in paths])
    for i, name in enumerate("ab"):
        assert f"{name} {len(paths[i::2]):>6} {is_right[i::2].float().mean():>8.2%}".replace("%", " %").split() in [
            line.split() for line in out.splitlines()
        ]


def test_what_cannot_be_read_is_named_and_left_out(run, pictures, tmp_path, capsys):
    (tmp_path / "no\nimage.png").write_text("hello")
    whole = next(pictures.rglob("*.png"))
    code, out, err = predict(capsys, run, tmp_path, whole, "--format=csv")
    assert (code, [row["file"] for row in read_csv(out)]) == (0, [str(whole)])
    assert err.count("\n") == 1
    assert "image.png cannot be read and is left out: cannot identify" in err


def test_classes_are_the_uppermost_folders_called_as_one(tmp_path):
    save_pictures(tmp_path / "test", num=3)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "other")
    found = find_pictures([tmp_path], info_for("cnn"))
    assert [(file.path.parent.name, file.true) for file in found] == [("dog", 1), ("frog", 2), ("other", None)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["test/bus/a.png", "train/bus/a.png", "train/train/a.png"], [0, 0, 1]),  # in splits
        (["train/bus/a.png"], [0]),
        (["bus/a.png", "train/a.png"], [0, 1]),  # in classes
        (["bus/a.png", "train/bus/a.png"], [0, 1]),
        (["train/a.png"], [1]),
    ],
)
def test_a_class_called_as_a_split_is_told_from_the_split(files, expected, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    info = replace(info_for("cnn"), classes=("bus", "train"))
    assert [file.true for file in find_pictures([tmp_path], info)] == expected


def test_predictions_given_back_are_not_taken_for_the_truth(run, pictures, tmp_path, capsys):
    path = tmp_path / "p.csv"
    assert predict(capsys, run, pictures, "--out", path)[0] == 0
    truths = [CLASSES.index(file.parent.name) for file in sorted(pictures.rglob("*.[pj]*g"))]
    assert [file.true for file in find_pictures([path], info_for("cnn"))] == truths
    path.write_text("file,class,probability\na.png,dog,0.5\n")
    assert [file.true for file in find_pictures([path], info_for("cnn"))] == [None]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_with_the_separators_and_spaces_of_training(separator, tmp_path):
    lines = [["Path ", " class"], ["0.png", " dog "], [], ["1.png"]]
    (tmp_path / "list.csv").write_text("\n".join(separator.join(line) for line in lines))
    found = find_pictures([tmp_path / "list.csv"], info_for("cnn"))
    assert [(file.path, file.true) for file in found] == [(tmp_path / "0.png", 1), (tmp_path / "1.png", None)]
    assert [file.row["class"] for file in found] == ["dog", ""]


def test_a_table_that_was_written_on_windows_is_read(tmp_path):
    (tmp_path / "list.csv").write_text("path\nsub\\0.png\n")
    assert [file.path for file in find_pictures([tmp_path / "list.csv"], info_for("cnn"))] == [tmp_path / "sub/0.png"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{dir}/none.png"], "none.png is not there: name image files"),
        (["{dir}/empty"], "empty holds no images: name another folder"),
        (["{dir}/a.csv"], "a.csv lists no images"),
        (["{dir}/b.csv"], "b.csv has no column called path: name that of the paths with --column; there are: x, y"),
        (["{dir}/b.csv", "--column=z"], "--column=z is not in .*b.csv; there are: x, y"),
        (["{dir}/b.csv", "--column=x", "--slice-by=z"], "--slice-by=z is no column; there are: x, y"),
        (["{dir}/b.csv", "--column=x", "--slice-by=y"], "--slice-by=y: no class is known"),
        (["{dir}/b.csv", "--column=y"], "row 1 names no file in the column y"),
        (["{dir}/c.csv"], r"c.csv cannot be read as CSV \(.*\): save it anew, in UTF-8"),
        (["{dir}/d.csv"], "row 1 has more cells than there are columns"),
        (["{dir}/cut.png"], r"cut.png cannot be read as an image \(.*\): name image files"),
        (["{dir}/cut.png", "--out=p.txt"], "--out=p.txt: give a name that ends in .csv or .jsonl"),
        (["{dir}/cut.png", "--sheet=p.jpg"], "--sheet=p.jpg: give a file name that ends in .png"),
        (["{dir}/cut.png", "--tta=turn"], "invalid choice: 'turn'"),
    ],
)
def test_bad_inputs_are_told_in_one_line(words, told, run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    tables = {"a": b"", "b": b"x,y\n1,\n", "c": b"path\n\xff\xfe", "d": b"path\n1,2\n"}
    for name, content in tables.items():
        (tmp_path / f"{name}.csv").write_bytes(content)
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    code, out, err = predict(capsys, run, *(word.format(dir=tmp_path) for word in words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(told, err)


def test_runs_of_other_classes_or_of_none_are_refused(run, pictures, tmp_path, capsys):
    other = save_run(tmp_path / "other", "mlp")
    write_json(other / run_folder.DATA, {**read_json(other / run_folder.DATA), "classes": ["cat", "frog", "dog"]})
    assert "has the classes cat, frog, dog, but" in predict(capsys, run, pictures, "--with", other)[2]
    vae = save_run(tmp_path / "vae", "vae")
    assert (
        predict(capsys, vae, pictures)[2]
        == f"predict: {vae} is a vae, which predicts no classes: name a classifier's run\n"
    )
    assert info_for("vae").classes == CLASSES


def test_a_temperature_that_is_not_kept_is_fitted_on_the_validation_images(tmp_path, capsys):
    save_pictures(tmp_path / "pictures", num=60)
    folder = save_run(tmp_path / "run", "cnn", data_dir=str(tmp_path / "pictures"), image_size=32, val_fraction=0.5)
    own = load_run(folder)
    keep_info(folder, own.info)
    _, _, err = predict(capsys, folder, tmp_path / "pictures", "--temperature=val", "--format=csv")
    loaders = put_on_device(own.objective, {"val": own.split("val")}, Accelerator(cpu=True))
    own.objective.eval()
    expected = calibration_of(predict_split(own.objective, loaders["val"]))
    assert f"{folder}: temperature {expected['temperature']:.3f}, ece on 30 validation images" in err
