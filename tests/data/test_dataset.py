from pathlib import Path

import numpy as np
import pytest
import torch

from data import digits
from data.dataset import Dataset, DatasetInfo, Source, Split, pixel_statistics
from data.datasets import DATASETS, describe
from data.errors import UserError
from data.paths import default_data_dir
from data.splitting import Splitting, make_splits, stratified_order
from tests.loaded import load_splits

CIFAR_LABELS = torch.arange(50_000) % 10
UNEVEN_LABELS = torch.tensor([0] * 300 + [1] * 30 + [2] * 3)


def dataset_of(labels, test=None):
    images = torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)  # a picture of its own index
    return Dataset("numbers", (), Split(images, labels), test, "")


def indices(split):
    return split.images[:, 0, 0, 0].tolist()


def load(name="digits", **changes):
    settings = {
        "data_dir": "",
        "image_size": 8,
        "train_fraction": 1.0,
        "val_fraction": 0.1,
        "data_seed": 0,
        "normalisation": "channel",
        "max_corrupt_images": 0,
    }
    return load_splits(name, **{**settings, **changes})


def test_fractions_give_the_documented_sizes():
    splits = make_splits(dataset_of(CIFAR_LABELS), Splitting(0.2, 0.2, 0))
    assert {name: len(split.labels) for name, split in splits.items()} == {"train": 8_000, "val": 2_000}


def test_splits_are_disjoint_and_together_the_used_images():
    splits = make_splits(dataset_of(UNEVEN_LABELS), Splitting(1.0, 0.1, 0))
    assert sorted(indices(splits["train"]) + indices(splits["val"])) == list(range(333))


def test_labels_stay_with_their_images():
    splits = make_splits(dataset_of(UNEVEN_LABELS), Splitting(0.5, 0.3, 1))
    for split in splits.values():
        assert torch.equal(split.labels, UNEVEN_LABELS[indices(split)])


def test_what_is_known_of_images_stays_with_them_where_splits_are_joined_and_images_chosen():
    def split(numbers):
        images, names = numbers.view(-1, 1, 1, 1).expand(-1, 3, 1, 1).byte(), [f"{i}.png" for i in numbers.tolist()]
        return Split(images, numbers, names=names, sums=numbers.view(-1, 1, 1).expand(-1, 3, 2), groups=numbers)

    chosen = [4, 0, 3]
    joined = split(torch.arange(2)).join(split(torch.arange(2, 5))).select(torch.tensor(chosen))
    assert indices(joined) == joined.labels.tolist() == joined.groups.tolist() == chosen
    assert joined.sums[:, 0, 0].tolist() == chosen
    assert joined.names == ["4.png", "0.png", "3.png"]


@pytest.mark.parametrize("labels", [CIFAR_LABELS, UNEVEN_LABELS], ids=["even", "uneven"])
@pytest.mark.parametrize("val_fraction", [0.1, 0.23, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_split_holds_the_classes_in_their_proportions(labels, val_fraction, seed):
    share = labels.bincount() / len(labels)
    for split in make_splits(dataset_of(labels), Splitting(1.0, val_fraction, seed)).values():
        assert (split.labels.bincount(minlength=len(share)) - len(split.labels) * share).abs().max() <= 1


def test_smaller_training_fraction_is_a_part_of_the_larger():
    used = [make_splits(dataset_of(CIFAR_LABELS), Splitting(fraction, 0.0, 0)) for fraction in (0.1, 0.3)]
    assert set(indices(used[0]["train"])) < set(indices(used[1]["train"]))


def test_splits_depend_on_the_data_seed_alone():
    orders = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        orders.append(stratified_order(CIFAR_LABELS, seed=5))
    assert torch.equal(*orders)
    assert not torch.equal(orders[0], stratified_order(CIFAR_LABELS, seed=6))


def test_many_small_classes_beside_a_large_one_all_reach_a_small_split_in_proportion():
    labels = torch.cat([torch.zeros(1_000, dtype=torch.long), torch.arange(1, 101).repeat(5)])
    val = make_splits(dataset_of(labels), Splitting(1.0, 0.05, 0))["val"]
    num_small = int((val.labels > 0).sum())
    assert abs(num_small - len(val.labels) / 3) <= 2


def test_order_is_the_same_on_every_machine():
    expected = [32117, 26611, 47173, 11600, 28716, 25792, 13464, 48839, 33618, 42745, 34957, 28921]
    assert stratified_order(CIFAR_LABELS, seed=3407)[:12].tolist() == expected


def test_no_validation_split_where_its_fraction_is_zero():
    assert list(make_splits(dataset_of(UNEVEN_LABELS), Splitting(1.0, 0.0, 0))) == ["train"]


def test_test_split_is_passed_on_untouched():
    test = Split(torch.zeros(2, 3, 1, 1), torch.tensor([1, 0]))
    assert make_splits(dataset_of(UNEVEN_LABELS, test), Splitting(0.1, 0.1, 0))["test"] is test


@pytest.mark.parametrize(
    ("train_fraction", "val_fraction", "message"),
    [(0.001, 0.1, "--train_fraction=0.001 .* none of 333 images"), (0.1, 0.001, "--val_fraction=0.001 .* of 33:")],
)
def test_split_without_images_is_refused(train_fraction, val_fraction, message):
    with pytest.raises(UserError, match=message):
        make_splits(dataset_of(UNEVEN_LABELS), Splitting(train_fraction, val_fraction, 0))


def test_channel_statistics_equal_numpy_in_float64():
    images = torch.randint(0, 256, (50, 3, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] //= 3
    unit = images.numpy().astype(np.float64) / 255
    means, deviations = pixel_statistics("channel", Split(images, torch.zeros(50)))
    np.testing.assert_allclose(means, unit.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviations, unit.std((0, 2, 3)), rtol=1e-12)


def test_channel_of_one_value_gets_deviation_one():
    split = Split(torch.full((4, 3, 2, 2), 51, dtype=torch.uint8), torch.zeros(4))
    means, deviations = pixel_statistics("channel", split)
    assert means == pytest.approx((0.2,) * 3)
    assert deviations == (1.0,) * 3


def test_to_unit_range_undoes_the_normalisation():
    mean, std = np.array([0.1, 0.5, 0.7]), np.array([0.5, 0.25, 2.0])
    info = DatasetInfo("", 4, (), tuple(mean), tuple(std), {}, "")
    unit = np.random.RandomState(0).rand(5, 3, 4, 4)
    normalised = torch.from_numpy((unit - mean[:, None, None]) / std[:, None, None])
    np.testing.assert_allclose(info.to_unit_range(normalised).numpy(), unit, atol=1e-12)
    assert info.to_unit_range(normalised.float()).dtype == torch.float32


def test_to_unit_range_clips_what_a_model_overshoots():
    info = DatasetInfo("", 1, (), (0.5,) * 3, (0.5,) * 3, {}, "")
    pixels = torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1)
    assert info.to_unit_range(pixels).flatten().tolist() == [0.0, 0.5, 1.0]


def test_info_describes_the_loaded_splits():
    info, splits = load(train_fraction=0.5, val_fraction=0.2)
    assert info.num_images == {"train": 574, "val": 144, "test": 360}  # of 1,437 training images
    assert info.num_images == {name: len(split.images) for name, split in splits.items()}
    assert (info.name, info.image_size, info.classes) == ("digits", 8, tuple("0123456789"))


def test_channel_normalisation_is_measured_on_the_training_split():
    info, splits = load(train_fraction=0.1)
    unit = splits["train"].images.double() / 255
    assert info.mean == pytest.approx(unit.mean((0, 2, 3)).tolist())
    assert info.std == pytest.approx(unit.std((0, 2, 3), correction=0).tolist())


@pytest.mark.parametrize(("normalisation", "value"), [("symmetric", 0.5), ("unit", None)])
def test_fixed_normalisations(normalisation, value):
    info, _ = load(normalisation=normalisation)
    assert (info.mean, info.std) == (((value,) * 3,) * 2 if value else ((0.0,) * 3, (1.0,) * 3))


@pytest.mark.parametrize(("image_size", "eval_crop"), [(0, 1.0), (16, 1.0), (0, 0.9)])
def test_what_is_known_without_reading_agrees_with_what_is_read(image_size, eval_crop):
    known, (read, _) = describe("digits", image_size, eval_crop), load(image_size=image_size, eval_crop=eval_crop)
    assert (known.name, known.image_size, known.classes) == (read.name, read.image_size, read.classes)
    assert describe("folder", image_size) is None


def test_misspelt_dataset_is_answered_with_a_suggestion_and_the_list():
    with pytest.raises(UserError, match="--dataset=cifar-10 .* did you mean cifar10.*" + ", ".join(DATASETS)):
        load("cifar-10")


def test_data_dir_is_the_environment_variable_or_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("VISION_SWEEPS_DATA", "/elsewhere")
    assert default_data_dir() == Path("/elsewhere")
    monkeypatch.delenv("VISION_SWEEPS_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "vision-sweeps"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / ".cache" / "vision-sweeps"


def test_data_dir_may_start_with_a_tilde(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("HOME", str(tmp_path))
    source = Source(lambda *arguments: asked.append(arguments) or digits.load(*arguments))
    monkeypatch.setitem(DATASETS, "digits", source)
    load(data_dir="~/pictures", image_size=8, max_corrupt_images=3)
    assert asked == [(tmp_path / "pictures", 8, 3)]


def test_what_a_run_trains_on_is_told_in_one_line():
    info = DatasetInfo(
        "pets",
        64,
        tuple("abcdefghij"),
        (0.5,) * 3,
        (0.5,) * 3,
        {"train": 1650, "val": 412},
        "",
        class_sizes=(204, 208),
        preparation="100x100 -> 64x64, centre crop",
    )
    assert info.in_one_line() == (
        "10 classes (204-208 each), 1,650 train / 412 val / 0 test, 100x100 -> 64x64, centre crop"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "10 classes (140-147 each), 1,293 train / 144 val / 360 test, 8x8"),
        ({"val_fraction": 0.0}, "10 classes (140-147 each), 1,437 train / 0 val / 360 test, 8x8"),
        (
            {"train_fraction": 0.5, "image_size": 0},
            "10 classes (70-73 each), 646 train / 72 val / 360 test, 8x8 -> 32x32",
        ),
    ],
)
def test_classes_are_counted_over_all_images_to_train_and_validate_with(changes, text):
    info, splits = load(**changes)
    counts = torch.cat([split.labels for name, split in splits.items() if name != "test"]).bincount()
    assert info.class_sizes == (counts.min(), counts.max())
    assert info.in_one_line() == text


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ((27, 28, 26, 9), "4 classes (1-30 each), "),
        ((0, 27, 28, 26), "4 classes (1-30 each; class 0 has no image to train on), "),
        ((0, 27, 0, 26), "4 classes (1-30 each; classes 0, 2 have no image to train on), "),
        ((0,) * 4, "4 classes (1-30 each; classes 0, 1, 2 and 1 more have no image to train on), "),
    ],
)
def test_classes_without_an_image_to_train_on_are_told(counts, told):
    info = DatasetInfo("pets", 8, tuple("0123"), (0.5,) * 3, (0.5,) * 3, {}, "", (1, 30), class_counts=counts)
    assert info.in_one_line().startswith(told)


def test_images_without_classes_are_told_without_counts():
    info = DatasetInfo("faces", 64, (), (0.5,) * 3, (0.5,) * 3, {"train": 7}, "")
    assert info.in_one_line() == "no classes, 7 train / 0 val / 0 test, 64x64"
