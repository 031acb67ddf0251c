"""Datasets of torchvision, out of small files in its own formats."""

import hashlib
import inspect
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from data import collection
from data.datasets import describe, find_dataset, has_test_images
from data.errors import UserError
from data.pixels import ORIENTATION
from data.torchvision_sets import ENTRIES
from tests.loaded import load_splits

OPTIONS = {
    "train_fraction": 1.0,
    "val_fraction": 0.25,
    "data_seed": 0,
    "normalisation": "channel",
    "max_corrupt_images": 0,
}
RANDOM = np.random.RandomState(0)


def random_images(num, *shape):
    return RANDOM.randint(0, 256, (num, *shape), dtype=np.uint8)


@pytest.fixture
def mnist(tmp_path):
    """12 images to train on and 6 to test with, as idx files; return their pixels."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = {}
    for split, num, short in (("train", 12, "train"), ("test", 6, "t10k")):
        pixels[split] = random_images(num, 28, 28)
        labels = (np.arange(num) % 10).astype(np.uint8)
        (folder / f"{short}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, num, 28, 28) + bytes(pixels[split])
        )
        (folder / f"{short}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, num) + labels.tobytes())
    return pixels


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """16 images to train on and 8 to test with, as pickles, whose checksums torchvision takes for the official ones."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels, lists = {}, {"train_list": [], "test_list": []}
    for split, num in (("train", 16), ("test", 8)):
        pixels[split] = random_images(num, 3, 32, 32)
        content = {"data": pixels[split].reshape(num, -1), "fine_labels": [i % 4 for i in range(num)]}
        (folder / split).write_bytes(pickle.dumps(content))
        lists[f"{split}_list"].append([split, hashlib.md5((folder / split).read_bytes()).hexdigest()])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bear", "clock", "door"]}))
    meta = {"filename": "meta", "key": "fine_label_names"}
    meta["md5"] = hashlib.md5((folder / "meta").read_bytes()).hexdigest()
    for name, value in {**lists, "meta": meta}.items():
        monkeypatch.setattr(torchvision.datasets.CIFAR100, name, value)
    return pixels


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """10 images to train on and 5 to test with, as MATLAB files."""
    pixels, known = {}, {}
    for split, num in (("train", 10), ("test", 5)):
        pixels[split] = random_images(num, 32, 32, 3)
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": pixels[split].transpose(1, 2, 3, 0), "y": (np.arange(num) % 10 + 1)[:, None]})
        known[split] = ["url", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)
    return pixels


@pytest.fixture
def flowers102(tmp_path, monkeypatch):
    """Photographs of several sizes, with lists as MATLAB files."""
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for i in range(1, 10):
        Image.fromarray(random_images(20 + i, 30, 3)).save(folder / "jpg" / f"image_{i:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.arange(9) % 3 + 1})
    savemat(folder / "setid.mat", {"trnid": [1, 2, 3], "valid": [4, 5, 6], "tstid": [7, 8, 9]})
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)


def load(name, data_dir, image_size=0):
    return load_splits(f"torchvision/{name}", str(data_dir), image_size=image_size, **OPTIONS)


def test_mnist_is_read_in_three_equal_channels_at_its_own_size(mnist, tmp_path):
    info, splits = load("mnist", tmp_path)
    assert (info.name, info.image_size, info.classes[3]) == ("mnist", 28, "3 - three")
    assert info.num_images == {"train": 9, "val": 3, "test": 6}
    expected = torch.from_numpy(mnist["test"])[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(splits["test"].images, expected)
    assert splits["test"].labels.tolist() == list(range(6))
    for part in ("train", "val"):
        for image, label in zip(splits[part].images, splits[part].labels, strict=True):
            assert any(
                (image[0].numpy() == pixels).all() and i % 10 == label for i, pixels in enumerate(mnist["train"])
            )


def test_images_of_another_size_are_resized(mnist, tmp_path):
    info, splits = load("mnist", tmp_path, image_size=32)
    assert (info.image_size, info.preparation) == (32, "28x28 -> 32x32, centre crop")
    assert splits["train"].images.shape == (9, 3, 32, 32)


def test_cifar100_is_read_as_torchvision_gives_it(cifar100, tmp_path):
    info, splits = load("cifar100", tmp_path)
    assert info.classes == ("apple", "bear", "clock", "door")
    assert torch.equal(splits["test"].images, torch.from_numpy(cifar100["test"]))
    assert splits["test"].labels.tolist() == [0, 1, 2, 3] * 2
    assert load("cifar100", tmp_path)[0].fingerprint == info.fingerprint


def test_svhn_has_numbers_for_classes(svhn, tmp_path):
    info, splits = load("svhn", tmp_path)
    assert info.classes == tuple("0123456789")
    assert torch.equal(splits["test"].images, torch.from_numpy(svhn["test"]).permute(0, 3, 1, 2))
    assert splits["test"].labels.tolist() == [1, 2, 3, 4, 5]  # SVHN counts from 1, torchvision makes 10 a 0


def test_photographs_are_cropped_and_those_to_validate_with_are_its_own(flowers102, tmp_path):
    info, splits = load("flowers102", tmp_path, image_size=16)
    assert info.num_images == {"train": 3, "val": 3, "test": 3}
    assert info.has_own_val
    assert info.preparation == "30x21 to 30x29 -> 16x16, centre crop"
    assert splits["val"].images.shape == (3, 3, 16, 16)


def test_photographs_are_turned_upright(flowers102, tmp_path):
    path = tmp_path / "flowers-102" / "jpg" / "image_00007.jpg"  # the first to test with
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # it was taken with the camera on its side
    image = Image.new("RGB", (16, 16), "white")
    image.paste("black", (0, 0, 16, 8))  # above, which is on the right once it is upright
    image.save(path, exif=exif)
    _, splits = load("flowers102", tmp_path, image_size=16)
    upright = splits["test"].images[0].float()
    assert upright[:, :, :8].mean() > 240
    assert upright[:, :, 8:].mean() < 15


def test_a_photograph_that_has_changed_is_decoded_anew(flowers102, tmp_path):
    before, _ = load("flowers102", tmp_path, image_size=16)
    Image.new("RGB", (16, 16), "white").save(tmp_path / "flowers-102" / "jpg" / "image_00007.jpg")
    after, splits = load("flowers102", tmp_path, image_size=16)
    assert splits["test"].images[0].min() > 240
    assert after.fingerprint != before.fingerprint


def test_a_photograph_that_cannot_be_read_is_skipped_with_its_label(flowers102, tmp_path):
    (tmp_path / "flowers-102" / "jpg" / "image_00002.jpg").write_bytes(b"damaged")
    options = {**OPTIONS, "max_corrupt_images": 1}
    _, splits = load_splits("torchvision/flowers102", str(tmp_path), image_size=16, **options)
    assert sorted(splits["train"].labels.tolist()) == [0, 2]


def test_files_are_looked_for_once_for_all_splits(flowers102, tmp_path, monkeypatch):
    looked_for, glob = [], Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: looked_for.append(pattern) or glob(self, pattern))
    load("flowers102", tmp_path, image_size=16)
    assert looked_for.count("flowers-102/**/*") == 1


def test_later_runs_decode_nothing(mnist, tmp_path, monkeypatch):
    before, _ = load("mnist", tmp_path)
    monkeypatch.setattr(collection, "picture_of", lambda *_: pytest.fail("decoded anew"))
    assert load("mnist", tmp_path)[0] == before


@pytest.mark.parametrize("name", ["mnist", "cifar100", "flowers102"])
def test_files_that_are_not_there_and_cannot_be_downloaded_are_told_in_one_line(name, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no network")

    for module in ("mnist", "cifar", "flowers102"):
        for function in ("download_and_extract_archive", "download_url"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.{function}", fail, raising=False)
    message = f"{tmp_path}/x holds no {name} that can be read, and it could not be downloaded .*no network.*: put the"
    with pytest.raises(UserError, match=message) as error:
        load(name, tmp_path / "x")
    assert "\n" not in str(error.value)


def test_damaged_files_are_told_in_one_line(mnist, tmp_path):
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"{tmp_path} holds no mnist that can be read") as error:
        load("mnist", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["torchvision/minst", "torchvision/", "torchvision", "torch/mnist"])
def test_unknown_names_are_told_with_those_that_there_are(name):
    with pytest.raises(UserError, match=f"--dataset={name} is not known.*; there are: .*(mnist|torchvision/NAME)"):
        find_dataset(name)
    assert describe(name, 0) is None
    assert has_test_images(name, "")


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_a_class_of_torchvision_with_these_arguments(name):
    entry = ENTRIES[name]
    parameters = inspect.signature(getattr(torchvision.datasets, entry.class_name)).parameters
    for arguments in entry.splits.values():
        assert parameters.keys() >= {"download", *arguments}
    assert has_test_images(f"torchvision/{name}", "") == ("test" in entry.splits)
