import hashlib
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead
from pathlib import Path
from tarfile import ReadError
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from data import cifar10
from data.dataset import pixel_statistics
from data.errors import UserError

RECORDS = 4  # of each fake file


def fake_records():
    random = np.random.RandomState(0)
    for _ in range(6):
        yield random.randint(0, 256, (RECORDS, 3, 32, 32), dtype=np.uint8), random.randint(0, 10, RECORDS)


def write_layout(layout, root, monkeypatch):
    folder = root / layout
    folder.mkdir(parents=True)
    checksums = {}
    for name, (images, labels) in zip(cifar10.CHECKSUMS[layout], fake_records(), strict=True):
        if layout == cifar10.BINARY:
            content = b"".join(
                bytes([label]) + image.tobytes() for image, label in zip(images, labels.tolist(), strict=True)
            )
        else:
            content = pickle.dumps({"data": images.reshape(RECORDS, 3072), "labels": labels.tolist()})
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(cifar10.CHECKSUMS, layout, checksums)
    return folder


@pytest.mark.parametrize("layout", [cifar10.BINARY, cifar10.PYTHON])
def test_either_layout_gives_its_records_in_order(layout, tmp_path, monkeypatch):
    write_layout(layout, tmp_path, monkeypatch)
    train = cifar10.load(tmp_path, 0, 0).train  # so few images are all below the 50,000 for training
    images, labels = (np.concatenate(parts) for parts in zip(*fake_records(), strict=True))
    assert np.array_equal(train.images.numpy(), images)
    assert train.labels.tolist() == labels.tolist()
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)


def test_last_file_is_the_test_split(tmp_path, monkeypatch):
    write_layout(cifar10.BINARY, tmp_path, monkeypatch)
    monkeypatch.setattr(  # as many images as in a real file, of no pixels
        cifar10, "parse_binary", lambda content: (np.empty((10_000, 3, 0, 0)), np.full(10_000, content[0]))
    )
    dataset = cifar10.load(tmp_path, 0, 0)
    first_labels = [int(labels[0]) for _, labels in fake_records()]
    assert dataset.train.labels.tolist() == np.repeat(first_labels[:5], 10_000).tolist()
    assert dataset.test.labels.tolist() == [first_labels[5]] * 10_000
    assert (len(dataset.train.images), len(dataset.test.images)) == (50_000, 10_000)


def test_both_layouts_share_one_fingerprint(tmp_path, monkeypatch):
    for layout in (cifar10.BINARY, cifar10.PYTHON):
        write_layout(layout, tmp_path / layout, monkeypatch)
    datasets = [cifar10.load(tmp_path / layout, 32, 0) for layout in (cifar10.BINARY, cifar10.PYTHON)]
    assert datasets[0].fingerprint == datasets[1].fingerprint


@pytest.mark.parametrize("layout", [cifar10.BINARY, cifar10.PYTHON])
@pytest.mark.parametrize("index", [1, 5])
def test_missing_file_is_named_with_the_remedy(layout, index, tmp_path, monkeypatch):
    folder = write_layout(layout, tmp_path, monkeypatch)
    file = folder / list(cifar10.CHECKSUMS[layout])[index]
    file.unlink()
    with pytest.raises(UserError, match=f"^{file} is missing.*: delete {folder} and start again$"):
        cifar10.load(tmp_path, 0, 0)


@pytest.mark.parametrize("layout", [cifar10.BINARY, cifar10.PYTHON])
@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: bytes([content[0] ^ 1]) + content[1:]], ids=["cut", "bit"]
)
def test_damaged_file_is_named_and_never_unpickled(layout, damage, tmp_path, monkeypatch):
    folder = write_layout(layout, tmp_path, monkeypatch)
    file = folder / list(cifar10.CHECKSUMS[layout])[2]
    file.write_bytes(damage(file.read_bytes()))
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("unpickled a damaged file"))
    with pytest.raises(UserError, match=f"^{file} is damaged .*: delete {folder} and start again$"):
        cifar10.load(tmp_path, 0, 0)


def test_absent_dataset_is_downloaded(tmp_path, monkeypatch):
    def download(root, download):
        assert (Path(root).parent, download) == (tmp_path, True)
        write_layout(cifar10.PYTHON, Path(root), monkeypatch)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    assert len(cifar10.load(tmp_path, 0, 0).train.images) == 6 * RECORDS
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [cifar10.PYTHON]


def test_of_three_first_downloads_at_once_one_downloads_and_the_others_wait(tmp_path, monkeypatch, capsys):
    started = []

    def download(root, download):
        started.append(root)
        write_layout(cifar10.PYTHON, Path(root), monkeypatch)
        for path in sorted((Path(root) / cifar10.PYTHON).iterdir()):  # as it is unpacked, file by file
            content = path.read_bytes()
            path.unlink()
            time.sleep(0.05)
            path.write_bytes(content)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    with ThreadPoolExecutor(3) as pool:
        datasets = list(pool.map(lambda wait: time.sleep(wait) or cifar10.load(tmp_path, 0, 0), (0, 0, 0.2)))
    assert [len(dataset.train.images) for dataset in datasets] == [6 * RECORDS] * 3
    assert len(started) == 1
    assert f"another process downloads CIFAR-10 into {tmp_path}: waiting for it" in capsys.readouterr().out


def test_what_a_killed_download_left_is_swept_by_the_next(tmp_path, monkeypatch):
    leftover = tmp_path / f"{cifar10.PYTHON}.unfinished" / cifar10.PYTHON
    leftover.mkdir(parents=True)
    (leftover / "data_batch_1").write_bytes(b"half")
    monkeypatch.setattr(
        torchvision.datasets, "CIFAR10", lambda root, download: write_layout(cifar10.PYTHON, Path(root), monkeypatch)
    )
    assert len(cifar10.load(tmp_path, 0, 0).train.images) == 6 * RECORDS
    assert not leftover.parent.exists()


def test_present_dataset_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "download", lambda _: pytest.fail("downloaded"))
    write_layout(cifar10.PYTHON, tmp_path, monkeypatch)
    assert len(cifar10.load(tmp_path, 0, 0).train.images) == 6 * RECORDS


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (URLError("no route to host"), "no route to host"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (RuntimeError("File not found or corrupted.\nTry again."), "File not found or corrupted."),
        (ConnectionResetError(), "ConnectionResetError"),
        (IncompleteRead(b"", 170_000_000), "IncompleteRead(0 bytes read, 170000000 more expected)"),
        (ReadError("not a gzip file"), "not a gzip file"),
        (EOFError("Compressed file ended"), "Compressed file ended"),
    ],
)
def test_failed_download_is_one_line_with_the_folder_and_the_remedy(error, reason, tmp_path, monkeypatch):
    def download(root, download):
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    with pytest.raises(UserError) as caught:
        cifar10.load(tmp_path, 0, 0)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path} holds no CIFAR-10")
    for part in (reason, cifar10.BINARY, cifar10.PYTHON, "--data_dir"):
        assert part in message


@pytest.mark.parametrize("image_size", [31, 64])
def test_other_image_sizes_are_refused_before_anything_is_read(image_size, tmp_path):
    with pytest.raises(UserError, match=f"^--image_size / --eval_crop is {image_size} .*, .* 32: leave out --"):
        cifar10.load(tmp_path / "missing", image_size, 0)


@pytest.fixture(scope="module")
def real(cifar10_dir):
    return cifar10.load(cifar10_dir, 0, 0)


def test_real_images_are_complete_and_balanced(real):
    assert real.train.images.shape == (50_000, 3, 32, 32)
    assert real.test.images.shape == (10_000, 3, 32, 32)
    assert real.train.labels.bincount().tolist() == [5_000] * 10
    assert real.test.labels.bincount().tolist() == [1_000] * 10


def test_real_images_have_the_published_statistics(real):
    means, deviations = pixel_statistics("channel", real.train)
    assert means == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)
    assert deviations == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-3)


def test_real_images_have_the_published_order_and_orientation(real):
    classes = [real.classes[label] for label in real.test.labels[:8]]
    assert classes == ["cat", "ship", "ship", "airplane", "frog", "frog", "automobile", "frog"]
    top_left = real.train.images[0, :, :2, :2].permute(1, 2, 0).tolist()  # the frog that opens every tutorial
    assert top_left == [[[59, 62, 63], [43, 46, 45]], [[16, 20, 20], [0, 0, 0]]]
