"""Images that are decoded whenever they are used are those that are decoded once."""

import errno
import os

import numpy as np
import pytest
import torch

import train
from analysis.record import run_folder
from data import csv_table, decoding, folder
from data.decode_each import DecodedEachTime
from data.errors import UserError
from data.paths import cache_dir
from data.pixels import decode_image
from tests.data.test_folder import save


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    dice = np.random.default_rng(0)
    for number in range(24):
        pixels = dice.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        save(root / ("cat", "dog")[number % 2] / f"{number:02}.png", pixels)
    return root


def decoded_bytes():
    return sum(path.stat().st_size for path in (cache_dir() / "decoded").rglob("images.npy"))


@pytest.mark.parametrize("damage", [False, True])
def test_pixels_fingerprint_and_sums_are_the_same(pictures, damage):
    if damage:
        (pictures / "cat" / "00.png").write_bytes(b"no picture")
    each = folder.load(pictures, 8, 1, True)
    assert decoded_bytes() == 0
    once = folder.load(pictures, 8, 1)
    assert torch.equal(each.train.images, once.train.images)
    assert each.fingerprint == once.fingerprint
    assert each.train.names == once.train.names
    assert torch.equal(each.train.sums, once.train.sums)


def test_a_table_can_be_decoded_each_time_too(pictures, tmp_path):
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(pictures.rglob("*.png"))]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *lines]))
    each = csv_table.load(tmp_path / "table.csv", 8, 0, True)
    assert torch.equal(each.train.images, csv_table.load(tmp_path / "table.csv", 8, 0).train.images)


def test_a_file_that_is_gone_is_named_when_it_is_used(pictures):
    train_split = folder.load(pictures, 8, 0, True).train
    (pictures / "cat" / "04.png").unlink()
    with pytest.raises(UserError, match="cat/04.png can no longer be read"):
        train_split.gather(torch.arange(24))


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale file handle")]
)
def test_a_fault_of_the_machine_is_not_laid_on_a_file(error):
    images = DecodedEachTime(lambda name: error, ["cat/04.png"], 8)
    with pytest.raises(type(error)) as raised:
        images.index_select(0, torch.arange(1))
    assert raised.value is error


def test_as_many_threads_decode_as_there_are_cores_to_use(pictures, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 192)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)), raising=False)
    assert folder.load(pictures, 8, 0, True).train.stored.pool._max_workers == 3


def test_of_a_damaged_file_every_image_that_is_decoded_is_told(pictures, monkeypatch):
    (pictures / "cat" / "00.png").write_bytes(b"no picture")
    bars, real = [], decoding.progress_bar
    monkeypatch.setattr(decoding, "progress_bar", lambda *given, **more: bars.append(real(*given, **more)) or bars[-1])
    monkeypatch.setattr(DecodedEachTime, "rate", lambda self: 0)
    decoded = []
    monkeypatch.setattr(decoding, "decode_image", lambda path, size: decoded.append(path) or decode_image(path, size))
    folder.load(pictures, 8, 1, True)
    assert sum(bar.n for bar in bars) == sum(bar.total for bar in bars) == len(decoded) == 24 + 23


def test_a_file_that_is_gone_before_the_second_pass_is_named(pictures, monkeypatch):
    (pictures / "cat" / "00.png").write_bytes(b"no picture")
    monkeypatch.setattr(decoding, "decode_image", once(decode_image, pictures / "cat" / "04.png"))
    with pytest.raises(UserError, match="cat/04.png can no longer be read"):
        folder.load(pictures, 8, 1, True)
    assert list((cache_dir() / "decoded").iterdir()) == []


def once(decode, path):
    """Return a way to decode that finds a file the first time alone."""

    def decode_and_remove(own, size):
        picture = decode(own, size)
        if own == path:
            own.unlink(missing_ok=True)
        return picture

    return decode_and_remove


def run(tmp_path, *arguments):
    own = ["--model=mlp", "--width=8", "--batch_size=6", "--epochs=2", "--val_fraction=0.25", "--tracking=off"]
    return train.main([*own, f"--runs_dir={tmp_path}", *arguments])


def test_training_is_the_same_either_way(pictures, tmp_path, capsys):
    data = ("--dataset=folder", f"--data_dir={pictures}", "--image_size=8", "--resident=host")
    assert run(tmp_path, *data, "--decode=each", "--run_id=each") == 0
    said = capsys.readouterr().out
    assert "24 images, decoded whenever they are used, " in said
    assert run(tmp_path, *data, "--run_id=once") == 0
    losses = {
        name: [row.get("val/loss") for row in run_folder.read_metrics(tmp_path / name)] for name in ("each", "once")
    }
    assert losses["each"] == losses["once"]


def test_images_that_are_no_files_cannot_be_decoded_each_time(tmp_path, capsys):
    assert run(tmp_path, "--dataset=digits", "--decode=each") == 2
    assert "--decode=each: the images of digits are no files" in capsys.readouterr().err
