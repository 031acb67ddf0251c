"""Where the user's home is, and what follows from there being none."""

import pwd

import pytest

from data.errors import UserError
from data.paths import cache_dir, default_runs_dir, expanded


@pytest.fixture
def no_home(monkeypatch):
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_CACHE_HOME")
    return monkeypatch


def test_an_empty_home_is_that_of_the_users_entry(no_home, tmp_path):
    entry = pwd.getpwuid(0)
    no_home.setattr(pwd, "getpwuid", lambda number: pwd.struct_passwd([*entry[:5], str(tmp_path), *entry[6:]]))
    assert cache_dir() == tmp_path / ".cache" / "vision-sweeps"
    assert expanded("~/runs") == tmp_path / "runs"


def test_without_any_home_one_line_says_so(no_home):
    def unknown(number):
        raise KeyError(number)

    no_home.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UserError, match=r"^~/.cache names no home: write the whole path, or set HOME$"):
        cache_dir()
    no_home.setenv("VISION_SWEEPS_RUNS", "~/runs")
    with pytest.raises(UserError, match=r"^~/runs names no home"):
        default_runs_dir()
    assert expanded("runs/~").name == "~"
