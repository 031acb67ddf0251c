"""The folders of data, caches and runs on the user's machine."""

import os
from pathlib import Path

from data.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[1]  # the folder that holds train.py
ANOTHER_RUNS_DIR = "choose another runs folder by VISION_SWEEPS_RUNS"  # what is said to users whose folder is no good


def expanded(text: str | Path) -> Path:
    """Return a path in which `~` is a home. An empty $HOME is taken for none: the user's entry in the system tells it.

    Raises:
        UserError: there is no such home.
    """
    if os.environ.get("HOME") == "":
        del os.environ["HOME"]
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text} names no home: write the whole path, or set HOME") from None


def cache_dir() -> Path:
    """Return the folder vision-sweeps inside the user's cache folder.

    Raises:
        UserError: there is neither an $XDG_CACHE_HOME nor a home.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vision-sweeps"


def default_runs_dir() -> Path:
    """Return the folder of runs that is used if `runs_dir` is not given; an empty $VISION_SWEEPS_RUNS names none.

    Raises:
        UserError: it begins with `~`, and there is no such home.
    """
    return expanded(os.environ.get("VISION_SWEEPS_RUNS") or "runs")


def default_data_dir() -> Path:
    """Return the folder where datasets are looked for and downloaded to if the setting `data_dir` is empty."""
    return expanded(os.environ.get("VISION_SWEEPS_DATA") or cache_dir())


def feature_dir(setting: str = "") -> Path:
    """Return the folder of cached features that the setting `feature_dir` names; if empty, one in the cache folder."""
    return expanded(setting) if setting else cache_dir() / "features"
