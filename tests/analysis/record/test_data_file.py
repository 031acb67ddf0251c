"""What a run's folder keeps of its images is read back as it was, and a damaged file is told."""

import json

import pytest

from analysis.record.data_file import keep_info, saved_info
from data.dataset import DatasetInfo
from data.errors import UserError

INFO = DatasetInfo(
    "own", 48, ("Käfer", "a, b"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), {"train": 9, "val": 1}, "f00", (4, 6), True, "crop"
)


def test_the_facts_come_back_as_they_were(tmp_path):
    keep_info(tmp_path, INFO)
    assert saved_info(tmp_path) == INFO
    assert json.loads((tmp_path / "data.json").read_text())["channels"] == 3


def test_a_run_older_than_the_file_has_none(tmp_path):
    assert saved_info(tmp_path) is None


def test_a_file_of_an_older_or_a_newer_version_is_read(tmp_path):
    keep_info(tmp_path, INFO)
    content = json.loads((tmp_path / "data.json").read_text())
    del content["is_reduced"]
    (tmp_path / "data.json").write_text(json.dumps({**content, "of tomorrow": 1}))
    assert saved_info(tmp_path) == INFO


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"image_size": "32"},
        {"stored_size": -1},
        {"classes": [1, 2]},
        {"classes": None},
        {"std": [0.1, 0.0, 0.1]},
        {"mean": [0.1]},
        {"mean": [0.1, 0.1, None]},
        {"num_images": []},
        {"several_labels": 1},
    ],
)
def test_a_damaged_file_is_told_in_one_line(change, tmp_path):
    keep_info(tmp_path, INFO)
    content = json.loads((tmp_path / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=r"data.json is damaged \(.*restore it"):
        saved_info(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_file_cut_short_is_told_in_one_line(text, tmp_path):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UserError, match=r"data.json is damaged"):
        saved_info(tmp_path)
