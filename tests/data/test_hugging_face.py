"""Datasets in HuggingFace's form, out of folders that its library has written."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import collection
from data.errors import UserError
from data.hugging_face import identity_of, open_splits
from tests.loaded import load_splits

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
OPTIONS = {"train_fraction": 1.0, "val_fraction": 0.25, "data_seed": 0, "normalisation": "channel"}
PIXELS = np.random.RandomState(0).randint(0, 256, (12, 9, 9, 3), dtype=np.uint8)
LABELS = datasets.ClassLabel(names=["ant", "bee"])


def rows(numbers, labels=LABELS, **more):
    """A split of the images with these numbers; the label of an image says whether its number is odd."""
    content = {"image": [Image.fromarray(PIXELS[i]) for i in numbers], "label": [i % 2 for i in numbers]}
    features = {"image": datasets.Image(), "label": labels}
    return datasets.Dataset.from_dict({**content, **more}, features=datasets.Features(features))


@pytest.fixture
def saved(tmp_path):
    """Save splits of a dataset as data_dir/insects."""
    return lambda **splits: datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "insects"))


def load(data_dir, name="insects", image_size=9, **settings):
    options = OPTIONS | {"image_size": image_size, "max_corrupt_images": 0} | settings
    return load_splits(f"hf/{name}", str(data_dir), **options)


def test_splits_images_and_labels_are_those_of_the_library(saved, tmp_path):
    saved(train=rows(range(6)), validation=rows(range(6, 9)), test=rows(range(9, 12)))
    info, splits = load(tmp_path)
    assert (info.name, info.classes, info.has_own_val) == ("insects", ("ant", "bee"), True)
    for name, numbers in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 12))):
        order = splits[name].places()  # of the training images, by chance
        assert torch.equal(splits[name].images, torch.from_numpy(PIXELS[list(numbers)]).permute(0, 3, 1, 2)[order])
        assert splits[name].labels.tolist() == [numbers[i] % 2 for i in order]


def test_a_split_may_be_named_to_train_on(saved, tmp_path):
    saved(train=rows(range(4)), extra=rows(range(4, 10)))
    info, splits = load(tmp_path, "insects:extra")
    assert len(splits["train"].labels) + len(splits["val"].labels) == 6
    with pytest.raises(UserError, match="hf/insects:rest: there is no such split; there are: train, extra"):
        load(tmp_path, "insects:rest")


def test_a_folder_of_images_is_read_as_the_library_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for i in range(8):
        path = tmp_path / "photos" / ["ant", "bee"][i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[i]).save(path)
    info, splits = load(tmp_path, "photos")
    assert (info.classes, info.num_images) == (("ant", "bee"), {"train": 6, "val": 2})


def test_classes_stand_in_the_order_of_the_column(saved, tmp_path):
    saved(train=rows(range(6), datasets.ClassLabel(names=["wasp", "ant"])))
    info, splits = load(tmp_path)
    assert info.classes == ("wasp", "ant")
    for part in splits.values():
        assert part.labels.tolist() == [i % 2 for i in part.places()]


def test_labels_without_names_are_sorted_by_value(saved, tmp_path):
    saved(train=rows(range(6), datasets.Value("int64")))
    assert load(tmp_path)[0].classes == ("0", "1")


def test_later_runs_decode_nothing(saved, tmp_path, monkeypatch):
    saved(train=rows(range(6)))
    before, _ = load(tmp_path)
    monkeypatch.setattr(collection, "picture_of", lambda *_: pytest.fail("decoded anew"))
    assert load(tmp_path)[0] == before


def save_paths(folder, saved, pixels):
    """Save a table that was made of paths, once the images at them have these pixels; return the paths."""
    paths = [str(folder / f"{i}.png") for i in range(4)]
    for path in paths:
        Image.fromarray(np.full((9, 9, 3), pixels, np.uint8)).save(path)
    table = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    saved(train=table)
    return paths


def test_images_that_were_saved_anew_under_the_same_paths_are_decoded_anew(saved, tmp_path):
    fingerprints = set()
    for pixels in (10, 200):
        save_paths(tmp_path, saved, pixels)
        info, splits = load(tmp_path)
        fingerprints.add(info.fingerprint)
        assert splits["train"].images.unique().tolist() == [pixels]
    assert len(fingerprints) == 2


def test_a_change_of_images_that_a_table_only_refers_to_is_noticed(saved, tmp_path):
    paths = save_paths(tmp_path, saved, 10)
    table = datasets.Dataset.from_dict({"image": [*paths, "https://example.org/a.png"]})
    table = table.cast_column("image", datasets.Image())
    before = identity_of(table, "image")
    assert identity_of(table, "image") == before
    os.utime(paths[2], ns=(0, 0))
    assert identity_of(table, "image") != before
    embedded = datasets.load_from_disk(str(tmp_path / "insects"))["train"]
    assert [Path(path).suffix for path, *_ in identity_of(embedded, "image")[1]] == [".arrow"]


def test_two_folders_of_one_name_are_two_datasets(tmp_path):
    table = rows(range(6))
    for name in "ab":
        table.save_to_disk(str(tmp_path / name / "insects"))
        [path] = (tmp_path / name / "insects").glob("*.arrow")
        os.utime(path, ns=(0, 0))
    identities = [identity_of(open_splits("insects", tmp_path / name)["train"], "image") for name in "ab"]
    assert identities[0] != identities[1]


@pytest.mark.parametrize("form", ["torch", "numpy", "undecoded"])
def test_the_format_that_a_table_was_saved_in_changes_nothing(form, saved, tmp_path):
    table = rows(range(6))
    if form == "undecoded":
        saved(train=table.cast_column("image", datasets.Image(decode=False)))
    else:
        saved(train=table.with_format(form))
    info, splits = load(tmp_path)
    assert info.classes == ("ant", "bee")
    for part in splits.values():
        assert torch.equal(part.images, torch.from_numpy(PIXELS[part.places()]).permute(0, 3, 1, 2))
        assert part.labels.tolist() == [i % 2 for i in part.places()]


CONFIGURATIONS = "---\nconfigs:\n" + "".join(
    f"- config_name: {name}\n  data_files:\n  - {{split: train, path: {name}.parquet}}\n" for name in ("all", "few")
)


def test_a_configuration_is_chosen_of_several(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "insects").mkdir()
    for name, numbers in (("all", range(8)), ("few", range(8, 12))):
        rows(numbers).to_parquet(str(tmp_path / "insects" / f"{name}.parquet"))
    (tmp_path / "insects" / "README.md").write_text(CONFIGURATIONS + "---\n")
    for name, num in (("insects@all", 8), ("insects@few:train", 4)):
        assert len(load(tmp_path, name, val_fraction=0.0)[1]["train"].labels) == num
    told = r"hf/insects could not be loaded \(Config name is missing.*'all', 'few'.*one of its configurations as NAME@"
    with pytest.raises(UserError, match=told):
        load(tmp_path)
    with pytest.raises(UserError, match=r"hf/insects@none could not be loaded \(BuilderConfig 'none' not found"):
        load(tmp_path, "insects@none")


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path):
    datasets.DatasetDict(train=rows(range(4))).save_to_disk(str(tmp_path / "insects@2"))
    assert len(open_splits("insects@2", tmp_path)["train"]) == 4


def test_a_configuration_of_what_was_saved_with_none_is_refused(saved, tmp_path):
    saved(train=rows(range(4)))
    with pytest.raises(UserError, match="hf/insects@plain: .*insects has no configurations: leave @plain out"):
        load(tmp_path, "insects@plain")


def test_a_split_to_test_with_that_has_no_labels_is_left_out_with_a_line(saved, tmp_path, capsys):
    saved(train=rows(range(6)), test=rows([8, 9, 10]).remove_columns("label"))
    assert load(tmp_path)[0].num_images == {"train": 4, "val": 2}
    assert "hf/insects: test is left out: it has no column label\n" in capsys.readouterr().err


def test_a_split_whose_labels_are_hidden_is_left_out_with_a_line(saved, tmp_path, capsys):
    saved(train=rows(range(6)), validation=rows([6, 7]), test=rows([8, 9, 10], label=[-1, -1, -1]))
    info, _ = load(tmp_path)
    assert info.num_images == {"train": 6, "val": 2}
    assert "hf/insects: test is left out: its labels are hidden, all of them are -1\n" in capsys.readouterr().err
    saved(train=rows(range(6)), test=rows([8, 9, 10], label=[-1, 0, -1]))
    with pytest.raises(UserError, match="test has the label -1, which train lacks"):
        load(tmp_path)


def test_a_single_split_that_was_saved_is_trained_on(tmp_path):
    rows(range(6)).save_to_disk(str(tmp_path / "insects"))
    assert load(tmp_path)[0].num_images == {"train": 4, "val": 2}


@pytest.mark.parametrize(
    ("feature", "values", "told"),
    [
        (datasets.Value("string"), ["ant", None, "bee", "ant"], "train has no label in row 1: remove the row"),
        (datasets.Sequence(datasets.Value("int64")), [[0], [1], [0, 1], []], r"train has \[0\] for a label in row 0"),
    ],
)
def test_images_without_one_label_are_refused(feature, values, told, saved, tmp_path):
    saved(train=rows(range(4), feature, label=values))
    with pytest.raises(UserError, match=told):
        load(tmp_path)


def test_two_splits_that_mean_the_same_are_refused(saved, tmp_path):
    saved(train=rows(range(6)), val=rows([6]), validation=rows([7]), extra=rows([8]), more=rows([9]))
    with pytest.raises(UserError, match="has both val and validation, which mean the same: remove one"):
        load(tmp_path)


def test_other_columns_are_told_in_one_line(tmp_path):
    numbers = datasets.Dataset.from_dict({"x": [1, 2]})
    numbers.save_to_disk(str(tmp_path / "insects"))
    with pytest.raises(UserError, match="hf/insects has 0 columns of images, of x: keep one, by cast_column"):
        load(tmp_path)


def test_what_is_not_there_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf/nobody/nothing could not be loaded .*: name a folder in .*") as error:
        load(tmp_path, "nobody/nothing")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="hf/ names no dataset: write hf/NAME"):
        load(tmp_path, "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="hf/empty could not be loaded"):
        load(tmp_path, "empty")


def test_a_missing_library_is_told_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs the library datasets: pip install datasets"):
        load(tmp_path)


def two_columns(numbers):
    """A split as uoft-cs/cifar100 is laid out: fine labels, and the coarse ones that they belong to."""
    content = {
        "img": [Image.fromarray(PIXELS[i]) for i in numbers],
        "fine_label": [i % 4 for i in numbers],
        "coarse_label": [i % 2 for i in numbers],
    }
    fine, coarse = datasets.ClassLabel(names=["ant", "bee", "moth", "wasp"]), datasets.ClassLabel(names=["a", "b"])
    features = {"img": datasets.Image(), "fine_label": fine, "coarse_label": coarse}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def test_the_column_of_the_labels_is_chosen_where_there_are_several(saved, tmp_path):
    saved(train=two_columns(range(8)), test=two_columns(range(8, 12)))
    told = r"several columns of labels \(fine_label, coarse_label\): choose one, as by --label_column=fine_label$"
    with pytest.raises(UserError, match=told):
        load(tmp_path)
    fingerprints = set()
    for column, classes in (("fine_label", ("ant", "bee", "moth", "wasp")), ("coarse_label", ("a", "b"))):
        info, splits = load(tmp_path, label_column=column)
        fingerprints.add(info.fingerprint)
        assert info.classes == classes
        assert splits["test"].labels.tolist() == [i % len(classes) for i in range(8, 12)]
        assert splits["train"].labels.tolist() == [i % len(classes) for i in splits["train"].places().tolist()]
    assert len(fingerprints) == 2
    with pytest.raises(UserError, match="^--label_column=img: .*hf/insects has no such column of labels; there are:"):
        load(tmp_path, label_column="img")


def test_a_column_is_chosen_even_beside_one_that_is_called_label(saved, tmp_path):
    saved(train=rows(range(4)).add_column("kind", ["x", "x", "y", "y"]))
    assert load(tmp_path)[0].classes == ("ant", "bee")
    assert load(tmp_path, label_column="kind")[0].classes == ("x", "y")
