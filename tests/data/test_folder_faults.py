"""Folders with damaged files, odd pixels, full disks and several readers at once."""

import os
import shutil
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import decoding, faces, folder
from data.errors import UserError
from data.files import UNFINISHED
from data.paths import cache_dir
from tests.data.test_folder import BLUE, GREEN, RED, ROOT, colours, corrupt, no_decoding, save, three  # noqa: F401


def test_damaged_files_are_named_at_each_run(three, capsys, no_decoding):
    bad = corrupt(three / "b1.png")
    folder.load(three, 8, 1)
    first = capsys.readouterr().err
    no_decoding()
    folder.load(three, 8, 1)
    assert capsys.readouterr().err == first
    assert first.startswith(f"{bad} cannot be read and is skipped: ")


def test_of_many_damaged_files_the_first_are_named_and_the_others_counted(three, capsys):
    for i in range(decoding.NUM_NAMED + 3):
        corrupt(three / f"d{i:02}.png")
    folder.load(three, 8, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == decoding.NUM_NAMED + 1
    assert lines[-1] == f"{three}: 3 more files cannot be read: skipped, too"


def test_a_file_that_may_not_be_opened_is_skipped_but_not_remembered_as_damaged(three, capsys, monkeypatch):
    closed = three / "b.png"
    real = os.access
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: Path(path) != closed and real(path, mode))
        with pytest.raises(UserError, match="more than --max_corrupt_images=0 .* b.png: .*may not be opened"):
            folder.load(three, 8, 0)
        assert colours(folder.load(three, 8, 1).train) == [RED, BLUE]
        assert f"{closed} cannot be read and is skipped: it may not be opened" in capsys.readouterr().err
    assert colours(folder.load(three, 8, 0).train) == [RED, GREEN, BLUE]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), PermissionError(13, "denied")])
def test_a_fault_of_the_machine_is_one_line_and_not_remembered_of_the_file(error, three, monkeypatch):
    real = decoding.decode_image
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_image", lambda path, size: error if path.name == "b.png" else real(path, size))
        with pytest.raises(UserError, match=f"^{three / 'b.png'} could not be read .*: see to that, or move") as caught:
            folder.load(three, 8, 3)
        assert "\n" not in str(caught.value)
    assert list((cache_dir() / "decoded").iterdir()) == []
    assert colours(folder.load(three, 8, 0).train) == [RED, GREEN, BLUE]


def test_a_full_disk_is_told_in_one_line_before_anything_is_written(three, monkeypatch):
    def no_space(descriptor, offset, length):
        assert length > 3 * 3 * 8 * 8
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        patch.setattr(decoding, "decode_image", lambda path, _: pytest.fail("decoded without room for the result"))
        with pytest.raises(UserError, match=r"cannot keep the decoded images \(No space left on device\): make room"):
            folder.load(three, 8, 0)
    assert list((cache_dir() / "decoded").iterdir()) == []
    assert colours(folder.load(three, 8, 0).train) == [RED, GREEN, BLUE]


def test_where_the_system_cannot_reserve_room_for_a_file_images_are_decoded_all_the_same(three, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS
    assert colours(folder.load(three, 8, 0).train) == [RED, GREEN, BLUE]


@pytest.mark.parametrize("each", [False, True])
def test_all_files_of_decoded_images_are_on_the_disk_before_they_count(each, three, monkeypatch):
    synced = []
    monkeypatch.setattr(decoding, "sync", lambda path: synced.append((path.name, path.stat().st_size)))
    folder.load(three, 8, 0, each)
    [cache] = (cache_dir() / "decoded").iterdir()
    assert set(synced) == {(path.name, path.stat().st_size) for path in cache.iterdir()}


DECODE_SLOWLY = """
import sys, time
from pathlib import Path
from data import decoding, folder

def decode_image(path, size):
    print("decoding", flush=True)
    time.sleep(60)

decoding.decode_image = decode_image
folder.load(Path(sys.argv[1]), 8, 0)
"""


@pytest.mark.slow
def test_what_a_killed_decode_left_is_swept_at_the_next_start_and_a_living_one_s_is_not(three, tmp_path):
    other = tmp_path / "other"
    save(other / "1.png")
    processes = [
        subprocess.Popen([sys.executable, "-c", DECODE_SLOWLY, str(root)], cwd=ROOT, stdout=subprocess.PIPE)
        for root in (three, other)
    ]
    try:
        for process in processes:
            process.stdout.readline()
        assert len(list((cache_dir() / "decoded").iterdir())) == 2
        processes[0].kill()
        processes[0].wait()
        save(tmp_path / "third" / "1.png")
        folder.load(tmp_path / "third", 8, 0)
        kept = [path.suffix for path in (cache_dir() / "decoded").iterdir()]
        assert sorted(kept) == ["", ".unfinished"]  # the third's, and the one of the process that lives
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("name", ["images.npy", "files.json"])
@pytest.mark.parametrize("size", [0, 50])
def test_a_cut_cache_is_decoded_anew(name, size, three):
    folder.load(three, 8, 0)
    [cache] = (cache_dir() / "decoded").iterdir()
    os.truncate(cache / name, size)
    assert colours(folder.load(three, 8, 0).train) == [RED, GREEN, BLUE]
    assert colours(folder.load(three, 8, 0).train) == [RED, GREEN, BLUE]


def test_a_cache_folder_that_cannot_be_made_is_told_in_one_line(three, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot keep the decoded images .*XDG_CACHE_HOME"):
        folder.load(three, 8, 0)


@pytest.mark.parametrize("value", [255, 4095])
def test_sixteen_bit_images_that_use_a_sixteenth_of_their_range_are_refused(value, tmp_path):
    for i in range(2):
        Image.fromarray(np.full((8, 8), value, np.uint16)).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match=f"no value above {value:,} of 65,535, .*: scale them to the whole range"):
        folder.load(tmp_path, 8, 0)
    Image.fromarray(np.full((8, 8), 0xFFFF, np.uint16)).save(tmp_path / "bright.png")
    assert len(folder.load(tmp_path, 8, 0).train.labels) == 3  # the others are dark, and no more


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ([(100, 100)] * 2, "100x100 -> 8x8, centre crop"),
        ([(75, 100), (640, 48)], "75x48 to 640x100 -> 8x8, centre crop"),
        ([(8, 8)] * 2, "8x8"),
    ],
)
def test_the_sizes_of_the_files_are_told_also_of_those_decoded_before(sizes, text, tmp_path):
    for i, size in enumerate(sizes):
        save(tmp_path / f"{i}.png", RED, size)
    for _ in range(2):
        dataset = folder.load(tmp_path, 8, 0)
        assert (dataset.preparation, dataset.is_reduced) == (text, "->" in text)


def test_damaged_exif_keeps_the_image(three):
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    width = struct.pack("<HHI4s", 0x0100, 2, 3, b"ab")  # text, where a number belongs
    table = b"II*\0" + struct.pack("<IH", 8, 2) + width + orientation + bytes(4)
    save(three / "d.jpg", exif=b"Exif\0\0" + table)
    assert len(folder.load(three, 8, 0).train.images) == 4


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5])
def test_cut_off_files_are_corrupt(suffix, kept, tmp_path):
    path = tmp_path / f"x{suffix}"
    save(path, np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8))
    content = path.read_bytes()
    assert isinstance(decoding.decode_image(corrupt(path, content[: int(kept * len(content))]), 8), Exception)


def test_nothing_but_corrupt_files_is_an_error_within_any_limit(tmp_path):
    corrupt(tmp_path / "x.png")
    with pytest.raises(UserError, match=f"^{tmp_path} holds no image that can be read: .*--data_dir"):
        folder.load(tmp_path, 8, 10)


def test_empty_and_missing_folders_are_named_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=rf"^{tmp_path} holds no images \(.*\.png.*--data_dir"):
        folder.load(tmp_path, 8, 0)
    with pytest.raises(UserError, match=f"^{tmp_path / 'missing'} is not a folder: .*--data_dir"):
        folder.load(tmp_path / "missing", 8, 0)


def test_a_table_in_place_of_a_folder_leads_to_the_dataset_that_reads_tables(tmp_path):
    (tmp_path / "images.csv").write_text("path,label\n")
    with pytest.raises(UserError, match=f"^{tmp_path / 'images.csv'} is not a folder: .*, or give --dataset=csv for"):
        folder.load(tmp_path / "images.csv", 8, 0)


def test_loose_image_beside_class_folders_is_refused(tmp_path):
    save(tmp_path / "cat" / "1.png")
    save(tmp_path / "loose.png")
    with pytest.raises(UserError, match=f"^{tmp_path / 'loose.png'} lies beside class folders such as cat: move"):
        folder.load(tmp_path, 8, 0)


@pytest.mark.parametrize("train_image", ["cat/1.png", "1.png"])
def test_test_class_that_was_never_trained_is_refused(train_image, tmp_path):
    save(tmp_path / "train" / train_image)
    save(tmp_path / "test" / "eel" / "1.png")
    with pytest.raises(UserError, match=f"^{tmp_path / 'test' / 'eel'} is a class that {tmp_path / 'train'} lacks"):
        folder.load(tmp_path, 8, 0)


def test_test_images_without_the_class_folders_of_train_are_refused(tmp_path):
    save(tmp_path / "train" / "cat" / "1.png")
    save(tmp_path / "test" / "1.png")
    with pytest.raises(UserError, match=str(tmp_path / "test")):
        folder.load(tmp_path, 8, 0)


def test_of_three_first_decodes_at_once_one_decodes_and_the_others_wait(three, monkeypatch, capsys):
    decodes = []
    real_decode = decoding.decode

    def decode_slowly(*arguments):
        decodes.append(arguments)
        time.sleep(0.3)
        return real_decode(*arguments)

    monkeypatch.setattr(decoding, "decode", decode_slowly)
    with ThreadPoolExecutor(3) as pool:
        datasets = list(pool.map(lambda _: folder.load(three, 8, 0), range(3)))
    assert [colours(dataset.train) for dataset in datasets] == [[RED, GREEN, BLUE]] * 3
    assert len(decodes) == 1
    assert len(list((cache_dir() / "decoded").iterdir())) == 1
    assert f"another process decodes {three}: waiting for it" in capsys.readouterr().out


def test_interrupted_decoding_leaves_nothing_that_a_later_load_would_trust(three, monkeypatch):
    def interrupt(path, image_size):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            folder.load(three, 8, 0)
    assert colours(folder.load(three, 8, 0).train) == [RED, GREEN, BLUE]


def test_what_another_machine_has_decoded_meanwhile_is_taken(three, monkeypatch):
    def as_another_does_the_same(path):
        if path.name == "files.json":
            shutil.copytree(path.parent, path.parent.with_name(path.parent.name.removesuffix(UNFINISHED)))

    monkeypatch.setattr(decoding, "sync", as_another_does_the_same)
    assert colours(folder.load(three, 8, 0).train) == [RED, GREEN, BLUE]


def test_faces_lie_in_a_folder_of_that_name_and_have_64_pixels(tmp_path):
    save(tmp_path / "faces" / "1.png", GREEN)
    save(tmp_path / "other" / "1.png", RED)
    dataset = faces.load(tmp_path, 0, 0)
    assert (dataset.name, dataset.classes, colours(dataset.train)) == ("faces", (), [GREEN])
    assert dataset.train.images.shape == (1, 3, 64, 64)
    assert faces.load(tmp_path, 16, 0).train.images.shape == (1, 3, 16, 16)


def test_faces_may_lie_in_data_dir_itself(three):
    dataset = faces.load(three, 0, 0)
    assert (dataset.name, colours(dataset.train)) == ("faces", [RED, GREEN, BLUE])


@pytest.mark.parametrize("has_folder", [True, False])
def test_missing_faces_say_where_to_get_them(has_folder, tmp_path):
    root = tmp_path / "data"
    if has_folder:
        (root / "faces").mkdir(parents=True)
    with pytest.raises(UserError, match=f"splcher/animefacedataset into {root / 'faces'}$"):
        faces.load(root, 0, 0)
