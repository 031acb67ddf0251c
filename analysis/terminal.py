"""Tables and figures for people, in a terminal or in a log."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

LOG_WIDTH = 200  # columns of a log, which is not looked at through a window
SPARKLINE_WIDTH = 16
BARS, DIGITS = "▁▂▃▄▅▆▇█", "12345678"
NONE = "–"  # in place of a setting that a run's model has not


class OurConsole(Console):
    """A console that leaves it to its program what to do when nobody reads the output any more."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that rich has caught, in place of its own end of the process."""
        raise


def make_console() -> Console:
    """Return the console that tables are printed to: the terminal, or a log that is wide enough for them."""
    is_terminal = sys.stdout.isatty()  # FORCE_COLOR does not make a terminal of a file
    console = OurConsole(soft_wrap=True, force_terminal=None if is_terminal else False)
    if not is_terminal:
        console.width = LOG_WIDTH
    return console


def make_table(headings: Sequence[str], title: str = "") -> Table:
    """Return an empty table that cuts nothing off; make its cells Text, which does not take brackets for markup."""
    table = Table(title=Text(title) if title else None, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in headings:
        table.add_column(Text(heading), justify="right", overflow="fold")
    return table


def table_width(cells: Mapping[str, Sequence[str]]) -> int:
    """Return how many letters wide a table is: its columns, a blank behind each, and one in front."""
    return 1 + sum(1 + max(map(cell_len, (heading, *texts))) for heading, texts in cells.items())


def number(value: Any) -> str:
    """Return a figure or a setting as text, in few digits; None as an empty text."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def number_or_dash(value: Any) -> str:
    """Return a setting as text, in few digits; None, for a run whose model has no such setting, as a dash."""
    return NONE if value is None else number(value)


def clock(seconds: float) -> str:
    """Return a duration as people write it: 1h02m, 2m05s or 7s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the course of some values as a line of bars, the lowest for the least value, the highest for the greatest.

    Args:
        values: finite numbers, at even distances.
        width: characters at most; if there are more values, each character shows a mean.
    """
    num = min(width, len(values))
    edges = [len(values) * i // num for i in range(num + 1)] if num else []
    means = [sum(values[start:end]) / (end - start) for start, end in zip(edges, edges[1:], strict=False)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    step = (high - low) / (len(BARS) - 1) or 1.0
    bars = BARS if (sys.stdout.encoding or "").lower().startswith("utf") else DIGITS  # as rich decides on its lines
    return "".join(bars[round((mean - low) / step)] for mean in means)
