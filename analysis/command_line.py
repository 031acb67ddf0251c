"""What the programs share of their command lines."""

import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any, NoReturn

from data.errors import UserError


class Parser(ArgumentParser):
    """A parser of a command line that says in one line what is wrong with it."""

    def error(self, message: str) -> NoReturn:
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
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def run_program(name: str, work: Callable[[], int | None]) -> int:
    """Do a program's work, or say in one line what keeps it from being done; return the exit code."""
    try:
        return work() or 0
    except (UserError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
