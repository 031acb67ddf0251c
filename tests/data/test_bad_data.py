"""Data as nobody would make them on purpose: they work, or end in one line; never in a traceback."""

import os
import random

import numpy as np
import pytest
from PIL import Image

from data import arrays, folder
from data.errors import UserError
from data.pixels import Picture, decode_image
from data.splitting import Splitting, make_splits

NAMES = ["train", "Training", "val", "Valid", "test", "TESTING", "cat", "dog", "accuracy", "$x$", ".git", "@eaDir"]
NAMES += ["a b", "Käfer", "Ka\u0308fer", "漢字", "\udce4", "\x1b[2J", "x" * 200, "-rf", "*", "[a]", "None", "."]
FILES = [
    "1.png",
    "2.jpg",
    "3.txt",
    "4.tif",
    "5.gif",
    "6",
    "7.PNG",
    "8.pgm",
    "9.npz",
    "\udcff.png",
    "a\nb.png",
    ".x.png",
]
MODES = ["RGB", "L", "RGBA", "P", "1", "LA"]


def put_file(path, draw):
    kind = draw.choice(["image", "image", "image", "image", "text", "empty", "link", "loop", "fifo"])
    if kind == "image":
        shape = (draw.randint(1, 30), draw.randint(1, 30))
        image = Image.new(draw.choice(MODES), shape, 1)
        image.save(path, "TIFF" if draw.random() < 0.3 else "PNG")
    elif kind == "link":
        path.symlink_to(draw.choice(["nowhere", "/dev/zero", "/etc/passwd", "."]))
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("" if kind == "empty" else "no image")


def grow(root, draw, depth=0):
    """Fill a folder with files and folders, by chance."""
    for name in draw.sample(FILES, draw.choice([0, 1, 3])):
        if not os.path.lexists(root / name):
            put_file(root / name, draw)
    if depth < 3:
        for name in draw.sample(NAMES[:-1], draw.choice([0, 1, 2, 3])):
            if not os.path.lexists(root / name):
                (root / name).mkdir()
                grow(root / name, draw, depth + 1)


def load_or_one_line(load, root):
    """Load a dataset; return the error that it ends in, or None."""
    try:
        dataset = load(root, 8, 100)
    except UserError as error:
        return error
    for fraction in (0.0, 0.3) if len(dataset.train.labels) > 1 else (0.0,):
        splits = make_splits(dataset, Splitting(1.0, fraction, 0))
        assert all(len(split.images) == len(split.labels) > 0 for split in splits.values())
        assert all(split.labels.max() < max(1, len(dataset.classes)) for split in splits.values())
    "".join(dataset.classes).encode()
    return None


def has_no_break(error):
    """Whether the message has no line break, but for one in the name of a file."""
    return "\n" not in str(error).replace("a\nb.png", "")


@pytest.mark.parametrize("seed", range(6))
def test_folders_of_all_kinds_load_or_end_in_one_line(seed, tmp_path, capfd):
    draw, outcomes = random.Random(seed), []
    for i in range(25):
        root = tmp_path / str(i)
        root.mkdir()
        grow(root, draw)
        outcomes.append(load_or_one_line(folder.load, root))
        assert has_no_break(outcomes[-1])
        assert isinstance(folder.has_test_images(root), bool)
    assert None in outcomes
    assert any(outcomes)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".bmp", ".webp", ".pgm"])
@pytest.mark.filterwarnings("ignore")  # of Pillow
def test_damaged_images_are_an_image_or_an_error(suffix, tmp_path):
    draw, path = random.Random(0), tmp_path / f"x{suffix}"
    noise = np.random.RandomState(0).randint(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, **({"exif": exif} if suffix in (".png", ".jpg", ".tif", ".webp") else {}))
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content[: draw.choice([len(content), draw.randrange(len(content))])])
        for _ in range(draw.choice([0, 1, 5, 50])):
            if damaged:
                damaged[draw.randrange(min(len(damaged), draw.choice([20, 300, len(content)])))] = draw.randrange(256)
        path.write_bytes(bytes(damaged))
        picture = decode_image(path, 8)
        assert isinstance(picture, Exception) or picture.pixels.shape == (3, 8, 8)
        if isinstance(picture, Picture):
            assert picture.pixels.dtype == np.uint8


VALUES = [
    np.zeros((4, 5, 5), np.uint8),
    np.zeros((4, 5, 5, 3), np.uint8),
    np.zeros((4, 3, 5, 5), np.uint8),
    np.zeros((0, 5, 5), np.uint8),
    np.zeros((4, 5, 6), np.uint8),
    np.zeros((4, 5, 5)),
    np.zeros(4, np.int64),
    np.full(4, 10**12),
    np.array([0, 1, 2, -1]),
    np.array([0, 1, 2, 3], np.uint64),
    np.array(["a", "b", "a", "c"]),
    np.array(["a", "b", "\ud800", "Käfer"]),
    np.array([b"a", b"b"]),
    np.array(3),
    np.array([True, False, True, True]),
    np.array([0.5, np.nan, 1, 2]),
    np.array([1 + 2j] * 4),
    np.array(["2026-01-01"] * 4, "datetime64[D]"),
    np.zeros(4, [("a", "u1")]),
]


def test_arrays_of_all_kinds_load_or_end_in_one_line(tmp_path):
    draw, outcomes = random.Random(0), []
    for i in range(150):
        root = tmp_path / str(i)
        root.mkdir()
        for name in ("train.npz", "test.npz"):
            keys = draw.sample(["images", "labels", "classes"], draw.choice([0, 1, 2, 2, 3, 3]))
            good = {"images": VALUES[1], "labels": np.arange(4) % 3, "classes": np.array(["a", "b", "c"])}
            np.savez(root / name, **{key: good[key] if draw.random() < 0.7 else draw.choice(VALUES) for key in keys})
        outcomes.append(load_or_one_line(lambda path, _, limit: arrays.load(path, 0, limit), root))
        assert has_no_break(outcomes[-1])
    assert None in outcomes
    assert any(outcomes)
