import errno
import fcntl
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data import files
from data.errors import UserError
from data.files import locked, machine, read_json, replace_file, scratch_folder, write_figure, write_json

ROOT = Path(__file__).parents[2]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replacing_a_file_leaves_nothing_else(tmp_path):
    replace_file(tmp_path / "a.txt", lambda path: path.write_text("old"))
    replace_file(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "new"}


def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write_half(path):
        path.write_text("ne")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        replace_file(tmp_path / "a.txt", write_half)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_disk_that_fills_up_while_a_file_is_written_is_told_with_its_name(tmp_path):
    def fill(path):
        raise OSError(errno.ENOSPC, "No space left on device")  # as `write` of an open file says it

    with pytest.raises(OSError, match="No space left on device: .*a.txt'$") as failed:
        replace_file(tmp_path / "a.txt", fill)
    assert failed.value.errno == errno.ENOSPC


WRITE_OFTEN = """
import sys, time
from pathlib import Path
from data.files import replace_file

def write(path):
    with path.open("w") as file:
        for _ in range(20):
            file.write(sys.argv[2] * 1000)
            file.flush()
            time.sleep(0.0005)

for _ in range(10):
    replace_file(Path(sys.argv[1]), write)
"""


class Figure:
    """Stands for a figure of matplotlib: it writes the format that it is told, and takes only two."""

    def savefig(self, file, *, dpi, format):
        if format not in ("png", "svg"):
            raise ValueError(f"Format {format!r} is not supported")
        file.write(format.encode())


def test_a_figure_is_written_in_the_format_of_its_ending_or_refused_in_one_line(tmp_path):
    for name, form in {"a.svg": "svg", "a.png": "png", "a": "png"}.items():
        write_figure(tmp_path / name, Figure())
        assert (tmp_path / name).read_text() == form
    for path, reason in {"a.xyz": "Format 'xyz' is not supported", "none/a.png": "No such file or directory"}.items():
        with pytest.raises(UserError, match=f"{path} cannot be written .{reason}.: name a picture"):
            write_figure(tmp_path / path, Figure())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.png", "a.svg"]


@pytest.mark.slow
def test_six_processes_that_write_one_file_at_once_all_succeed_and_leave_it_whole(tmp_path):
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", WRITE_OFTEN, str(path)]
    writers = [subprocess.Popen([*command, letter], cwd=ROOT, stderr=subprocess.PIPE) for letter in "abcdef"]
    torn = 0
    while any(writer.poll() is None for writer in writers):
        content = path.read_text() if path.exists() else ""
        torn += len(set(content)) > 1 or len(content) not in (0, 20_000)
    assert [(writer.returncode, writer.communicate()[1]) for writer in writers] == [(0, b"")] * 6
    assert torn == 0
    assert len(path.read_text()) == 20_000
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["missing/a.txt", "folder"])
def test_what_cannot_be_written_is_told_by_its_own_name(tmp_path, name):
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="Errno") as error:
        replace_file(tmp_path / name, lambda path: path.write_text("new"))
    assert str(error.value).endswith(f": '{tmp_path / name}'")


def test_a_link_that_another_user_laid_under_a_temporary_name_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda num: "guessed")
    (tmp_path / f".a.txt.{files.machine()}-guessed.unfinished").symlink_to(tmp_path / "victim")
    (tmp_path / ".a.txt.unfinished").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        replace_file(tmp_path / "a.txt", lambda path: path.write_text("theirs"))
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    events = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("sync") or real_fsync(descriptor))
    monkeypatch.setattr(Path, "replace", lambda self, to: events.append("rename") or real_replace(self, to))
    write_json(tmp_path / "a.json", {"a": 1})
    assert events == ["sync", "rename", "sync"]


def test_a_disk_error_at_the_last_moment_keeps_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(122, "quota exceeded")))
    with pytest.raises(OSError, match="quota"):
        replace_file(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_device_is_written_to_and_never_replaced(tmp_path):
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    for path in (link, Path("/dev/null")):
        replace_file(path, lambda target: target.write_text("gone"))
        assert path.is_char_device()
    with pytest.raises(OSError, match="No space"):
        replace_file(Path("/dev/full"), lambda target: target.write_text("too much"))
    assert Path("/dev/full").is_char_device()


def test_standard_output_can_be_written_to_as_a_file():
    program = "from pathlib import Path; from data.files import *; write_json(Path('/dev/stdout'), {'a': 1})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == '{\n "a": 1\n}\n'


def test_a_pipe_without_a_reader_is_an_error_and_no_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        replace_file(tmp_path / "pipe", lambda path: path.write_text("to nobody"))
    assert (tmp_path / "pipe").is_fifo()


def test_the_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a.txt").symlink_to(tmp_path / "there" / "b.txt")
    for text in ("first", "second"):
        replace_file(tmp_path / "a.txt", lambda path, text=text: path.write_text(text))
        assert (tmp_path / "there" / "b.txt").read_text() == text
        assert (tmp_path / "a.txt").is_symlink()


def test_what_a_dead_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom data.files import replace_file\n"
        "def write(path):\n path.write_text('half')\n print(path, flush=True)\n time.sleep(60)\n"
        f"replace_file(Path({str(tmp_path / 'a.txt')!r}), write)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    try:
        dead, living = (Path(writer.stdout.readline().strip()) for writer in writers)
        writers[0].kill()
        writers[0].wait()
        elsewhere = dead.with_name(dead.name.replace(files.machine(), "01234567"))
        elsewhere.touch()
        replace_file(tmp_path / "b.txt", lambda path: path.write_text("whole"))  # whichever file it was to be
        assert set(tmp_path.iterdir()) == {tmp_path / "b.txt", living, elsewhere}
        for path in (living, elsewhere):
            os.utime(path, (time.time() - 7200,) * 2)
        replace_file(tmp_path / "b.txt", lambda path: path.write_text("whole"))
        assert set(tmp_path.iterdir()) == {tmp_path / "b.txt", living}
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_a_temporary_file_that_is_swept_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    real, swept = fcntl.flock, []

    def sweep_first(descriptor, how):
        if not swept:
            swept.extend(tmp_path.iterdir())
            swept[0].unlink()
        real(descriptor, how)

    monkeypatch.setattr(files.fcntl, "flock", sweep_first)
    written = []
    replace_file(tmp_path / "a.txt", lambda path: written.append(path) or path.write_text("new"))
    assert len(swept) == 1
    assert written != swept
    assert names(tmp_path) == ["a.txt"]


def test_a_scratch_folder_goes_with_its_process_or_with_the_next_one():
    with scratch_folder() as own:
        (own / "inner").mkdir()
        own.with_name(f"{machine()}-left by a killed process").mkdir()
        with scratch_folder() as other:
            assert {*own.parent.iterdir()} == {own, other}
            assert (own / "inner").is_dir()
    assert not list(own.parent.iterdir())


def test_a_scratch_folder_of_another_machine_goes_only_when_it_is_old():
    with scratch_folder() as own:
        fresh, old = (own.with_name(f"other-{name}") for name in ("fresh", "old"))
        for folder in (fresh, old):
            folder.mkdir()
        os.utime(old, (0, 0))
        with scratch_folder():
            assert (fresh.is_dir(), old.is_dir()) == (True, False)
        fresh.rmdir()


def test_what_is_not_finite_is_written_as_null(tmp_path):
    content = {"a": math.nan, "b": {"c": [1.5, math.inf, (-math.inf, True)]}, "d": "NaN", "e": None, "f": 10**400}
    write_json(tmp_path / "a.json", content)

    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"a": None, "b": {"c": [1.5, None, [None, True]]}, "d": "NaN", "e": None, "f": 10**400}


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 120, "漢" * 85, "[a]*.json"])
def test_every_name_that_a_file_can_have_can_be_written(name, tmp_path):
    write_json(tmp_path / name, {"a": "ü"})
    assert (names(tmp_path), read_json(tmp_path / name)) == ([name], {"a": "ü"})


@pytest.mark.parametrize("content", [b'{"a": ', b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_json_that_cannot_be_read_is_an_empty_dict(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == {}


def test_a_lock_is_held_by_one_thread_at_a_time_and_the_others_say_that_they_wait(tmp_path, capsys):
    inside, most = [], []

    def work():
        with locked(tmp_path / "new" / "a.lock", "waiting for another"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert "waiting for another" in capsys.readouterr().out


def test_a_lock_file_of_one_user_can_be_used_by_another(tmp_path):
    with locked(tmp_path / "a.lock", ""):
        assert (tmp_path / "a.lock").stat().st_mode & 0o666 == 0o666


@pytest.mark.parametrize("target", ["/dev/zero", "/", "nowhere", "link"])
def test_what_is_no_file_holds_nothing(tmp_path, target):
    (tmp_path / "link").symlink_to(target)
    assert read_json(tmp_path / "link") == {}
    os.mkfifo(tmp_path / "fifo")
    assert read_json(tmp_path / "fifo") == {}
