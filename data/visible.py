"""What is said to people: text from elsewhere, such as names of runs and of classes, is made fit to be printed."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper


def visible(text: object) -> str:
    r"""Return a text with its control characters and whatever else shows nothing escaped, as \x1b or \u202e.

    A terminal would obey the first, and could not show the others: line breaks, marks that turn the direction of
    writing round, and halves of characters, as names of files that are no UTF-8 hold them.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def visible_lines(text: object) -> str:
    """Return lines from elsewhere made fit to be printed; line breaks and tabs stay what they are."""
    return "\n".join(visible(line.expandtabs()) for line in str(text).split("\n"))


def escape_unknown_letters() -> None:
    r"""Let letters that the encoding of the output or of the error output lacks be printed as numbers, as \u6570."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(*texts: object) -> None:
    """Print texts, each on lines of its own, with all that could command a terminal escaped."""
    print(*map(visible_lines, texts), sep="\n", flush=True)


def is_first_process() -> bool:
    """Return whether this is the first, or the only one, of the processes that train together.

    A launcher gives each its RANK; without WORLD_SIZE it was somebody else who set that.
    """
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def warn(text: object) -> None:
    """Print a text to the error output likewise; of several processes that train together only the first does."""
    if is_first_process():
        print(visible_lines(text), file=sys.stderr, flush=True)


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Return a number of things as people say it: 1 run, 2,000 runs; `nouns` where the plural does not end in s."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share as people read it, such as 98.7 %; values of metrics are told by `shown` of data/metrics.py."""
    return f"{100 * share:.{digits}f} %"


def listed(names: Sequence[str], most: int) -> str:
    """Return names as people list them: a, b, c; of more than `most` the first ones: a, b and 4 more."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
