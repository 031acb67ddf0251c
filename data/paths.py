"""Where data and runs lie on the user's machine."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """vision-sweeps in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vision-sweeps"


def default_runs_dir() -> Path:
    """Where runs are looked for, and made when `runs_dir` is not given."""
    return Path(os.environ.get("VISION_SWEEPS_RUNS", "runs"))


def default_data_dir() -> Path:
    """Where datasets are looked for, and downloaded to, when `data_dir` is empty."""
    return Path(os.environ.get("VISION_SWEEPS_DATA") or cache_dir())


def feature_dir(setting: str = "") -> Path:
    """Return the folder of the features that frozen networks have computed, by the setting of that name."""
    return Path(setting).expanduser() if setting else cache_dir() / "features"
