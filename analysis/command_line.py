"""What the programs share of their command lines."""

import os
import re
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from data.errors import UserError, exit_code, in_words, lack_of_memory
from data.paths import expanded
from data.signals import release_signals
from data.visible import escape_unknown_letters, visible, warn


class Parser(ArgumentParser):
    """A parser of a command line that says in one line what is wrong with it."""

    def error(self, message: str) -> NoReturn:
        if lacking := re.fullmatch(r"argument (--\w+): expected one argument", message):
            message += f", and one that begins with a hyphen is written {lacking[1]}='-...'"
        raise UserError(f"{message} (see --help)")


def parser_of(program: str, description: str | None, **options: Any) -> Parser:
    """Return the parser of `python -m analysis.PROGRAM`; its help begins with `description`, line by line."""
    return Parser(
        prog=f"python -m analysis.{program}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        **options,
    )


def parser_of_a_look(program: str, description: str | None, **options: Any) -> Parser:
    """Return the parser of a program that looks at a trained run: it is told the run, and where its images are."""
    parser = parser_of(program, description, **options)
    parser.add_argument("run", metavar="RUN", help="folder of a run, or its id in runs/ ($VISION_SWEEPS_RUNS)")
    parser.add_argument(
        "--data_dir", default="", help="folder of the run's images, where it is no longer the run's own"
    )
    return parser


def whole_number(text: str) -> int:
    """Return the number of things that `text` spells, at least one."""
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text, re.ASCII):
        raise ArgumentTypeError(f"{text} is not a whole number from 1 to 999999999")
    return int(text)


def count(text: str) -> int:
    """Return the number of things that `text` spells, none among them."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ArgumentTypeError(f"{text} is not a whole number from 0 to 999999999")
    return int(text)


def amount(text: str) -> float:
    """Return the number above 0 that `text` spells."""
    if not re.fullmatch(r"[0-9]{0,9}\.?[0-9]{0,20}", text, re.ASCII) or not text.strip("0."):
        raise ArgumentTypeError(f"{text} is not a number above 0, such as 1.5")
    return float(text)


def positive_number(text: str) -> float:
    """Return the number above 0 that `text` spells, at most 1000."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1000:
        raise ArgumentTypeError(f"{text} is not a number above 0 and up to 1000")
    return value


def seed(text: str) -> int:
    """Return the seed that `text` spells, as the setting `seed` takes it."""
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 2**32:
        raise ArgumentTypeError(f"{text} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def path(text: str) -> Path:
    """Return the path that `text` spells, in which `~` is a home."""
    try:
        return expanded(text)
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None


def run_program(name: str, work: Callable[[], int | None]) -> int:
    """Do a program's work, or say in one line what keeps it from being done; return the exit code.

    Where nobody reads the output any more, as after `| head`, it ends without a word, as other programs do.
    """
    escape_unknown_letters()
    try:
        release_signals()
        code = work() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:
        warn(f"{name}: {visible(in_words(error))}")
        return exit_code(error)
    except (MemoryError, RuntimeError) as error:
        if not (lack := lack_of_memory(error)):
            raise
        warn(f"{name}: {lack}")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
