"""Tables of runs or sweeps in a terminal, of which a narrow one leaves out columns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from analysis.terminal import make_console, make_table, table_width
from data.visible import listed, visible

COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red", "unfinished": "cyan"}
FLUSH_LEFT = {"sweep", "run", "model", "dataset", "state", "course", "method", "metric"}  # headings of columns
FLUSH_LEFT |= {"values in order", "best settings", "setting", "values"}
NAMES = ("sweep", "run")  # columns that are never left out or clipped: other commands take what stands there
TESTED = {"test/accuracy": "test acc.", "test/mAP": "test mAP"}  # the headings of test figures
OWN_FINAL = "final by its metric"
WHERE_KNOWN = {*TESTED.values(), *(f"final {heading}" for heading in TESTED.values()), OWN_FINAL}  # are never empty
# Columns that a narrow terminal does without, the first of them first.
NARROW_FIRST = (
    "course",
    "values in order",
    "duration",
    "dataset",
    "age",
    "epochs",
    *TESTED.values(),
    "model",
    "method",
)
NUM_KEPT = 3  # of the other columns, the first of which say most
LONGEST_CELL = 60  # letters
MOST_NAMED = 5  # folders

Column = tuple[str, Callable[[Any], str]]  # its heading, and what makes a row's cell


def print_table(columns: Sequence[Column], rows: Sequence[Any], title: str) -> None:
    """Print a table with a row for each of `rows`; nothing where there are none.

    Where the terminal is too narrow, it leaves out columns, those of NARROW_FIRST before others, and says which.

    Args:
        columns: heading of each column, and what makes a row's cell in it.
        rows: what the rows show.
        title: stands above the table.
    """
    if not rows:
        return
    console = make_console()
    cells = {heading: [clipped(heading, cell(row)) for row in rows] for heading, cell in columns}
    cells = {heading: texts for heading, texts in cells.items() if any(texts) or heading not in WHERE_KNOWN}
    # Whatever $FORCE_COLOR says: a file has no window.
    left_out = columns_to_leave_out(cells, console.width) if console.file.isatty() else []
    kept = {heading: texts for heading, texts in cells.items() if heading not in left_out}
    console.width = max(console.width, table_width(kept))  # what is wider still is folded by the terminal
    table: Table = make_table([visible(heading) for heading in kept], title)
    for column, heading in zip(table.columns, kept, strict=True):
        column.no_wrap = True
        if heading in FLUSH_LEFT:
            column.justify = "left"
    for texts in zip(*kept.values(), strict=True):
        pairs = zip(kept, texts, strict=True)
        table.add_row(*(Text(text, COLOURS.get(text, "") if heading == "state" else "") for heading, text in pairs))
    console.print(table)
    if left_out:
        console.print(Text(f"too narrow for {', '.join(map(visible, left_out))}: widen it, or write to a file"))


def clipped(heading: str, text: str) -> str:
    """Return the text of a cell as it is shown: one line and not too long, but for names, which others take."""
    if heading not in NAMES and len(text) > LONGEST_CELL:
        text = f"{text[: LONGEST_CELL - 1]}…"
    return visible(text)


def columns_to_leave_out(cells: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """Return the headings of the columns to leave out of a table so that it is not wider than a terminal."""
    kept = dict(cells)
    optional = [name for name in cells if name not in (*NARROW_FIRST, *NAMES)]
    droppable = [*(name for name in NARROW_FIRST if name in cells), *reversed(optional[NUM_KEPT:])]
    left_out: list[str] = []
    while table_width(kept) > width and len(left_out) < len(droppable):
        left_out.append(droppable[len(left_out)])
        del kept[left_out[-1]]
    return left_out


def skipped(what: str, names: Sequence[str]) -> str:
    """Return the end of a line of counts that says how much is left out, and names some; "" for nothing."""
    return f"; {len(names):,} skipped: {what}, a broken one or a copy ({listed(names, MOST_NAMED)})" if names else ""
