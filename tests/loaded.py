"""Datasets, loaded and divided as a run does it."""

from models.core.settings import Settings
from models.loading import read_data


def load_splits(name, data_dir="", **settings):
    """The facts about a dataset and its splits, by a run's settings."""
    return read_data(Settings(dataset=name, data_dir=data_dir, **settings))
