"""Predictions of image files for people and for programs: a table, CSV, JSON lines, a sheet of the pictures."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text
from torch import Tensor

from analysis.look.panels import draw_grid
from analysis.look.picture_files import NO_CLASS
from analysis.look.prediction import NUM_KEPT, Predicted
from analysis.look.predictions import exact
from analysis.terminal import make_table
from data.visible import say, visible
from models.core.panel import COLUMNS, Panel

NUM_NAMED = 5  # classes that are named for each image, the likeliest first


def rows_of(predicted: Predicted) -> Iterator[dict[str, Any]]:
    """Yield what there is to say of each image: file, its likeliest classes, and what is known of it."""
    shares, places = predicted.probabilities.topk(min(NUM_NAMED, len(predicted.classes)), dim=1)
    num_members = len(predicted.votes)
    columns = shares, places, predicted.agreed, predicted.losses
    everything = zip(predicted.files, *map(Tensor.tolist, columns), strict=True)
    for file, share, place, agreed, loss in everything:
        row: dict[str, Any] = {"file": str(file.path)}
        row["ranked"] = [(predicted.classes[i], value) for i, value in zip(place, share, strict=True)]
        if file.true != NO_CLASS:
            row |= {"true": predicted.classes[file.true], "loss": loss}
        if num_members > 1:
            row["agreed"] = f"{agreed}/{num_members}"
        yield row


def flat(row: dict[str, Any]) -> dict[str, str]:
    """Return a row as cells of a table: the likeliest class, its probability, those of the next ones, and the rest."""
    cells = {"file": row["file"]}
    for rank, (name, share) in enumerate(row["ranked"], 1):
        mark = f"_{rank}" if rank > 1 else ""
        cells |= {f"class{mark}": name, f"probability{mark}": exact(share)}
    rest = {key: value for key, value in row.items() if key not in ("file", "ranked")}
    return cells | {key: exact(value) if isinstance(value, float) else value for key, value in rest.items()}


def write_csv(rows: Sequence[dict[str, Any]], file: TextIO) -> None:
    """Write a line for each image, its numbers exact."""
    cells = [flat(row) for row in rows]
    columns = list(dict.fromkeys(key for one in cells for key in one))
    table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(cells)


def write_json_lines(rows: Sequence[dict[str, Any]], file: TextIO) -> None:
    """Write an object for each image: file, class, probability, the next classes, and what is known of it."""
    for row in rows:
        (name, share), *others = row["ranked"]
        head = {"file": row["file"], "class": name, "probability": share}
        rest = {key: value for key, value in row.items() if key not in ("file", "ranked")}
        after = [{"class": other, "probability": value} for other, value in others]
        file.write(json.dumps({**head, "next": after, **rest}) + "\n")


FORMATS: dict[str, Callable[[Sequence[dict[str, Any]], TextIO], None]] = {"csv": write_csv, "jsonl": write_json_lines}


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Return a table for the terminal: file, class, probability, the next classes; and what is known of each image."""
    known = [key for key in ("true", "agreed") if any(key in row for row in rows)]
    table = make_table(["file", "class", "probability", "next", *known])
    for column in (0, 1, 3):
        table.columns[column].justify = "left"
    for row in rows:
        (name, share), *others = row["ranked"]
        after = "  ".join(f"{other} {value:.1%}" for other, value in others)
        is_wrong = row.get("true", name) != name
        cells = [row["file"], name, f"{share:.1%}", after, *(row.get(key, "") for key in known)]
        table.add_row(*(Text(visible(cell), style="red" if is_wrong else "") for cell in cells))
    return table


def draw_sheet(predicted: Predicted, path: Path) -> None:
    """Write a sheet of the pictures as the network has seen them: with the class, the probability and the file."""
    captions, marks = [], []
    pictures = predicted.pictures
    for row, file in zip(rows_of(predicted), predicted.files[: len(pictures)], strict=False):
        name, share = row["ranked"][0]
        is_right = row.get("true", name) == name
        told = f"{name} {share:.0%}" + ("" if is_right else f", is {row['true']}")
        captions.append(f"{told}\n{visible(file.path.name)}")
        marks.append(is_right)
    has_classes = any(file.true != NO_CLASS for file in predicted.files)
    columns = max(COLUMNS, ceil(sqrt(len(pictures))))
    panel = Panel(pictures / 255, tuple(captions), tuple(marks) if has_classes else (), columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(panel).save(path)
    if len(predicted.files) > len(pictures):
        say(f"{path} shows the first {NUM_KEPT} of {len(predicted.files):,} images")
