"""Where images are kept: on the device if they fit, else where they are stored, from where batches are gathered."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from data import folder, residence
from data.augmentation import Augmentation
from data.dataset import DatasetInfo, Split, pixel_statistics
from data.loader import Loader
from data.paths import cache_dir
from data.residence import GIB, choose_residence, free_memory
from data.splitting import Splitting, make_splits

CPU = torch.device("cpu")


@pytest.fixture
def free(monkeypatch):
    """Set the free memory."""
    return lambda num_bytes: monkeypatch.setattr(residence, "free_memory", lambda: num_bytes)


@pytest.fixture
def photos(tmp_path):
    """A folder of 12 images to train and 4 to validate with, of 8 pixels."""
    random = np.random.RandomState(0)
    for split, num in (("train", 12), ("val", 4)):
        for i in range(num):
            path = tmp_path / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.randint(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path


NOT_KEPT = "read batch by batch from where they are stored"


@pytest.mark.parametrize(
    ("gib", "processes", "on_device", "reason"),
    [
        (5, 1, True, "kept in memory of the device cpu, where they take 5 of the 10.0 GiB that are free"),
        (5.5, 1, False, f"{NOT_KEPT}, as they would take 5.5 of the 10.0 GiB that are free"),
        (5, 2, False, f"{NOT_KEPT}, as they would take 5 of the 5.0 GiB that are free"),
    ],
)
def test_auto_keeps_images_on_the_device_if_they_take_half_of_its_memory_and_says_why(
    gib, processes, on_device, reason, free
):
    free(10 * GIB)
    assert choose_residence(int(gib * GIB), CPU, "auto", processes) == (on_device, reason)


def test_resident_setting_is_followed():
    assert [choose_residence(10**18, CPU, setting).on_device for setting in ("device", "host")] == [True, False]


@pytest.mark.parametrize("version", [1, 2])
def test_free_memory_is_at_most_what_a_container_may_take(version, tmp_path, monkeypatch):
    group, name = {1: ("memory/job", "memory.limit_in_bytes"), 2: ("job", "memory.max")}[version]
    (tmp_path / group).mkdir(parents=True)
    (tmp_path / "groups").write_text({1: "9:name=systemd:/\n4:memory:/job\n", 2: "0::/job\n"}[version])
    monkeypatch.setattr(residence, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(residence, "ROOT", tmp_path)
    machine = free_memory()
    assert machine > 0
    for text, expected in (("max", machine), (str(2**60), machine), ("1000", 0)):
        (tmp_path / group / name).write_text(text + "\n")
        assert free_memory() == pytest.approx(expected, rel=0.5)


@pytest.mark.parametrize(
    ("groups", "limits"),
    [
        ("0::/slurm/job_1/step_0/task_0\n", {"slurm/job_1/memory.max": "1000", "slurm/job_1/step_0/memory.max": "max"}),
        ("0::/system.slice/docker-abc.scope\n", {"memory.max": "1000"}),
        ("4:memory:/docker/abc\n", {"memory/memory.limit_in_bytes": "1000"}),
        ("4:memory:/job/step\n", {"memory/job/memory.limit_in_bytes": "1000"}),
    ],
    ids=["a job above its task", "a container of the host's groups", "a container of version 1", "a job of version 1"],
)
def test_limits_of_the_groups_above_count_too(groups, limits, tmp_path, monkeypatch):
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "groups").write_text(groups)
    monkeypatch.setattr(residence, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(residence, "ROOT", tmp_path)
    assert free_memory() == 0


def test_splits_of_a_folder_are_indices_into_the_file_that_holds_its_images(photos):
    dataset = folder.load(photos / "train", 8, 0)
    splits = make_splits(dataset, Splitting(1.0, 0.25, 0))
    assert {name: len(split.rows) for name, split in splits.items()} == {"train": 9, "val": 3}
    assert all(split.stored is dataset.train.stored for split in splits.values())
    for split in splits.values():
        assert torch.equal(split.images, dataset.train.images[split.rows])


def test_images_that_were_joined_are_gathered_from_both_files(photos):
    dataset = folder.load(photos, 8, 0)
    together = make_splits(dataset, Splitting(1.0, 0.0, 0))["train"]
    parts = torch.cat([dataset.train.images, dataset.val.images])
    assert (together.stored.first, together.stored.second) == (dataset.train.stored, dataset.val.stored)
    assert torch.equal(together.images, parts[together.rows])
    index = torch.tensor([15, 0, 3, 3])
    assert torch.equal(together.gather(index), parts[together.rows[index]])


def test_images_are_read_by_their_places_in_the_file(photos):
    stored = folder.load(photos / "train", 8, 0).train.stored
    index = torch.tensor([11, 0, 5, 5])
    assert torch.equal(stored.index_select(0, index), stored.mapped[index])
    assert stored.index_select(0, index[:0]).shape == (0, 3, 8, 8)


def test_a_file_that_is_cut_in_the_meantime_is_no_endless_wait(photos):
    stored = folder.load(photos / "train", 8, 0).train.stored
    [path, *_] = cache_dir().glob("decoded/*/images.npy")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(OSError, match=f"{path} has been cut: delete it"):
        stored.index_select(0, torch.tensor([11]))


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_statistics_come_from_sums_kept_beside_the_images_and_equal_those_of_the_pixels(fraction, photos):
    train = make_splits(folder.load(photos, 8, 0), Splitting(1.0, fraction, 0))["train"]
    assert train.sums is not None
    assert pixel_statistics("channel", train) == pixel_statistics("channel", train._replace(sums=None))
    pixels = train.images.double().numpy() / 255
    np.testing.assert_allclose(pixel_statistics("channel", train), (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))))


def test_a_cache_of_a_version_without_sums_is_read(photos):
    before = folder.load(photos, 8, 0)
    for path in cache_dir().glob("decoded/*/sums.npy"):
        path.write_bytes(b"cut")
    after = folder.load(photos, 8, 0)
    assert after.train.sums is None
    assert torch.equal(before.train.images, after.train.images)


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_of_images_too_large_for_memory_are_those_of_images_in_memory(channels_last, photos, free):
    split = make_splits(folder.load(photos, 8, 0), Splitting(1.0, 0.0, 0))["train"]
    info = DatasetInfo("photos", 8, ("a", "b"), (0.5,) * 3, (0.5,) * 3, {}, "")
    loaders = []
    for num_bytes in (GIB, 1000):
        free(num_bytes)
        loaders.append(Loader(split, info, CPU, channels_last=channels_last))
    assert [loader.residence.on_device for loader in loaders] == [True, False]
    epochs = []
    for loader in loaders:
        torch.manual_seed(0)
        options = {"seed": 1, "epoch": 0, "batch_size": 4, "augmentation": Augmentation("crop_flip", cutout=2)}
        epochs.append([*loader.training_batches(**options), *loader.evaluation_batches(5)])
    for one, other in zip(*epochs, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.images.stride() == other.images.stride()


def test_a_split_of_a_split_has_the_images_and_files_of_its_own():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    split = Split(images, torch.arange(10), names=[str(i) for i in range(10)])
    inner = split.select(torch.tensor([8, 6, 4, 2])).select(torch.tensor([3, 0]))
    assert inner.images[:, 0, 0, 0].tolist() == inner.labels.tolist() == [2, 8]
    assert inner.names == ["2", "8"]
