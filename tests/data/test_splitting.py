"""Images divided by group and into folds: no group is torn apart, every image is held out once, classes stay in
proportion."""

import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from data import csv_table
from data.dataset import Dataset, Split
from data.errors import UserError
from data.splitting import Splitting, divide_groups, make_splits, stratified_order
from tests.loaded import load_splits

RANDOM = np.random.RandomState(0)
GROUPS = torch.from_numpy(np.repeat(np.arange(60), RANDOM.randint(1, 25, 60)))  # of 1 to 24 images
LABELS = torch.from_numpy((GROUPS.numpy() * 7 % 10 > 6).astype(np.int64))  # each group of one class, 3 : 7
FOLDS = [f"{number}/5" for number in range(1, 6)]


def dataset_of(labels, groups=None, names=(), val=None):
    images = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    train = Split(images, labels, names=names, rows=torch.arange(len(labels)), groups=groups)
    return Dataset("numbers", ("a", "b"), train, None, "", val=val)


def split(dataset, val_fraction=0.2, train_fraction=1.0, seed=0, **how):
    return make_splits(dataset, Splitting(train_fraction, val_fraction, seed, **how))


def rows(part):
    return set(part.rows.tolist())


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["images", "groups"])
@pytest.mark.parametrize("train_fraction", [1.0, 0.6])
def test_every_image_is_held_out_in_one_fold(groups, train_fraction):
    dataset = dataset_of(LABELS, groups)
    splits = [split(dataset, fold=fold, train_fraction=train_fraction) for fold in FOLDS]
    held_out = sum([each["val"].rows.tolist() for each in splits], [])
    assert len(held_out) == len(set(held_out)) == round(train_fraction * len(LABELS))
    for each in splits:
        assert rows(each["train"]) | rows(each["val"]) == set(held_out)
        assert not rows(each["train"]) & rows(each["val"])


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["images", "groups"])
def test_folds_are_of_one_size_and_hold_the_classes_in_proportion(groups):
    for fold in FOLDS:
        val = split(dataset_of(LABELS, groups), fold=fold)["val"]
        assert len(val.labels) == pytest.approx(len(LABELS) / 5, rel=0.1)
        assert val.labels.double().mean().item() == pytest.approx(LABELS.double().mean().item(), abs=0.05)


@pytest.mark.parametrize("how", [{}, {"fold": "2/5"}])
def test_a_fraction_that_leaves_no_image_is_told_of_groups_too(how):
    with pytest.raises(UserError, match=f"--train_fraction=0.0001 leaves none of {len(LABELS)} images to train on"):
        split(dataset_of(LABELS, GROUPS), train_fraction=0.0001, **how)


@pytest.mark.parametrize("how", [{"val_fraction": f} for f in (0.05, 0.1, 0.3, 0.5, 0.8)] + [{"fold": "2/5"}])
def test_no_group_is_both_trained_on_and_held_out(how):
    splits = split(dataset_of(LABELS, GROUPS), **how)
    train, val = (set(splits[name].groups.tolist()) for name in ("train", "val"))
    assert not train & val
    assert train | val == set(range(60))
    share = len(splits["val"].labels) / len(LABELS)
    assert share == pytest.approx(how.get("val_fraction", 0.2), abs=0.03)


def test_groups_are_divided_about_as_evenly_as_scikit_learn_divides_them():
    features = np.zeros(len(LABELS))
    theirs = StratifiedGroupKFold(5).split(features, LABELS, GROUPS)
    parts = divide_groups(LABELS, GROUPS, [0.2] * 5, seed=0)
    ours = [(parts == part).nonzero().flatten().numpy() for part in range(5)]

    def unevenness(folds):
        counts = np.array([np.bincount(LABELS[fold], minlength=2) for fold in folds])
        return (counts - counts.mean(0)).__abs__().max()

    assert unevenness(ours) <= unevenness([fold for _, fold in theirs]) + 2


@pytest.mark.parametrize(("num_classes", "groups_each"), [(100, 2), (20, 3), (10, 1)])
def test_parts_are_of_one_size_where_classes_have_fewer_groups_than_there_are_parts(num_classes, groups_each):
    groups = torch.arange(num_classes * groups_each).repeat_interleave(7)
    labels = groups // groups_each
    sizes = divide_groups(labels, groups, [0.2] * 5, seed=0).bincount(minlength=5)
    theirs = StratifiedGroupKFold(5).split(np.zeros(len(labels)), labels, groups)
    assert sizes.tolist() == [len(fold) for _, fold in theirs] == [len(labels) / 5] * 5
    for how in ({"fold": "4/5"}, {"val_fraction": 0.2}):
        assert len(split(dataset_of(labels, groups), **how)["val"].labels) == len(labels) / 5


def by_a_table(labels, groups, shares, seed):
    """`divide_groups` by a table of all groups and classes."""
    _, own = np.unique(groups.numpy(), return_inverse=True)
    ones = torch.nn.functional.one_hot(labels) if labels.ndim == 1 else torch.cat([labels, labels[:, :1] * 0 + 1], 1)
    counts = np.zeros((own.max() + 1, ones.shape[1]))
    np.add.at(counts, own, ones.numpy())
    wanted = np.outer(shares, counts.sum(0))
    shuffled = np.random.RandomState(seed).permutation(len(counts))
    part_of = np.zeros(len(counts), np.int64)
    for group in shuffled[np.argsort(-counts[shuffled].sum(1), kind="stable")]:
        scores = wanted @ counts[group]
        part_of[group] = max(range(len(shares)), key=lambda part: (scores[part], wanted[part].sum().round(9)))
        wanted[part_of[group]] -= counts[group]
    return torch.from_numpy(part_of[own])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes", [2, 30])
@pytest.mark.parametrize("is_several", [False, True])
def test_groups_are_divided_as_by_a_table_of_all_groups_and_classes(seed, num_classes, is_several):
    dice = np.random.RandomState(seed)
    groups = torch.from_numpy(dice.randint(0, 150, 600))
    labels = torch.from_numpy(dice.randint(0, num_classes, 600))
    if is_several:
        labels = torch.from_numpy(dice.rand(600, num_classes) < 0.2).float()
    for shares in ([0.2] * 5, [0.3, 0.3, 0.3, 0.1]):
        assert torch.equal(divide_groups(labels, groups, shares, seed), by_a_table(labels, groups, shares, seed))


def test_groups_of_many_classes_take_no_table_of_all_of_them():
    labels, groups = torch.arange(4000) % 1000, torch.arange(4000)
    tracemalloc.start()
    divide_groups(labels, groups, [0.5, 0.5], seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e6  # the table would have 32 MB


def test_a_small_group_is_not_all_that_is_held_out_where_others_fit_better():
    groups = torch.arange(100) // 11  # nine of 11 images, one of a single image
    val = split(dataset_of(torch.arange(100) % 2, groups), val_fraction=0.1)["val"]
    assert len(val.labels) == 11


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["images", "groups"])
@pytest.mark.parametrize("fold", ["", "2/5"])
def test_another_seed_holds_out_other_images_or_groups(groups, fold):
    held_out = [rows(split(dataset_of(LABELS, groups), seed=seed, fold=fold)["val"]) for seed in (0, 0, 1, 2)]
    assert held_out[0] == held_out[1]
    assert len(set(map(frozenset, held_out))) == 3


def test_a_fold_of_nothing_held_out_trains_on_everything():
    assert list(split(dataset_of(LABELS, GROUPS), val_fraction=0.0, fold="2/5")) == ["train"]


def test_folds_are_made_of_the_images_to_validate_with_too():
    val = Split(torch.zeros(10, 3, 1, 1, dtype=torch.uint8), torch.arange(10) % 2)
    dataset = dataset_of(LABELS[:40], val=val)
    assert [len(split(dataset, fold=fold)["val"].labels) for fold in FOLDS] == [10] * 5


def test_nothing_more_is_held_out_where_there_are_images_to_validate_with():
    val = Split(torch.zeros(10, 3, 1, 1, dtype=torch.uint8), torch.arange(10) % 2)
    found = split(dataset_of(LABELS[:40], val=val))
    assert {name: len(part.labels) for name, part in found.items()} == {"train": 40, "val": 10}


def test_what_is_held_out_is_a_share_of_what_is_used():
    found = split(dataset_of(torch.arange(100) % 2), val_fraction=0.2, train_fraction=0.5)
    assert {name: len(part.labels) for name, part in found.items()} == {"train": 40, "val": 10}


def test_classes_of_one_image_are_held_out_as_often_as_others():
    labels = torch.cat([torch.zeros(160, dtype=torch.long), torch.arange(1, 41)])
    val = split(dataset_of(labels), val_fraction=0.2)["val"]
    assert (val.labels > 0).sum().item() == pytest.approx(0.2 * 40, abs=1)


NAMES = [f"cat/patient{group}_{number}.png" for number, group in enumerate(GROUPS.tolist())]


@pytest.mark.parametrize("rule", [r"patient(\d+)", r"(?:cat)/patient(\d+)", r"patient\d+", "^[^_]*"])
def test_a_rule_finds_groups_in_the_names_of_files(rule):
    splits = split(dataset_of(LABELS, names=NAMES), group_by=rule)
    train, val = ({name.partition("_")[0] for name in splits[name].names} for name in ("train", "val"))
    assert train
    assert val
    assert not train & val


def class_by_class(labels, seed):
    """`stratified_order` of labels [N], by a pass over all images for each class."""
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(labels))
    classes = labels.numpy()[shuffled]
    place, names = np.empty(len(labels)), np.unique(classes)
    for label, start in zip(names, (random.permutation(len(names)) + 0.5) / len(names), strict=True):
        members = np.flatnonzero(classes == label)
        place[members] = (np.arange(len(members)) + start) / len(members)
    return torch.from_numpy(shuffled[np.argsort(place, kind="stable")])


@pytest.mark.parametrize("num_classes", [1, 7, 900])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_is_that_of_going_through_all_images_for_each_class(num_classes, seed):
    labels = torch.from_numpy(np.random.RandomState(seed).randint(0, num_classes, 1000))
    assert torch.equal(stratified_order(labels, seed), class_by_class(labels, seed))


def test_an_order_of_as_many_sets_of_labels_as_images_is_found_in_no_time():
    labels = (torch.arange(60_000)[:, None] >> torch.arange(16) & 1).float()
    start = time.process_time()
    stratified_order(labels, 0)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("dataset", "how", "message"),
    [
        (dataset_of(LABELS, names=NAMES), {"group_by": "scene"}, "--group_by=scene is not found in cat/patient0_0.png"),
        (
            dataset_of(LABELS, names=NAMES),
            {"group_by": r"(cat)/patient(\d+)"},
            r"--group_by=\(cat\)/patient.* has 2 groups in parentheses: leave one, and write the others as \(\?:",
        ),
        (dataset_of(LABELS), {"group_by": "scene"}, "--group_by=scene: the images of numbers are no files"),
        (
            dataset_of(LABELS[:20], names=[f"patient/{i}.png" for i in range(20)]),
            {"group_by": "patient", "fold": "1/5"},
            r"--fold=1/5 leaves no training image of 20 in 1 group: tell more groups apart \(--group_by\)",
        ),
        (
            dataset_of(LABELS[:9], GROUPS[:9] * 0),
            {"fold": "2/5"},
            "--fold=2/5 leaves no validation image of 9 in 1 group: tell more groups apart",
        ),
        (
            dataset_of(LABELS[:9], GROUPS[:9] * 0),
            {},
            "--val_fraction=0.2 leaves no validation image of 9 in 1 group: tell more groups apart",
        ),
        (
            dataset_of(LABELS[:9], GROUPS[:9] * 0),
            {"val_fraction": 0.9},
            "--val_fraction=0.9 leaves no training image of 9 in 1 group: tell more groups apart",
        ),
        (
            dataset_of(LABELS, torch.arange(len(LABELS)) % 2),
            {"val_fraction": 0.01},
            f"--val_fraction=0.01 leaves no validation image of {len(LABELS)} in 2 groups: raise it, or give 0",
        ),
        (dataset_of(LABELS[:1]), {"val_fraction": 0.9}, "--val_fraction=0.9 leaves no training image of 1: lower it"),
        (dataset_of(LABELS[:1]), {"fold": "2/2"}, "--fold=2/2 leaves no training image of 1: leave it out"),
        (dataset_of(LABELS[:3]), {"fold": "1/5"}, "--fold=1/5 leaves no validation image of 3: take fewer folds"),
    ],
)
def test_what_cannot_be_divided_is_told(dataset, how, message):
    with pytest.raises(UserError, match=message):
        split(dataset, **how)


def test_a_group_that_a_table_puts_into_two_splits_is_told_with_the_file(tmp_path):
    for i in range(4):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    lines = "".join(f"{i}.png,a,{['train', 'test'][i % 2]},ann\n" for i in range(4))
    (tmp_path / "table.csv").write_text("path,label,split,group\n" + lines)
    with pytest.raises(UserError, match="1.png of the split test is of a group that is also in train: move one of"):
        make_splits(csv_table.load(tmp_path, 8, 0), Splitting(1.0, 0.5, 0))


def test_a_group_in_two_splits_that_are_joined_for_folds_is_held_out_as_a_whole(tmp_path):
    for i in range(8):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    lines = "".join(f"{i}.png,a,{['train', 'val'][i % 2]},{'ab'[i // 4]}\n" for i in range(8))
    (tmp_path / "table.csv").write_text("path,label,split,group\n" + lines)
    dataset = csv_table.load(tmp_path, 8, 0)
    with pytest.raises(UserError, match="is of a group that is also in train"):
        make_splits(dataset, Splitting(1.0, 0.5, 0))
    splits = make_splits(dataset, Splitting(1.0, 0.5, 0, fold="1/2"))
    assert [len(set(split.groups.tolist())) for split in splits.values()] == [1, 1]


def test_what_was_held_out_is_told_in_the_line_of_a_run(tmp_path):
    for i in range(8):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"patient{i // 2}_{i}.png")
    options = {"image_size": 8, "train_fraction": 1.0, "val_fraction": 0.25, "data_seed": 0, "normalisation": "unit"}
    told = {}
    for how in ({}, {"fold": "1/4"}, {"group_by": "patient."}, {"fold": "2/4", "group_by": "patient."}):
        info, _ = load_splits("folder", str(tmp_path), max_corrupt_images=0, **options, **how)
        told[" ".join(how)] = info.held_out
        assert info.in_one_line().startswith("no classes, 6 train / 2 val / 0 test" + " (" * bool(how) + info.held_out)
    assert told == {
        "": "",
        "fold": "val is fold 1 of 4",
        "group_by": "1 whole group in val",
        "fold group_by": "val is fold 2 of 4, 1 whole group in val",
    }


@pytest.mark.parametrize(("groups", "tolerance"), [(None, 0.01), (GROUPS, 0.04)], ids=["images", "groups"])
def test_of_several_labels_an_image_each_is_in_proportion_and_so_are_images_without(groups, tolerance):
    labels = torch.from_numpy(np.random.RandomState(1).rand(len(LABELS), 3) < (0.5, 0.3, 0.05)).float()
    held_out = []
    for fold in FOLDS:
        val = split(dataset_of(labels, groups), fold=fold)["val"]
        held_out += val.rows.tolist()
        torch.testing.assert_close(val.labels.mean(0), labels.mean(0), atol=tolerance, rtol=0)
        without, expected = ((own.sum(1) == 0).float().mean().item() for own in (val.labels, labels))
        assert without == pytest.approx(expected, abs=2 * tolerance)
    assert sorted(held_out) == list(range(len(labels)))


def test_a_label_of_two_images_is_both_trained_on_and_held_out():
    labels = torch.zeros(40, 2)
    labels[:20, 0] = labels[18:20, 1] = 1
    splits = split(dataset_of(labels), fold="1/2")
    assert [int(splits[name].labels[:, 1].sum()) for name in ("train", "val")] == [1, 1]
