"""The folders of data, caches and runs on the user's machine."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder vision-sweeps inside the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vision-sweeps"


def default_runs_dir() -> Path:
    """Return the folder of runs that is used if `runs_dir` is not given."""
    return Path(os.environ.get("VISION_SWEEPS_RUNS", "runs"))


def default_data_dir() -> Path:
    """Return the folder where datasets are looked for and downloaded to if the setting `data_dir` is empty."""
    return Path(os.environ.get("VISION_SWEEPS_DATA") or cache_dir())


def feature_dir(setting: str = "") -> Path:
    """Return the folder of cached features that the setting `feature_dir` names; if empty, one in the cache folder."""
    return Path(setting).expanduser() if setting else cache_dir() / "features"
