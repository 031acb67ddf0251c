"""What every dataset must do: a new one enrols by its line in DATASETS, and by a maker of a small copy here."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data.datasets import DATASETS, describe, has_test_images
from data.errors import UserError
from tests.loaded import load_splits

OPTIONS = {"train_fraction": 1.0, "val_fraction": 0.25, "data_seed": 0, "normalisation": "channel"}


def make_folder(root, classes=("ant", "bee")):
    random = np.random.RandomState(0)
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = random.randint(0, 256, (12, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def make_faces(root):
    make_folder(root / "faces", classes=("",))


def make_arrays(root):
    random = np.random.RandomState(0)
    root.mkdir(exist_ok=True)
    for split in ("train", "test"):
        images = random.randint(0, 256, (16, 12, 12, 3), dtype=np.uint8)
        classes = {"classes": np.array(["ant", "bee"])} if split == "train" else {}
        np.savez(root / f"{split}.npz", images=images, labels=np.arange(16) % 2, **classes)


def make_csv(root):
    make_folder(root)
    paths = [path.relative_to(root) for path in sorted(root.rglob("*.png"))]
    lines = [f"{path},{path.parent.name},{path.parts[0]}\n" for path in paths]
    (root / "images.csv").write_text("path,label,split\n" + "".join(lines))


# Makes a small copy of a dataset in a folder; None where it needs none, or only the real one will do.
MAKERS = {
    "arrays": make_arrays,
    "cifar10": None,
    "csv": make_csv,
    "digits": None,
    "faces": make_faces,
    "folder": make_folder,
}
every_dataset = pytest.mark.parametrize("name", DATASETS)


@pytest.fixture
def data_dir(name, tmp_path, request):
    if name == "cifar10":
        return request.getfixturevalue("cifar10_dir")
    if MAKERS[name]:
        MAKERS[name](tmp_path / "here")
    return tmp_path / "here"


def load(name, data_dir, image_size=0):
    return load_splits(name, str(data_dir), image_size=image_size, max_corrupt_images=0, **OPTIONS)


@every_dataset
def test_splits_are_uint8_images_of_one_size_with_labels_in_range(name, data_dir):
    info, splits = load(name, data_dir)
    assert set(splits) - {"test"} == {"train", "val"}
    for name, split in splits.items():
        images, labels = split.images, split.labels
        assert images.dtype == torch.uint8
        assert images.shape == (len(labels), 3, info.image_size, info.image_size)
        assert labels.dtype == torch.int64
        assert labels.min() >= 0
        assert labels.max() < max(1, len(info.classes))
        assert split.features is None
        assert info.num_images[name] == len(labels) > 0


@every_dataset
def test_no_image_of_the_training_data_is_held_out_for_validation_as_well(name, data_dir):
    _, splits = load(name, data_dir)
    whole = load_splits(name, str(data_dir), image_size=0, max_corrupt_images=0, **{**OPTIONS, "val_fraction": 0.0})[1]
    assert len(splits["train"].labels) + len(splits["val"].labels) == len(whole["train"].labels)


@every_dataset
def test_what_is_known_without_reading_an_image_is_what_the_images_say(name, data_dir):
    info, splits = load(name, data_dir)
    assert has_test_images(name, str(data_dir)) == ("test" in splits)
    known = describe(name, 0)
    if known is not None:
        assert (known.image_size, known.classes) == (info.image_size, info.classes)


@every_dataset
def test_another_image_size_is_that_of_the_images_or_refused_in_one_line(name, data_dir):
    told = ""
    try:
        _, splits = load(name, data_dir, image_size=48)
    except UserError as error:
        told = str(error)
    is_refused = bool(re.fullmatch(".*--image_size.*", told))
    assert is_refused or {split.images.shape[2:] for split in splits.values()} == {(48, 48)}


@every_dataset
def test_the_same_images_have_the_same_fingerprint_wherever_they_lie(name, data_dir, tmp_path):
    first, splits = load(name, data_dir)
    if not MAKERS[name]:
        assert load(name, data_dir)[0].fingerprint == first.fingerprint
        return
    shutil.copytree(data_dir, tmp_path / "there")
    second, others = load(name, tmp_path / "there")
    assert second.fingerprint == first.fingerprint
    assert all(torch.equal(splits[split].images, others[split].images) for split in splits)


@every_dataset
def test_other_images_have_another_fingerprint(name, data_dir, tmp_path):
    if not MAKERS[name]:
        pytest.skip("its images are fixed")
    first, _ = load(name, data_dir)
    if name == "arrays":
        content = dict(np.load(data_dir / "train.npz"))
        content["images"][0, 0, 0, 0] ^= 1
        np.savez(data_dir / "train.npz", **content)
    else:
        path = next(path for path in sorted(data_dir.rglob("*.png")) if "train" in path.parts)
        Image.new("RGB", (10, 12)).save(path)
    assert load(name, data_dir)[0].fingerprint != first.fingerprint


@every_dataset
def test_a_folder_without_its_data_is_told_in_one_line_with_the_folder(name, tmp_path, monkeypatch):
    if name == "digits":
        pytest.skip("it ships with scikit-learn")
    monkeypatch.setattr("torchvision.datasets.CIFAR10", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match=str(tmp_path)) as error:
        load(name, tmp_path / "nothing")
    assert "\n" not in str(error.value)


def test_every_dataset_has_a_maker():
    assert MAKERS.keys() == DATASETS.keys()
