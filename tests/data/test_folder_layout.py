"""How images lie in folders: names of splits, what is ambiguous, what is left out."""

import os
import subprocess
import unicodedata

import pytest
import torch
from PIL import Image

from data import folder
from data.dataset import class_name
from data.errors import UserError
from data.folder_layout import list_images
from tests.loaded import load_splits

SHADES = iter(range(10**6))


def save(path):
    """Write a picture unlike all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = next(SHADES)
    Image.new("RGB", (8, 8), (shade % 256, shade // 256 % 256, 7)).save(path)


def save_classes(root, names=("cat", "dog"), num=1):
    for name in names:
        for i in range(num):
            save(root / name / f"{i}.png")


def load(root):
    return folder.load(root, 8, 0)


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "Training"])
@pytest.mark.parametrize(("val", "test"), [("val", "test"), ("Valid", "Testing"), ("validation", "TEST")])
def test_splits_are_known_in_all_their_usual_spellings(train, val, test, tmp_path):
    for name, num in ((train, 3), (val, 2), (test, 1)):
        save_classes(tmp_path / name, num=num)
    dataset = load(tmp_path)
    assert [len(split.labels) for split in (dataset.train, dataset.val, dataset.test)] == [6, 4, 2]
    assert dataset.classes == ("cat", "dog")
    assert folder.has_test_images(tmp_path)


def test_images_in_val_are_those_to_validate_with(tmp_path):
    save_classes(tmp_path / "train", num=4)
    save_classes(tmp_path / "val", num=3)
    dataset = load(tmp_path)
    info, splits = load_all(tmp_path, val_fraction=0.5)
    assert torch.equal(splits["val"].images, dataset.val.images)
    assert len(splits["train"].labels) == 8
    assert info.has_own_val
    assert "(val is the dataset's own, which --val_fraction=0 would train on, too)" in info.in_one_line()


def test_without_a_validation_split_images_in_val_are_trained_on(tmp_path):
    save_classes(tmp_path / "train", num=4)
    save_classes(tmp_path / "val", num=3)
    info, splits = load_all(tmp_path, val_fraction=0.0)
    assert (set(splits), len(splits["train"].labels)) == ({"train"}, 14)
    told = "14 train / 0 val / 0 test (--val_fraction=0: the dataset's own val images are trained on)"
    assert told in info.in_one_line()


def test_labels_of_held_out_images_are_those_of_the_training_classes_by_name(tmp_path):
    save_classes(tmp_path / "train", ("ant", "bee", "cat"))
    save_classes(tmp_path / "val", ("cat",))
    save_classes(tmp_path / "test", ("bee", "cat"))
    dataset = load(tmp_path)
    assert (dataset.val.labels.tolist(), dataset.test.labels.tolist()) == ([2], [1, 2])


def test_val_and_test_of_the_same_images_are_different_data(tmp_path):
    fingerprints = set()
    for held_out in ((), ("val",), ("test",), ("val", "test")):
        root = tmp_path / ("x" + "-".join(held_out))
        for name in ("train", *held_out):
            for i in range(2):
                (root / name).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (i, 0, 0)).save(root / name / f"{i}.png")
        fingerprints.add(load(root).fingerprint)
    assert len(fingerprints) == 4


def load_all(root, **changes):
    settings = {"train_fraction": 1.0, "val_fraction": 0.25, "data_seed": 0, "normalisation": "channel"}
    return load_splits("folder", str(root), image_size=8, max_corrupt_images=0, **{**settings, **changes})


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("bus", "car", "train"), "train is the split train by its name, but .*bus beside it holds images, too: move"),
        (("Training/cat", "Testing/cat", "More/cat"), "Training is the split train .*More beside it"),
        (("train/cat", "Train/cat"), "are both the split train by their names: merge or rename"),
        (("val/cat", "validation/cat", "train/cat"), "are both the split val by their names: merge or rename"),
        (("test/cat", "val/cat"), "is the split (test|val) by its name, but there is no folder train beside it"),
        (("cat", "test"), "test is the split test by its name, .*if test is a class, rename it"),
        (("Dataset/cat", "Dataset/dog", "Examples/cat", "Examples/dog"), "Dataset would be a class, .*--data_dir"),
        (("PetImages/cat", "PetImages/dog"), "PetImages would be a class, but holds only folders of images such as"),
        (("animals/train/cat", "animals/test/cat"), "animals would be a class, .* name .*animals with --data_dir"),
        (("animals/Train/cat",), "animals would be a class"),
    ],
)
def test_a_layout_that_can_be_read_in_two_ways_is_refused_with_the_reading_that_was_meant(folders, message, tmp_path):
    for name in folders:
        save(tmp_path / name / "1.png")
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (("ant/images/1.png", "bee/images/2.png"), ("ant", "bee")),  # as Tiny ImageNet has them
        (("ant/a/1.png", "ant/b/2.png", "bee/1.png"), ("ant", "bee")),
        (("trainer/1.png", "tests/2.png", "value/1.png"), ("tests", "trainer", "value")),
        (("train/train/1.png", "train/bus/1.png"), ("bus", "train")),
    ],
)
def test_layouts_that_can_be_read_in_one_way_are_read_so(files, classes, tmp_path):
    for name in files:
        save(tmp_path / name)
    assert load(tmp_path).classes == classes


def test_what_is_left_out_is_counted_by_reason_on_one_line(tmp_path, capsys):
    save_classes(tmp_path, ("cat", "dog"), num=2)
    save(tmp_path / "cat" / ".hidden.png")
    save(tmp_path / "cat" / "@eaDir" / "thumbnail.jpg")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cat" / "up").symlink_to(tmp_path / "cat")
    for name in ("a.csv", "b.csv", "cat/c.heic", "README"):
        (tmp_path / name).touch()
    assert len(load(tmp_path).train.labels) == 4
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{tmp_path}: left out: .csv files (2); .heic files (1); @eaDir (1); class folders without images: empty (1); "
        "dangling links (1); files without a suffix (1); hidden files and folders (1); links to a folder above them (1)"
    ]


def test_many_kinds_of_files_are_counted_together_and_names_cannot_command_a_terminal(tmp_path, capsys):
    save_classes(tmp_path)
    for i in range(8):
        (tmp_path / f"a.x{i}").touch()
    (tmp_path / "cat" / "b.\x1b]0;title\x07").touch()
    (tmp_path / "cat" / "b2.\x1b]0;title\x07").touch()
    corrupt = tmp_path / "cat" / "\x1b[2J.png"
    corrupt.write_text("no image")
    folder.load(tmp_path, 8, 1)
    error = capsys.readouterr().err
    assert "files of other kinds (4)" in error
    assert ".\\x1b]0;title\\x07 files (2)" in error
    assert all(letter.isprintable() for letter in error.replace("\n", ""))


def test_files_are_in_the_order_of_their_folders_whatever_follows_a_folders_name(tmp_path):
    names = ("cat", "cat 2", "cat-3")
    save_classes(tmp_path, names, num=2)
    listing = list_images(tmp_path)
    assert listing.files == [str(tmp_path / name / f"{i}.png") for name in names for i in range(2)]
    assert listing.labels == [0, 0, 1, 1, 2, 2]


def test_where_all_is_used_nothing_is_told(tmp_path, capsys):
    save_classes(tmp_path)
    load(tmp_path)
    assert capsys.readouterr().err == ""


def test_linked_files_and_folders_are_used(tmp_path):
    save_classes(tmp_path / "store", ("cat", "dog"), num=2)
    save(tmp_path / "store" / "cat" / "deep" / "2.png")
    (tmp_path / "data" / "dog").mkdir(parents=True)
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "data" / "dog" / "linked.png").symlink_to(tmp_path / "store" / "dog" / "0.png")
    dataset = load(tmp_path / "data")
    assert (dataset.classes, dataset.train.labels.tolist()) == (("cat", "dog"), [0, 0, 0, 1])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_counted_for_real(tmp_path, capsys):
    save_classes(tmp_path)
    (tmp_path / "cat" / "closed").mkdir(mode=0)
    load(tmp_path)
    assert "folders that may not be read (1)" in capsys.readouterr().err


def test_a_folder_that_may_not_be_read_is_counted(tmp_path, capsys, monkeypatch):
    save_classes(tmp_path)
    (tmp_path / "cat" / "closed").mkdir()
    real = os.scandir

    def scandir(path="."):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    load(tmp_path)
    assert "folders that may not be read (1)" in capsys.readouterr().err


def test_folders_nested_deeper_than_any_path_are_left_out(tmp_path):
    save_classes(tmp_path)
    here = os.open(tmp_path / "cat", os.O_RDONLY)
    for _ in range(900):
        os.mkdir("deep", dir_fd=here)
        inner = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    try:
        assert len(load(tmp_path).train.labels) == 2
    finally:  # in another process, since what removes the folders of tests is no match for them
        subprocess.run(["rm", "-r", str(tmp_path / "cat" / "deep")], check=True)


def test_a_file_that_goes_away_meanwhile_is_one_line(tmp_path, monkeypatch):
    save_classes(tmp_path)
    listing = list_images(tmp_path)
    (tmp_path / "cat" / "0.png").unlink()
    monkeypatch.setattr(folder, "list_images", lambda root: listing)
    with pytest.raises(UserError, match="0.png could not be read .No such file or directory.: start again"):
        load(tmp_path)


def test_one_name_spelled_in_two_ways_of_unicode_is_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))
    save_classes(tmp_path / "train", (composed, "ant"))
    save_classes(tmp_path / "test", (decomposed, "ant"))
    dataset = load(tmp_path)
    assert dataset.classes == (composed, "ant") or dataset.classes == ("ant", composed)
    assert sorted(dataset.test.labels.tolist()) == [0, 1]
    save_classes(tmp_path / "train", (decomposed,))
    with pytest.raises(UserError, match="two class folders called Käfer, spelled in other bytes: merge them"):
        load(tmp_path)


def test_names_that_are_no_utf8_are_shown_escaped(tmp_path, capsys):
    for name in (b"K\xe4fer", b"ant"):
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    for i, path in enumerate(sorted(tmp_path.iterdir())):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path / os.fsdecode(b"\xff.png"))
    dataset = load(tmp_path)
    assert dataset.classes == ("K\\udce4fer", "ant")
    "".join(dataset.classes).encode()


def test_control_characters_in_a_class_s_name_are_escaped():
    assert class_name("a\x1b]0;title\x07\nb") == "a\\x1b]0;title\\x07\\nb"
    assert class_name("\ud800 \udce4") == "\\ud800 \\udce4"
    assert class_name("naïve 漢字 🐜") == "naïve 漢字 🐜"


@pytest.mark.parametrize("name", ["x.jfif", "x.JPE", "x.pgm"])
def test_rarer_suffixes_are_images_too(name, tmp_path):
    save(tmp_path / "a" / name)
    assert len(load(tmp_path / "a").train.labels) == 1
