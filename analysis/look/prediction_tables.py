"""Predictions of image files for people and for programs: a table, CSV, JSON lines, a sheet of the pictures."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rich.table import Table
from rich.text import Text
from torch import Tensor

from analysis.look.panels import draw_grid
from analysis.look.prediction import NUM_KEPT, Predicted
from analysis.look.split_predictions import PROBABILITY, exact
from analysis.terminal import make_table, table_width
from data.dataset import DatasetInfo
from data.visible import percent, say, visible
from models.core.panel import COLUMNS, Panel

NUM_NAMED = 5  # classes that are named for each image, the likeliest first


class Row(NamedTuple):
    """What there is to say of an image, in the form of each kind of output.

    Attributes:
        file: its path.
        cells: what is predicted, for CSV.
        content: the same, for JSON.
        texts: the same, for the terminal.
        rest: what is known of it beside.
        is_wrong: whether some of it is known to be wrong.
    """

    file: str
    cells: dict[str, str]
    content: dict[str, Any]
    texts: dict[str, str]
    rest: dict[str, Any]
    is_wrong: bool


def rows_of(predicted: Predicted) -> Iterator[Row]:
    """Yield what there is to say of each image."""
    tell = TELL[predicted.info.several_labels]
    places = predicted.known.tolist()
    truths = dict(zip(places, map(predicted.info.named, predicted.true), strict=True))
    losses = dict(zip(places, predicted.losses.tolist(), strict=True))
    wrong = {place for place, share in zip(places, predicted.rightness.tolist(), strict=True) if share < 1}
    num_members, guessed = len(predicted.votes), predicted.guessed
    for i, (file, agreed) in enumerate(zip(predicted.files, predicted.agreed.tolist(), strict=True)):
        told = tell(predicted.info, predicted.probabilities[i], guessed[i])
        rest = {"true": truths[i], "loss": losses[i]} if i in truths else {}
        rest |= {"agreed": f"{agreed}/{num_members}"} if num_members > 1 else {}
        yield Row(str(file.path), *told, rest, i in wrong)


def tell_class(info: DatasetInfo, probabilities: Tensor, guessed: Tensor) -> tuple[dict, dict, dict]:
    """Return the likeliest classes of an image: for CSV, for JSON, for the terminal; see `Row`."""
    shares, places = (it.tolist() for it in probabilities.topk(min(NUM_NAMED, len(info.classes))))
    ranked = [(info.classes[place], share) for place, share in zip(places, shares, strict=True)]
    cells = dict[str, str]()
    for rank, (name, share) in enumerate(ranked, 1):
        mark = f"_{rank}" if rank > 1 else ""
        cells |= {f"class{mark}": name, f"probability{mark}": exact(share)}
    (name, share), *others = ranked
    after = [{"class": other, "probability": value} for other, value in others]
    texts = {"probability": percent(share), "next": "  ".join(f"{other} {percent(value)}" for other, value in others)}
    return cells, {"class": name, "probability": share, "next": after}, {"class": name, **texts}


def tell_labels(info: DatasetInfo, probabilities: Tensor, guessed: Tensor) -> tuple[dict, dict, dict]:
    """Return the labels of an image, and the probabilities of all: for CSV, for JSON, for the terminal; see `Row`."""
    shares = dict(zip(info.classes, probabilities.tolist(), strict=True))
    order = probabilities.argsort(descending=True).tolist()
    labels = [info.classes[i] for i in order if guessed[i]]
    cells = {"labels": info.named(guessed), **{f"{PROBABILITY}{name}": exact(share) for name, share in shares.items()}}
    texts = {"labels": "  ".join(f"{name} {percent(shares[name])}" for name in labels) or info.named(guessed)}
    return cells, {"labels": labels, "probabilities": shares}, texts


TELL = {False: tell_class, True: tell_labels}  # by whether labels may be several


def write_csv(rows: Sequence[Row], file: TextIO) -> None:
    """Write a line for each image, its numbers exact."""
    cells = [
        {"file": row.file, **row.cells}
        | {key: exact(value) if isinstance(value, float) else value for key, value in row.rest.items()}
        for row in rows
    ]
    columns = list(dict.fromkeys(key for one in cells for key in one))
    table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(cells)


def write_json_lines(rows: Sequence[Row], file: TextIO) -> None:
    """Write an object for each image: its file, what is predicted of it, and what is known of it."""
    for row in rows:
        file.write(json.dumps({"file": row.file, **row.content, **row.rest}) + "\n")


FORMATS: dict[str, Callable[[Sequence[Row], TextIO], None]] = {"csv": write_csv, "jsonl": write_json_lines}


def table_of(rows: Sequence[Row], width: int) -> Table:
    """Return a table for the terminal: each image's file, what is predicted of it, and what is known of it.

    Where that is wider than `width`, it leaves out the classes that are less likely.
    """
    known = [key for key in ("true", "agreed") if any(key in row.rest for row in rows)]
    cells = {"file": [visible(row.file) for row in rows]}
    cells |= {name: [visible(row.texts[name]) for row in rows] for name in rows[0].texts}
    cells |= {key: [visible(row.rest.get(key, "")) for row in rows] for key in known}
    if table_width(cells) > width:
        cells.pop("next", None)
    table = make_table(list(cells))
    for column, name in zip(table.columns, cells, strict=True):
        column.justify = "right" if name in ("probability", *known) else "left"
    for row, texts in zip(rows, zip(*cells.values(), strict=True), strict=True):
        table.add_row(*(Text(text, style="red" if row.is_wrong else "") for text in texts))
    return table


def draw_sheet(predicted: Predicted, path: Path) -> None:
    """Write a sheet of the pictures as the network has seen them: with what is predicted, and the file."""
    pictures, labelling, info = predicted.pictures, predicted.labelling, predicted.info
    truths = dict(zip(predicted.known.tolist(), predicted.true, strict=True))
    is_right = dict(zip(truths, (predicted.rightness == 1).tolist(), strict=True))
    captions = [
        f"{labelling.caption(predicted.probabilities[i], truths.get(i), info)}\n{visible(predicted.files[i].path.name)}"
        for i in range(len(pictures))
    ]
    marks = tuple(is_right.get(i, True) for i in range(len(pictures))) if is_right else ()
    columns = max(COLUMNS, ceil(sqrt(len(pictures))))
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(Panel(pictures / 255, tuple(captions), marks, columns)).save(path)
    if len(predicted.files) > len(pictures):
        say(f"{path} shows the first {NUM_KEPT} of {len(predicted.files):,} images")
