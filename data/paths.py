"""The folders of data, caches and runs on the user's machine."""

import os
from pathlib import Path

from data.errors import UserError


def cache_dir() -> Path:
    """Return the folder vision-sweeps inside the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vision-sweeps"


def default_runs_dir() -> Path:
    """Return the folder of runs that is used if `runs_dir` is not given; an empty $VISION_SWEEPS_RUNS names none.

    Raises:
        UserError: it begins with `~`, and there is no such home.
    """
    name = os.environ.get("VISION_SWEEPS_RUNS") or "runs"
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(f"VISION_SWEEPS_RUNS={name} names no home: write the whole path") from None


def default_data_dir() -> Path:
    """Return the folder where datasets are looked for and downloaded to if the setting `data_dir` is empty."""
    return Path(os.environ.get("VISION_SWEEPS_DATA") or cache_dir())


def feature_dir(setting: str = "") -> Path:
    """Return the folder of cached features that the setting `feature_dir` names; if empty, one in the cache folder."""
    return Path(setting).expanduser() if setting else cache_dir() / "features"
