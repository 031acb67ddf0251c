"""What the programs of this folder share of their command lines."""

import os
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import NoReturn

from data.errors import UserError

SWEEP_FILE = "sweep.yaml"


class Parser(ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def whole_number(text: str) -> int:
    """A number of things, at least one."""
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def sweep_folder(name: str) -> Path:
    """Folder of a sweep."""
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"sweep name {name!r} names a folder: use letters, digits, - _ and .")
    return Path(os.environ.get("VISION_SWEEPS_RUNS", "runs")) / "sweeps" / name
