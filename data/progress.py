"""How far something is that takes a while: a bar on a terminal, a line a minute in a log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from data.visible import warn

SECONDS_BETWEEN_LINES = 60.0


class Log:
    """The error output where it is no terminal: what would be drawn over the line before is a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            warn(line)

    def flush(self) -> None:
        """Do nothing: lines are not kept back."""


def progress_bar(
    what: str, total: int | None, things: str, start: int = 0, quiet: bool = False, items: Iterable[Any] | None = None
) -> "tqdm[Any]":
    """Return a bar that `update`, or going through its items, moves on, and that is gone when it is closed.

    Args:
        what: is going on.
        total: number of things, if it is known.
        things: that are counted, such as images.
        start: number of those that are there already.
        quiet: show nothing.
        items: of which each counts as one thing.
    """
    pause = SECONDS_BETWEEN_LINES
    log: dict[str, Any] = {"mininterval": pause, "delay": pause, "miniters": 1, "file": Log()}
    where = {} if sys.stderr.isatty() else log
    return tqdm(items, what, total, unit=f" {things}", initial=start, leave=False, disable=quiet, **where)
