"""A CSV file that lists images: what it may look like, and what is told of one that does not."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import csv_table
from data.errors import UserError
from data.splitting import Splitting, make_splits
from tests.loaded import load_splits


@pytest.fixture
def table(tmp_path):
    """Write a CSV file beside eight images, i.png being of the grey i; return its path."""
    for i in range(8):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")

    def write(text, encoding="utf-8"):
        (tmp_path / "table.csv").write_bytes(text.encode(encoding))
        return tmp_path / "table.csv"

    return write


def load(path):
    return csv_table.load(path, 8, 0)


def greys(split):
    return split.images[:, 0, 0, 0].tolist()


SPLIT = "path,label,split\n0.png,cat,train\n1.png,dog,test\n2.png,dog,train\n3.png,cat,val\n4.png,dog,training\n"


def test_labels_and_splits_are_those_of_the_columns(table):
    dataset = load(table(SPLIT))
    assert (dataset.name, dataset.classes) == ("table", ("cat", "dog"))
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    assert {name: greys(split) for name, split in parts.items()} == {"train": [0, 2, 4], "val": [3], "test": [1]}
    assert {name: split.labels.tolist() for name, split in parts.items()} == {
        "train": [0, 1, 1],
        "val": [0],
        "test": [1],
    }
    assert dataset.train.names == ["0.png", "2.png", "4.png"]


def test_images_to_validate_with_may_be_trained_on(table):
    splits = make_splits(load(table(SPLIT)), Splitting(1.0, 0.0, 0))
    assert sorted(greys(splits["train"])) == [0, 2, 3, 4]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_line_ends_and_marks_of_all_programs_are_read(separator, encoding, end, table):
    lines = [["Path", " age", "Label "], ["0.png", "7", "Käfer"], [], ["1.png", "8", '"a b"']]
    dataset = load(table(end.join(separator.join(line) for line in lines) + end, encoding))
    assert dataset.classes == ("Käfer", "a b") or dataset.classes == ("a b", "Käfer")
    assert greys(dataset.train) == [0, 1]


def test_labels_that_are_numbers_are_sorted_as_numbers(table):
    rows = "".join(f"{i}.png,{label}\n" for i, label in enumerate((10, 9, 2)))
    assert load(table("path,label\n" + rows)).classes == ("2", "9", "10")


def test_a_table_without_labels_has_no_classes(table):
    dataset = load(table("path\n1.png\n0.png\n"))
    assert (dataset.classes, greys(dataset.train), dataset.train.labels.tolist()) == ((), [1, 0], [0, 0])


def test_groups_have_numbers_and_an_image_without_one_is_a_group_of_its_own(table):
    groups = load(table("path,group\n0.png,ann\n1.png,bob\n2.png,\n3.png,ann\n4.png,\n")).train.groups
    assert groups.tolist() == [0, 1, 2, 0, 3]
    assert load(table("path,group\n0.png,\n")).train.groups is None


SEVERAL = "path,label:Hat,group,LABEL: two words,split\n0.png,1,a,0,\n1.png,0,a,0,\n2.png,1,b,1,\n3.png,0,c,0,test\n"


def test_several_labels_have_a_column_each(table):
    dataset = load(table(SEVERAL))
    assert dataset.classes == ("Hat", "two words")
    assert dataset.train.labels.tolist() == [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    assert dataset.test.labels.tolist() == [[0.0, 0.0]]
    assert dataset.train.groups.tolist() == [0, 0, 1]
    for other in (SEVERAL.replace("Hat", "hat"), SEVERAL.replace("3.png,0", "3.png,1")):
        assert load(table(other)).fingerprint != dataset.fingerprint


def test_a_label_of_which_there_is_nothing_to_learn_is_told_before_training(table):
    options = {"image_size": 8, "val_fraction": 0.0, "train_fraction": 1.0, "data_seed": 0, "max_corrupt_images": 0}
    for value, text in ((0, SEVERAL.replace("2.png,1,b,1", "2.png,1,b,0")), (1, SEVERAL.replace("a,0", "a,1"))):
        path = table(text)
        told = f"{path}: the column label:two words is {value} in all 3 images to train on: leave it out"
        with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
            load_splits("csv", str(path), normalisation="unit", **options)
    info, _ = load_splits("csv", str(table(SEVERAL)), normalisation="unit", **options)
    assert (info.several_labels, info.class_counts) == (True, (2, 1))
    assert info.in_one_line().startswith("2 labels, several an image (1-2 each), 3 train")
    assert [info.named(torch.tensor(label)) for label in ([0.0, 0], [1, 1])] == ["none", "Hat, two words"]


def test_a_folder_stands_for_the_only_table_in_it(table):
    path = table(SPLIT)
    assert csv_table.has_test_images(path.parent)
    assert load(path.parent).fingerprint == load(path).fingerprint
    (path.parent / "more.csv").touch()
    with pytest.raises(UserError, match="has more.csv, table.csv: name one with --data_dir="):
        load(path.parent)


def test_other_labels_splits_or_groups_are_other_data(table):
    text = "path,label,split,group\n0.png,cat,train,a\n1.png,dog,train,b\n2.png,cat,test,c\n"
    others = [text.replace(*each) for each in (("1.png,dog", "1.png,cat"), ("test", "val"), ("train,b", "train,a"))]
    assert len({load(table(each)).fingerprint for each in (text, *others)}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column path .it is empty.: its first line is to name the columns, such as path,label"),
        ("file,label\n0.png,a\n", "has no column path .file, label.: its first line"),
        ("path,label,label\n0.png,a,a\n", "has two columns label: rename one"),
        ("path,label\n", "lists no image: its first line"),
        ("path,label\n0.png\n", "row 2 has 1 values for 2 columns: give one for each"),
        ("path,label\n0.png,a\n9.png,a\n", "row 3 names '9.png', which is no file: write its path from"),
        ("path,label\n,a\n", "row 2 names '', which is no file"),
        ("path,label\n0.png,a\n1.png,a\n0.png,b\n", "row 4 names 0.png, as row 2 does: leave one of them out"),
        ("path\n../other.png\n", "row 2 names ../other.png, which is not below .*: move the CSV file above it"),
        ("path,label\n0.png,a\n1.png,\n", "row 3 has no label: correct it, or leave the row out"),
        ("path,label,split\n0.png,a,train\n1.png,b,test\n", "row 3 has the label b, which no image to train on has"),
        ("path,split\n0.png,holdout\n", "row 2 is of the split 'holdout': write train, val or test"),
        ("path,split\n0.png,test\n", "lists no image to train on that can be read"),
        ("path,label:a,label:b\n0.png,1,yes\n", "row 2: the column label:b holds 'yes': write 1 or 0"),
        ("path,label:a,label:b\n0.png,1,0\n1.png,,1\n", "row 3: the column label:a is empty: write 1 or 0"),
        ("path,label:a,label:b\n0.png,1,-1\n", "row 2: the column label:b holds '-1': write 1 or 0"),
        ("path,label:a\n0.png,1\n", "row 1 has the column label:a alone: call it label, or give one for each label"),
        ("path,label,label:a\n0.png,x,1\n", "row 1 has the columns label and label:a: leave one kind out"),
        ("path,label:a,label:\n0.png,1,1\n", "row 1 has a column label: without a name: write label:hat"),
        ("path,label:a,Label : a\n0.png,1,1\n", "has two columns label:a: rename one"),
        ('path\n"0.png\n', "cannot be read as CSV .*: save it anew, in UTF-8"),
    ],
)
def test_faults_are_told_in_one_line_with_the_row(text, message, table):
    path = table(text)
    Image.new("RGB", (8, 8)).save(path.parent.parent / "other.png")
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_path_may_be_written_in_every_way(table, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "8.png").write_bytes((tmp_path / "0.png").read_bytes())
    path = table(f"path\n./0.png\n{tmp_path}/1.png\nsub//8.png\n2.png/\n")
    expected = ["0.png", "1.png", "sub/8.png", "2.png"]
    assert load(path).train.names == expected
    monkeypatch.chdir(tmp_path)
    table("path\n./0.png\n1.png\nsub//8.png\n2.png\n")
    assert load(Path("table.csv")).train.names == expected
    for twice in ("./0.png", f"{tmp_path}/0.png", ".//0.png"):
        with pytest.raises(UserError, match="row 3 names .*0.png, as row 2 does"):
            load(table(f"path\n0.png\n{twice}\n"))


def test_paths_that_were_written_on_windows_are_read(table, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "0.png").rename(tmp_path / "sub" / "0.png")
    (tmp_path / "1.png").rename(tmp_path / r"sub\1.png")  # a name that a file may have here
    assert load(table("path\n.\\sub\\0.png\nsub\\1.png\n")).train.names == ["sub/0.png", r"sub\1.png"]
    Image.new("RGB", (8, 8)).save(tmp_path.parent / "other.png")
    for path, message in ((r"sub\9.png", r"names 'sub\\\\9.png', which is no file"), (r"..\other.png", "is not below")):
        with pytest.raises(UserError, match=message):
            load(table(f"path\n{path}\n"))


def test_rows_are_looked_up_without_making_a_path_of_each(tmp_path, monkeypatch):
    names = [f"{i}.png" for i in range(3)]
    for name in names:
        (tmp_path / name).touch()
    rows = [csv_table.Row(i + 2, name, "", "train", "") for i, name in enumerate(names)]
    table = tmp_path / "table.csv"
    monkeypatch.setattr(Path, "is_file", lambda self: pytest.fail("a Path takes 0.2 ms"))
    assert csv_table.existing(table, rows) == [str(tmp_path / name) for name in names]


def test_what_is_no_text_or_not_there_is_told_in_one_line(table, tmp_path):
    path = table("path\n0.png\n", "utf-16")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        load(path)
    with pytest.raises(UserError, match="is not there: name a CSV file"):
        load(tmp_path / "nothing.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no CSV file: name one"):
        load(tmp_path / "empty")


def test_tables_of_all_kinds_load_or_end_in_one_line(table):
    draw = random.Random(0)
    cells = ["0.png", "1.png", "2.png", "a", "7", "", " ", '"', "train", "TEST", "../x", "/", "\x1b[2J", "x" * 5000]
    cells += ["\ud800", "9" * 5000, "$x$", "\0", "path", "é"]
    loaded = 0
    for _ in range(300):
        several = ["path", "label:a", "label:b"]
        head = draw.choice([["path"], ["path", "label"], ["label", "path", "split", "group"], several])
        likely = {"path": ["0.png", "1.png", "2.png", "3.png"], "split": ["train", "val", "test", ""]}
        likely |= dict.fromkeys(several[1:], ["0", "1"])
        lines = [head]
        for _ in range(draw.randint(0, 4)):
            lines.append([draw.choice(likely.get(n, ["a", "b"]) if draw.random() < 0.9 else cells) for n in head])
        path = table("")
        path.write_bytes("\n".join(map(",".join, lines)).encode("utf-8", "surrogatepass"))
        try:
            dataset = load(path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        loaded += 1
        assert dataset.train.labels.max() < max(1, len(dataset.classes))
    assert loaded > 20


def test_files_that_cannot_be_read_are_skipped_up_to_the_limit(table):
    path = table("path,label,group\n0.png,a,x\n1.png,b,x\n2.png,a,y\n")
    (path.parent / "1.png").write_text("no image")
    with pytest.raises(UserError, match="more than --max_corrupt_images=0 files cannot be read, the first is 1.png"):
        load(path)
    dataset = csv_table.load(path, 8, 1)
    assert (greys(dataset.train), dataset.classes) == ([0, 2], ("a",))
    assert torch.equal(dataset.train.groups, torch.tensor([0, 1]))
    np.testing.assert_array_equal(dataset.train.images[0], 0)
