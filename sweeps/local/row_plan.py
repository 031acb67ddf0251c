"""The plan of the study: what is left to do of each row, what that takes, and which rows fit into the hours given."""

import math
from collections.abc import Collection, Mapping, Sequence

from rich.text import Text

from analysis.terminal import clock, make_console, make_table
from data.visible import say, visible, warn
from sweeps.local.row_cost import Cost, seconds_of
from sweeps.local.rows import Row, Step


def plan(
    rows: Sequence[Row], costs: Mapping[str, Cost], steps: Sequence[Step], hours: float, workers: int
) -> list[Row]:
    """Print what is left to do of each row, and what it takes; return the rows that fit into so many hours.

    Args:
        rows: in the order in which they are to be trained.
        costs: by row.
        steps: those that are left of all rows.
        hours: that it may take.
        workers: runs at a time.
    """
    table = make_table(("row", "runs", "a run", "all", ""), f"{workers} at a time, within {hours:g} hours")
    names, rest = {row.name for row in rows}, hours * 3600 * workers
    found: list[Row] = []
    for row in rows:
        cost, left = costs.get(row.name, Cost()), [step for step in steps if step.row == row.name]
        num = sum(is_costly(step) for step in left)
        seconds = sum(seconds_of(step, row, cost) for step in left)
        obstacle = obstacle_of(row, cost, seconds, rest, names - {one.name for one in found}) if num else ""
        if not obstacle:
            rest -= seconds
            found.append(row)
        word = obstacle or ("" if num else "trained, more to do" if left else "done")
        each = "" if row.sweep or not num else time_of(seconds / num)
        cells = (row.name, "a sweep" if row.sweep else str(num), each, time_of(seconds) if num else "", word)
        table.add_row(*(Text(visible(cell)) for cell in cells))
    make_console().print(table)
    for name, cost in costs.items():
        if cost.fault:
            warn(f"{name} cannot be trained: {cost.fault}")
    say(f"in all about {clock((hours * 3600 * workers - rest) / workers)}")
    return found


def obstacle_of(row: Row, cost: Cost, seconds: float, rest: float, left_out: Collection[str]) -> str:
    """Return in a few words what keeps a row that is to be trained out of the plan; "" for nothing.

    Args:
        row: the next one.
        cost: of its runs.
        seconds: that all that is left of it takes.
        rest: seconds that the rows before it leave.
        left_out: names of the rows that are asked for, but not planned so far.
    """
    if cost.fault:
        return "see below"
    if row.after in left_out:
        return f"needs {row.after}"
    return "does not fit" if seconds > rest else ""


def is_costly(step: Step) -> bool:
    """Return whether a step trains, so that the time it takes is to be known before."""
    return step.trains or step.takes_all


def time_of(seconds: float) -> str:
    """Return a time that may not be known."""
    return clock(seconds) if 0 < seconds < math.inf else "?"
