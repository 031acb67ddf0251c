import io
import zipfile

import numpy as np
import pytest
import torch

from data import arrays
from data.dataset import Split
from data.errors import UserError
from tests.data.faults import FAULTS_OF_THE_MACHINE
from tests.loaded import load_splits

CLASSES = ("ant", "bee", "cat")


def pixels(num=12, side=8, seed=0):
    return np.random.default_rng(seed).integers(256, size=(num, side, side, 3), dtype=np.uint8)


def write(folder, name="train.npz", **content):
    np.savez(folder / name, **content)


def load(folder, image_size=0):
    return arrays.load(folder, image_size, 0)


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
def test_colour_images_may_have_their_channels_first_or_last(layout, tmp_path):
    images = pixels()
    write(tmp_path, images=images if layout == "channels_last" else images.transpose(0, 3, 1, 2))
    dataset = load(tmp_path)
    assert torch.equal(dataset.train.images, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert dataset.train.images.is_contiguous()
    assert dataset.name == tmp_path.name


def test_grey_images_get_three_equal_channels(tmp_path):
    images = pixels()[..., 0]
    write(tmp_path, images=images)
    loaded = load(tmp_path).train.images
    assert loaded.shape == (12, 3, 8, 8)
    assert all(torch.equal(channel, torch.from_numpy(images)) for channel in loaded.unbind(1))


def test_labels_are_read_with_the_names_of_their_classes(tmp_path):
    labels = np.arange(12, dtype=np.uint8) % 3
    write(tmp_path, images=pixels(), labels=labels, classes=np.array(CLASSES))
    write(tmp_path, "test.npz", images=pixels(3), labels=np.array([2, 0, 1]))
    dataset = load(tmp_path)
    assert dataset.classes == CLASSES
    assert dataset.train.labels.tolist() == labels.tolist()
    assert dataset.train.labels.dtype == torch.int64
    assert dataset.test.labels.tolist() == [2, 0, 1]
    assert arrays.has_test_images(tmp_path)


def test_arrays_in_files_of_their_own_are_those_of_an_npz_file(tmp_path):
    labels = np.arange(12) % 3
    for folder in ("one", "own"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "one", images=pixels(), labels=labels, classes=np.array(CLASSES))
    write(tmp_path / "one", "test.npz", images=pixels(3), labels=labels[:3])
    own = {"train_images": pixels(), "train_labels": labels, "train_classes": np.array(CLASSES)}
    for name, array in {**own, "test_images": pixels(3), "test_labels": labels[:3]}.items():
        np.save(tmp_path / "own" / f"{name}.npy", array)
    one, others = load(tmp_path / "one"), load(tmp_path / "own")
    assert others.fingerprint == one.fingerprint
    assert others.classes == CLASSES
    assert arrays.has_test_images(tmp_path / "own")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"train.npz": "npz", "train_labels.npy": "npy"}, "are both there"),
        ({"train_images.npy": "npz"}, "not what its name says"),
        ({"train.npz": "npy"}, "not what its name says"),
        ({"train_labels.npy": "npy"}, "train.npz is not there"),
        ({"train_images.npy": "objects"}, "cannot be read"),
    ],
)
def test_arrays_that_are_not_where_they_should_be_are_refused(files, told, tmp_path):
    content = {
        "npz": lambda file: np.savez(file, images=pixels()),
        "npy": lambda file: np.save(file, pixels()),
        "objects": lambda file: np.save(file, np.array([{}], dtype=object), allow_pickle=True),
    }
    for name, kind in files.items():
        with (tmp_path / name).open("wb") as file:
            content[kind](file)
    with pytest.raises(UserError, match=told):
        load(tmp_path)


def test_classes_without_names_are_called_by_their_numbers(tmp_path):
    write(tmp_path, images=pixels(), labels=np.array([0, 3] * 6))
    assert load(tmp_path).classes == ("0", "1", "2", "3")


def test_images_without_labels_have_no_classes_and_zeros_for_labels(tmp_path):
    write(tmp_path, images=pixels())
    write(tmp_path, "test.npz", images=pixels(4))
    dataset = load(tmp_path)
    assert dataset.classes == ()
    assert dataset.train.labels.tolist() == [0] * 12
    assert dataset.test.labels.tolist() == [0] * 4


def test_without_test_images_there_is_no_test_split(tmp_path):
    write(tmp_path, images=pixels())
    assert load(tmp_path).test is None
    assert not arrays.has_test_images(tmp_path)


def test_the_images_own_size_may_be_asked_for_and_no_other(tmp_path):
    write(tmp_path, images=pixels(side=8))
    assert load(tmp_path, 8).train.images.shape[-1] == 8
    with pytest.raises(UserError, match="^--image_size / --eval_crop is 16 .*, .* 8: leave out --image_size$"):
        load(tmp_path, 16)


def test_what_is_saved_is_loaded_again(tmp_path):
    images = torch.from_numpy(pixels()).permute(0, 3, 1, 2).contiguous()
    train, test = Split(images, torch.arange(12) % 3), Split(images[:5], torch.arange(5) % 3)
    arrays.save(tmp_path, CLASSES, train, test)
    dataset = load(tmp_path)
    assert dataset.classes == CLASSES
    for saved, loaded in ((train, dataset.train), (test, dataset.test)):
        assert torch.equal(loaded.images, saved.images)
        assert torch.equal(loaded.labels, saved.labels)
    (tmp_path / "plain").mkdir()
    arrays.save(tmp_path / "plain", (), train)
    assert load(tmp_path / "plain").classes == ()


def test_the_fingerprint_tells_the_content_and_not_the_file(tmp_path):
    def fingerprint(name, compress=False, **content):
        folder = tmp_path / name
        folder.mkdir()
        (np.savez_compressed if compress else np.savez)(folder / "train.npz", **content)
        return load(folder).fingerprint

    images, labels = pixels(), np.arange(12) % 3
    first = fingerprint("a", images=images, labels=labels)
    assert first == fingerprint("b", compress=True, images=images.transpose(0, 3, 1, 2), labels=labels.astype(np.int8))
    changed = images.copy()
    changed[3, 2, 1, 0] ^= 1
    others = [
        fingerprint("c", images=changed, labels=labels),
        fingerprint("d", images=images, labels=labels[::-1]),
        fingerprint("e", images=images, labels=labels, classes=np.array(CLASSES)),
        fingerprint("f", images=images),
    ]
    write(tmp_path / "a", "test.npz", images=images, labels=labels)
    assert len({first, *others, load(tmp_path / "a").fingerprint}) == 6


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


GOOD = {"images": pixels(), "labels": np.arange(12) % 3, "classes": np.array(CLASSES)}
FAULTS = {
    "no images": ({"labels": GOOD["labels"]}, "has no images"),
    "an unknown name": ({**GOOD, "label": GOOD["labels"]}, "label is not known, did you mean labels"),
    "numbers that are no pixels": ({"images": pixels() / 255}, "its images are float64, not uint8"),
    "another number of channels": ({"images": pixels()[..., :2]}, r"the shape \[12, 8, 8, 2\]: give \[N, H, W, 3\]"),
    "one image alone": ({"images": pixels()[0, 0]}, r"the shape \[8, 3\]"),
    "oblong images": ({"images": pixels()[:, :4]}, "12 images of 8x4 pixels: give square ones"),
    "an empty array": ({"images": pixels()[:0]}, "0 images"),
    "labels that are no numbers": ({**GOOD, "labels": np.array(["ant"] * 12)}, "its labels are <U3"),
    "labels in rows": ({**GOOD, "labels": GOOD["labels"][:, None]}, r"its labels are int64 \[12, 1\]"),
    "too few labels": ({**GOOD, "labels": GOOD["labels"][:5]}, "12 images and 5 labels"),
    "a label without a class": ({**GOOD, "labels": np.arange(12) % 4}, "label 3 is none of the 3 classes"),
    "a negative label": ({**GOOD, "labels": np.arange(12) % 3 - 1}, "label -1 is none of the 3 classes"),
    "a negative label without names": ({"images": pixels(), "labels": np.arange(12) % 3 - 1}, "label -1 is none of"),
    "a label beyond reason": ({"images": pixels(), "labels": np.full(12, 10**12)}, "label 1000000000000 for 12 images"),
    "classes that are no texts": ({**GOOD, "classes": np.arange(3)}, r"its classes are int64 \[3\]"),
    "two classes of one name in two spellings": (
        {**GOOD, "classes": np.array(["Ka\u0308fer", "K\u00e4fer", "ant"])},
        "the same name",
    ),
    "two classes of one name": ({**GOOD, "classes": np.array(["ant", "bee", "ant"])}, "the same name"),
    "classes without labels": ({"images": pixels(), "classes": GOOD["classes"]}, "classes, but no labels"),
    "pickled objects": ({**GOOD, "labels": np.array([object()] * 12)}, "cannot be read .*allow_pickle"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_in_one_line_that_names_the_file(fault, tmp_path):
    content, message = FAULTS[fault]
    write(tmp_path, **content)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path / "train.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


TEST_FAULTS = {
    "no labels": ({"images": pixels(3)}, "test.npz has no labels, but .*train.npz has"),
    "another size": ({"images": pixels(3, side=4), "labels": np.zeros(3, int)}, "4 pixels, .*train.npz of 8"),
    "an unknown class": ({"images": pixels(3), "labels": np.full(3, 7)}, "test.npz: label 7 is none"),
    "names of its own": ({"images": pixels(3), "labels": np.zeros(3, int), "classes": GOOD["classes"]}, "not known"),
}


@pytest.mark.parametrize("fault", TEST_FAULTS)
def test_test_images_that_do_not_suit_the_training_images_are_refused(fault, tmp_path):
    content, message = TEST_FAULTS[fault]
    write(tmp_path, **GOOD)
    write(tmp_path, "test.npz", **content)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_labels_of_test_images_alone_are_refused(tmp_path):
    write(tmp_path, images=pixels())
    write(tmp_path, "test.npz", images=pixels(3), labels=np.zeros(3, int))
    with pytest.raises(UserError, match=r"train.npz has no labels, but .*test.npz has"):
        load(tmp_path)


def test_a_missing_file_is_named_with_its_folder(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path / 'train.npz'} is not there: .*--data_dir"):
        load(tmp_path)


def zip_of(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", content)
    return file.getvalue()


def damaged_files():
    file = io.BytesIO()
    np.savez_compressed(file, **GOOD)
    whole = file.getvalue()
    flipped = bytearray(whole)
    flipped[120] ^= 255
    header = npy(pixels()).replace(b"'shape': (12, 8", b"'shape': (12, (")
    return {
        "empty": b"",
        "text": b"no zip",
        "cut": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "npy": npy(pixels()),
        "pickle": npy(np.array([object()])),
        "text in it": zip_of(b"no array"),
        "header": zip_of(header),
        "cut array": zip_of(npy(pixels())[:-9]),
    }


@pytest.mark.parametrize("damage", damaged_files())
def test_a_damaged_file_ends_in_one_line(damage, tmp_path):
    (tmp_path / "train.npz").write_bytes(damaged_files()[damage])
    with pytest.raises(UserError, match=r"train.npz cannot be read|its images are") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_code_of_a_pickle_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    write(tmp_path, images=pixels(), labels=np.array([Trap()] * 12))
    with pytest.raises(UserError):
        load(tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("error", FAULTS_OF_THE_MACHINE, ids=lambda error: type(error).__name__)
def test_a_fault_of_the_machine_is_not_laid_on_the_arrays(error, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise error

    write(tmp_path, images=pixels())
    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(type(error)) as caught:
        load(tmp_path)
    assert caught.value is error


def test_labels_that_are_counted_from_one_are_told_at_the_start_of_a_run(tmp_path):
    np.savez(tmp_path / "train.npz", images=np.zeros((9, 8, 8, 3), np.uint8), labels=np.arange(9) % 3 + 1)
    options = {"image_size": 0, "val_fraction": 0.0, "train_fraction": 1.0, "data_seed": 0, "max_corrupt_images": 0}
    info, _ = load_splits("arrays", str(tmp_path), normalisation="unit", **options)
    assert info.in_one_line().startswith("4 classes (0-3 each; class 0 has no image to train on), 9 train")
