"""What the programs share of their command lines."""

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import NoReturn

from data.errors import UserError


class Parser(ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def whole_number(text: str) -> int:
    """A number of things, at least one."""
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def run_program(name: str, work: Callable[[], int | None]) -> int:
    """Do a program's work, or say in one line what keeps it from being done; returns the exit code."""
    try:
        return work() or 0
    except (UserError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
