"""Runs as CSV files, for notebooks and spreadsheets: a row for each run, or for all that each has logged."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from analysis.read.records import RunRecord
from analysis.read.runs import history
from data.files import replace_file
from data.visible import counted

OF_ENVIRONMENT = ("command", "commit", "device", "num_processes", "data", "wandb")  # what is told of it


def write_runs(path: Path, records: Sequence[RunRecord]) -> str:
    """Write a row for each run, with all of its settings and figures; return what was written, in a line."""
    return write(path, [row_of(record) for record in records], "run")


def write_histories(path: Path, records: Sequence[RunRecord]) -> str:
    """Write a row for each that the runs have logged, beside their names; return what was written, in a line.

    Raises:
        UserError: W&B does not answer.
    """
    return write(path, [{**name_of(record), **row} for record in records for row in history(record)], "row")


def name_of(record: RunRecord) -> dict[str, Any]:
    """Return the columns that tell runs apart; ids alone may be those of several runs."""
    return {"run": record.run_id, "sweep": record.sweep}


def row_of(record: RunRecord) -> dict[str, Any]:
    """Return the columns of a run: what is known of it, settings.NAME, summary.NAME and environment.NAME."""
    return {
        **name_of(record),
        "source": record.source,
        "state": record.state,
        "started": record.created.isoformat(),
        **flat(record.settings, "settings."),
        **flat(record.summary, "summary."),
        **flat({name: record.environment.get(name) for name in OF_ENVIRONMENT}, "environment."),
    }


def flat(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return values by column: those within groups by names with dots, and lists as JSON."""
    columns: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            columns |= flat(value, f"{place}{name}.")
        else:
            columns[f"{place}{name}"] = json.dumps(value) if isinstance(value, list | tuple) else value
    return columns


def write(path: Path, rows: Sequence[Mapping[str, Any]], what: str) -> str:
    """Write rows that need not have the same columns; return what was written, in a line."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    replace_file(path, partial(save, columns=columns, rows=rows))
    return f"{path}: {counted(len(rows), what)}, {counted(len(columns), 'column')}"


def save(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
