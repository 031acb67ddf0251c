import pytest

from data.files import replace_file


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
