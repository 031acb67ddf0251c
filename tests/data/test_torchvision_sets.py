"""Datasets of torchvision, out of small files in its own formats."""

import errno
import hashlib
import inspect
import os
import pickle
import shutil
import struct
import time
from concurrent.futures import ThreadPoolExecutor
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
from data.torchvision_sets import ENTRIES, open_split
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


CLASSES_OF_EUROSAT = [f"class{number}" for number in range(10)]


def extract_eurosat(folder, wait=0.0, before_each=lambda number: None):
    """Write 3 images of each of 10 classes into a folder, one class after the other, as an archive is extracted."""
    for number, name in enumerate(CLASSES_OF_EUROSAT):
        before_each(number)
        (folder / "2750" / name).mkdir(parents=True)
        time.sleep(wait)
        for i in range(3):
            Image.fromarray(random_images(64, 64, 3)).save(folder / "2750" / name / f"{i}.png")


def stand_in_for_eurosat(monkeypatch, **how):
    """Play the download of EuroSAT; return the list of the folders into which it goes, as it is called."""
    folders = []

    def download(url, download_root, md5):
        folders.append(Path(download_root))
        extract_eurosat(Path(download_root), **how)

    monkeypatch.setattr("torchvision.datasets.eurosat.download_and_extract_archive", download)
    return folders


def test_what_is_downloaded_lies_where_torchvision_puts_it(tmp_path, monkeypatch):
    folders = stand_in_for_eurosat(monkeypatch)
    info, _ = load("eurosat", tmp_path)
    assert info.classes == tuple(CLASSES_OF_EUROSAT)
    assert len(torchvision.datasets.EuroSAT(str(tmp_path))) == 30
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"eurosat"}
    assert load("eurosat", tmp_path)[0] == info
    assert len(folders) == 1


@pytest.mark.parametrize("moment", [0, 2, 9])
def test_a_download_that_was_killed_is_begun_anew(moment, tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        stand_in_for_eurosat(killed, before_each=lambda number: number == moment and os._exit(9))
        if not (child := os.fork()):
            try:
                load("eurosat", tmp_path)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    stand_in_for_eurosat(monkeypatch)
    info, _ = load("eurosat", tmp_path)
    assert (len(info.classes), sum(info.num_images.values())) == (10, 30)


def test_while_one_process_downloads_the_others_wait_and_read_all_of_it(tmp_path, monkeypatch, capsys):
    folders = stand_in_for_eurosat(monkeypatch, wait=0.03)
    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(lambda wait: time.sleep(wait) or open_split("eurosat", tmp_path, {}), (0, 0, 0.15)))
    assert [len(theirs) for theirs in opened] == [30] * 3
    assert len(folders) == 1
    assert f"another process downloads eurosat into {tmp_path}: waiting for it" in capsys.readouterr().out


def test_a_download_that_failed_leaves_nothing(tmp_path, monkeypatch):
    def fail(number):
        if number == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    stand_in_for_eurosat(monkeypatch, before_each=fail)
    with pytest.raises(UserError, match="No space left on device"):
        load("eurosat", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".eurosat.lock"]


def test_half_of_a_dataset_that_goes_by_lists_is_told_to_be_replaced(tmp_path):
    (tmp_path / "dtd" / "dtd" / "images").mkdir(parents=True)  # and no lists, which would have come later
    message = f"{tmp_path} holds no dtd that can be read.*No such file.*: put there, in place of what is there, the"
    with pytest.raises(UserError, match=message):
        load("dtd", tmp_path)


def test_fewer_folders_than_classes_are_told(tmp_path):
    extract_eurosat(tmp_path / "eurosat")
    for number in (3, 4):
        shutil.rmtree(tmp_path / "eurosat" / "2750" / f"class{number}")
    with pytest.raises(UserError, match=f"{tmp_path} holds images of 8 of the 10 classes of eurosat: remove"):
        load("eurosat", tmp_path)


def test_an_archive_that_is_there_is_extracted_and_not_downloaded(tmp_path, monkeypatch):
    extract_eurosat(tmp_path / "source")
    (tmp_path / "eurosat").mkdir()
    archive = shutil.make_archive(str(tmp_path / "eurosat" / "EuroSAT"), "zip", tmp_path / "source")
    content = Path(archive).read_bytes()
    extract = torchvision.datasets.eurosat.download_and_extract_archive
    checksum = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(
        "torchvision.datasets.eurosat.download_and_extract_archive",
        lambda url, download_root, md5: extract(url, download_root, md5=checksum),
    )
    assert load("eurosat", tmp_path)[0].num_images == {"train": 22, "val": 8}
    assert Path(archive).read_bytes() == content
    assert not Path(archive).is_symlink()


def test_files_that_are_missing_join_those_that_are_there(svhn, tmp_path, monkeypatch):
    (tmp_path / "test_32x32.mat").rename(tmp_path / "elsewhere")
    before = (tmp_path / "train_32x32.mat").stat().st_ino

    def download(url, root, filename, md5):
        shutil.copy(tmp_path / "elsewhere", Path(root) / filename)

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", download)
    _, splits = load("svhn", tmp_path)
    assert torch.equal(splits["test"].images, torch.from_numpy(svhn["test"]).permute(0, 3, 1, 2))
    assert (tmp_path / "train_32x32.mat").stat().st_ino == before


@pytest.mark.parametrize("name", ENTRIES)
def test_archives_are_looked_for_where_torchvision_puts_them(name, tmp_path, monkeypatch):
    make, wanted = getattr(torchvision.datasets, ENTRIES[name].class_name), set()

    def download(url, root="", filename=None, md5=None, download_root=""):
        wanted.add(Path(root or download_root, filename or Path(url).name))

    for function in ("download_url", "download_and_extract_archive"):
        monkeypatch.setattr(f"{make.__module__}.{function}", download, raising=False)
    for arguments in ENTRIES[name].splits.values():
        with pytest.raises((RuntimeError, OSError)):
            make(str(tmp_path), **arguments, download=True)
    for path in wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert set(tmp_path.glob(ENTRIES[name].archives)) == wanted != set()
