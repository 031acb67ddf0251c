import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import decoding, folder
from data.errors import UserError
from data.folder_layout import SUFFIXES
from data.paths import cache_dir
from data.pixels import Picture
from data.splitting import Splitting, make_splits
from data.statistics import pixel_sums

ROOT = Path(__file__).parents[2]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path, picture=RED, size=(8, 8), **options):
    """Write a picture: a colour, or the pixels [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, picture) if isinstance(picture, tuple) else Image.fromarray(picture)
    image.save(path, **options)


def decode(path, image_size):
    picture = decoding.decode_image(path, image_size)
    assert isinstance(picture, Picture), picture
    return picture.pixels.transpose(1, 2, 0)  # [H, W, 3]


def colours(split):
    return [tuple(image[:, 0, 0].tolist()) for image in split.images]


@pytest.fixture
def three(tmp_path):
    """A flat folder of three pictures."""
    root = tmp_path / "three"
    for name, colour in [("a.png", RED), ("b.png", GREEN), ("c.png", BLUE)]:
        save(root / name, colour)
    return root


def test_class_folders_are_the_classes_in_sorted_order(tmp_path):
    save(tmp_path / "dog" / "1.png", GREEN)
    save(tmp_path / "cat" / "deep" / "er" / "2.png", RED)
    save(tmp_path / "cat" / "1.png", BLUE)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no class, since it holds no image")
    dataset = folder.load(tmp_path, 8, 0)
    assert dataset.classes == ("cat", "dog")
    assert (colours(dataset.train), dataset.train.labels.tolist()) == ([BLUE, RED, GREEN], [0, 0, 1])
    assert dataset.test is None


def test_every_image_of_a_split_knows_its_file(tmp_path):
    for split in ("train", "val", "Testing"):
        for i, name in enumerate(("cat", "dog")):
            save(tmp_path / split / name / f"{i}.png", (10 * i, len(split), 0))
    dataset = folder.load(tmp_path, 8, 0)
    for fraction in (0.0, 0.5):  # the images in val are trained on, or not
        for split in make_splits(dataset, Splitting(1.0, fraction, 0)).values():
            files = [Image.open(tmp_path / name).getpixel((0, 0)) for name in split.names]
            assert files == colours(split)


def test_flat_folder_has_no_classes_and_zeros_for_labels(three):
    dataset = folder.load(three, 8, 0)
    assert (dataset.name, dataset.classes, dataset.test) == ("three", (), None)
    assert (colours(dataset.train), dataset.train.labels.tolist()) == ([RED, GREEN, BLUE], [0, 0, 0])
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (torch.uint8, torch.int64)


def test_train_and_test_folders_are_the_splits(tmp_path):
    save(tmp_path / "train" / "cat" / "1.png", RED)
    save(tmp_path / "train" / "dog" / "1.png", GREEN)
    save(tmp_path / "test" / "dog" / "1.png", BLUE)
    dataset = folder.load(tmp_path, 8, 0)
    assert (colours(dataset.train), dataset.train.labels.tolist()) == ([RED, GREEN], [0, 1])
    assert (colours(dataset.test), dataset.test.labels.tolist()) == ([BLUE], [1])


def test_train_folder_alone_has_no_test_split(tmp_path):
    save(tmp_path / "train" / "1.png")
    assert folder.load(tmp_path, 8, 0).test is None


@pytest.mark.parametrize(("image_size", "side"), [(0, 64), (8, 8), (20, 20)])
def test_images_of_every_size_become_squares_of_one(image_size, side, tmp_path):
    for number, size in enumerate([(5, 5), (300, 10), (10, 300), (1, 40), (64, 64)]):
        save(tmp_path / f"{number}.png", (10, 20, 30), size)
    images = folder.load(tmp_path, image_size, 0).train.images
    assert images.shape == (5, 3, side, side)
    assert torch.equal(images, torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand_as(images))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "1", "CMYK"])
def test_images_of_every_mode_become_rgb(mode, tmp_path):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(path)
    assert (decode(path, 8) == 255).all()


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", 8) == 0x80).all()


@pytest.mark.parametrize("suffix", [*sorted(SUFFIXES), ".PNG", ".JPeG"])
def test_every_format_is_found_and_read(suffix, tmp_path):
    save(tmp_path / f"x{suffix}", (200, 100, 50))
    image = folder.load(tmp_path, 8, 0).train.images[0].float()
    assert torch.allclose(image, torch.tensor([200.0, 100.0, 50.0]).view(3, 1, 1), atol=4)  # some formats are lossy


def test_hidden_and_other_files_are_no_images(tmp_path):
    save(tmp_path / "x.png", GREEN)
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".thumbnails" / "x.png")
    (tmp_path / "labels.csv").write_text("x,1")
    dataset = folder.load(tmp_path, 8, 0)
    assert (colours(dataset.train), dataset.classes) == ([GREEN], ())


def test_hidden_folders_in_a_class_folder_hold_no_images(tmp_path):
    save(tmp_path / "cat" / "1.png", GREEN)
    save(tmp_path / "cat" / ".thumbnails" / "1.png")
    assert colours(folder.load(tmp_path, 8, 0).train) == [GREEN]


@pytest.mark.parametrize("path", ["../three", "."])
def test_dataset_is_named_after_its_folder(path, three, monkeypatch):
    monkeypatch.chdir(three)
    assert folder.load(Path(path), 8, 0).name == "three"


def thirds(width, height, axis):
    """Red, green and blue along an axis; the green middle is the central square."""
    picture = np.zeros((height, width, 3), np.uint8)
    for part, colour in zip(np.array_split(picture, [10, 30], axis), (RED, GREEN, BLUE), strict=True):
        part[:] = colour
    return picture


@pytest.mark.parametrize(("width", "height", "axis"), [(40, 20, 1), (20, 40, 0)], ids=["wide", "tall"])
def test_only_the_central_square_is_kept(width, height, axis, tmp_path):
    save(tmp_path / "x.png", thirds(width, height, axis))
    assert (decode(tmp_path / "x.png", 20) == GREEN).all()


def test_square_of_the_right_size_is_kept_as_it_is(tmp_path):
    picture = np.random.RandomState(0).randint(0, 256, (16, 16, 3), dtype=np.uint8)
    save(tmp_path / "x.png", picture)
    assert np.array_equal(decode(tmp_path / "x.png", 16), picture)


def test_jpeg_decoded_at_a_fraction_is_as_sharp_as_asked_for(tmp_path):
    greys = np.random.RandomState(0).randint(0, 256, (64, 64), dtype=np.uint8)
    save(tmp_path / "x.jpg", np.repeat(greys.repeat(2, 0).repeat(2, 1)[..., None], 3, axis=-1), quality=95)
    assert np.abs(decode(tmp_path / "x.jpg", 64)[..., 0] - greys.astype(float)).mean() < 4


def test_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    save(tmp_path / "x.png", np.array([[RED, GREEN], [BLUE, (9, 9, 9)]], np.uint8), exif=exif)
    assert decode(tmp_path / "x.png", 2).tolist() == [[list(BLUE), list(RED)], [[9, 9, 9], list(GREEN)]]


@pytest.fixture
def no_decoding(monkeypatch):
    """Call it to make every later attempt to decode an image fail the test."""

    def forbid():
        monkeypatch.setattr(decoding, "decode_image", lambda path, _: pytest.fail(f"decoded {path} again"))

    return forbid


def test_second_load_comes_from_the_cache(three, no_decoding):
    first = folder.load(three, 8, 0)
    no_decoding()
    second = folder.load(three, 8, 0)
    assert torch.equal(first.train.images, second.train.images)
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    "copy",
    [
        shutil.copy2,
        shutil.copy,
    ],
)
def test_copied_folder_has_the_same_fingerprint(copy, three, tmp_path):
    shutil.copytree(three, tmp_path / "elsewhere", copy_function=copy)
    assert folder.load(tmp_path / "elsewhere", 8, 0).fingerprint == folder.load(three, 8, 0).fingerprint


def test_folders_of_equal_names_sizes_and_times_are_told_apart(tmp_path):
    for split, colour in [("train", RED), ("test", GREEN)]:  # as unpacked from an archive that keeps no times
        save(tmp_path / split / "0.bmp", colour)
        os.utime(tmp_path / split / "0.bmp", (0, 0))
    dataset = folder.load(tmp_path, 8, 0)
    assert (colours(dataset.train), colours(dataset.test)) == ([RED], [GREEN])


def test_added_file_is_noticed(three):
    before = folder.load(three, 8, 0)
    save(three / "b2.png", (9, 9, 9))
    after = folder.load(three, 8, 0)
    assert colours(after.train) == [RED, GREEN, (9, 9, 9), BLUE]
    assert after.fingerprint != before.fingerprint


def test_changed_file_of_the_same_size_is_noticed(tmp_path):
    path = tmp_path / "x.bmp"
    save(path, RED)
    before, stat = folder.load(tmp_path, 8, 0), path.stat()
    save(path, GREEN)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert path.stat().st_size == stat.st_size
    after = folder.load(tmp_path, 8, 0)
    assert (colours(before.train), colours(after.train)) == ([RED], [GREEN])
    assert after.fingerprint != before.fingerprint


def test_another_image_size_is_decoded_anew(three):
    sides = [folder.load(three, size, 0).train.images.shape[-1] for size in (8, 12, 8)]
    assert sides == [8, 12, 8]


def test_cached_images_can_be_written_to_without_changing_the_cache(three):
    folder.load(three, 8, 0).train.images.zero_()
    assert colours(folder.load(three, 8, 0).train) == [RED, GREEN, BLUE]


def corrupt(path, content=b"not an image"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_corrupt_files_are_named_and_skipped_up_to_the_limit(tmp_path, capsys):
    save(tmp_path / "cat" / "1.png", RED)
    save(tmp_path / "dog" / "1.png", GREEN)
    save(tmp_path / "dog" / "3.png", BLUE)
    bad = [corrupt(tmp_path / "cat" / "0.jpg"), corrupt(tmp_path / "dog" / "2.png")]
    train = folder.load(tmp_path, 8, 2).train
    assert (colours(train), train.labels.tolist()) == ([RED, GREEN, BLUE], [0, 1, 1])
    assert torch.equal(train.sums.sum(0), pixel_sums([train.images]))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" cannot be read and is skipped: ")[0] for line in lines] == [str(path) for path in bad]


def test_images_have_the_same_fingerprint_with_and_without_files_that_cannot_be_read(three):
    before = folder.load(three, 8, 1)
    corrupt(three / "b1.png")
    assert folder.load(three, 8, 1).fingerprint == before.fingerprint


@pytest.mark.parametrize("limit", [0, 1])
def test_one_corrupt_file_too_many_is_an_error_that_leaves_no_cache(limit, three):
    for name in ("b1.png", "b2.png"):
        corrupt(three / name)
    message = f"^{three}: more than --max_corrupt_images={limit} files cannot be read, the first is b1.png: "
    with pytest.raises(UserError, match=message):
        folder.load(three, 8, limit)
    assert list((cache_dir() / "decoded").iterdir()) == []


def test_lower_limit_holds_for_images_decoded_before(three, no_decoding):
    for name in ("b1.png", "b2.png"):
        corrupt(three / name)
    assert len(folder.load(three, 8, 2).train.images) == 3
    no_decoding()
    with pytest.raises(UserError, match="more than --max_corrupt_images=1 .* the first is b1.png"):
        folder.load(three, 8, 1)
