"""What is done to files whose content has fields: JSON, YAML, databases, arrays, checkpoints."""

import copy
import json
import pickle
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.bad_inputs.damage import Damage
from tests.bad_inputs.values import OBJECTS

GONE = object()
Place = tuple[Any, ...]  # keys that lead to a field
ARRAYS = {
    "empty": np.zeros((0, 5, 5), np.uint8),
    "numbers": np.zeros((4, 5, 5)),
    "flat": np.zeros(4, np.int64),
    "huge": np.full(4, 10**12),
    "negative": np.array([0, 1, 2, -1]),
    "texts": np.array(["a", "b", "\ud800", "\x1b[2J"]),
    "one": np.array(3),
    "nan": np.array([0.5, np.nan, 1, 2]),
    "complex": np.array([1 + 2j] * 4),
    "dates": np.array(["2026-01-01"] * 4, "datetime64[D]"),
    "records": np.zeros(4, [("a", "u1")]),
    "objects": np.array([None, "a", [1], {}], object),
}


def fields_of(content: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the places of all fields, of any depth; of a long list only the first and the last."""
    keys: list[Any] = []
    if isinstance(content, dict):
        keys = list(content)
    elif isinstance(content, list) and content:
        keys = sorted({0, len(content) - 1})
    for key in keys:
        yield (*place, key)
        yield from fields_of(content[key], (*place, key))


def changed(content: Any, place: Place, value: Any) -> Any:
    """Return a content with another value of a field, or without it."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


def odd_fields(content: Any, draw: random.Random, num_values: int) -> Iterator[tuple[str, Any]]:
    """Yield a content with each of its fields gone, and with some odd values of it."""
    for place in fields_of(content):
        name = "/".join(map(str, place))
        yield f"{name} gone", changed(content, place, GONE)
        for key in draw.sample(list(OBJECTS), min(num_values, len(OBJECTS))):
            yield f"{name} {key}", changed(content, place, OBJECTS[key])
    if isinstance(content, dict):
        yield "something more", {**content, "more\x1b[2J": 1}


def damages_of_fields(path: Path, draw: random.Random, num_values: int) -> Iterator[Damage]:
    """Yield damages to the fields of a file, by the kind of its content; none for files of other kinds."""
    yield from KINDS.get(path.suffix, no_damages)(path, draw, num_values)


def no_damages(path: Path, draw: random.Random, num_values: int) -> Iterator[Damage]:
    yield from ()


def of_json(path: Path, draw: random.Random, num_values: int) -> Iterator[Damage]:
    for name, content in odd_fields(json.loads(path.read_text("utf-8")), draw, num_values):
        yield name, lambda path, content=content: path.write_text(json.dumps(content))


def of_jsonl(path: Path, draw: random.Random, num_values: int) -> Iterator[Damage]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for name, content in odd_fields(rows, draw, num_values):
        text = "".join(json.dumps(row) + "\n" for row in content)
        yield name, lambda path, text=text: path.write_text(text)


def of_yaml(path: Path, draw: random.Random, num_values: int) -> Iterator[Damage]:
    for name, content in odd_fields(yaml.safe_load(path.read_text("utf-8")), draw, num_values):
        yield name, lambda path, content=content: path.write_text(yaml_text(content), "utf-8")


def yaml_text(content: Any) -> str:
    """Return YAML, with the NUL bytes and halves of characters that a person could not type, but escape."""
    return yaml.safe_dump(content, allow_unicode=False, sort_keys=False)


def of_database(path: Path, draw: random.Random, num_values: int) -> Iterator[Damage]:
    """Yield a database with each table dropped or emptied, and each column changed."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")] for table in tables}
    for table in tables:
        yield f"no table {table}", statement(f"DROP TABLE {table}")
        yield f"empty table {table}", statement(f"DELETE FROM {table}")
        for column in columns[table]:
            for key in draw.sample(list(OBJECTS), num_values):
                for name, value in ((key, json.dumps(OBJECTS[key])), (f"bare {key}", bare(key))):
                    yield f"{table}.{column} {name}", statement(f"UPDATE OR IGNORE {table} SET {column} = ?", value)


def bare(key: str) -> Any:
    """Return an odd value as a database holds it."""
    value = OBJECTS[key]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return value if value is None or (isinstance(value, int | float) and abs(value) < 2**60) else str(value)[:5000]


def statement(sql: str, *values: Any) -> Callable[[Path], object]:
    def execute(path: Path) -> None:
        database = sqlite3.connect(path)
        try:
            with database:
                database.execute(sql, values)
        except sqlite3.Error:  # a value that the table refuses
            pass
        database.close()

    return execute


def of_arrays(path: Path, draw: random.Random, num_values: int) -> Iterator[Damage]:
    with np.load(path) as stored:
        arrays = dict(stored)
    for key in arrays:
        for name, array in {"gone": None, **ARRAYS}.items():
            others = {k: v for k, v in arrays.items() if k != key}
            more = {} if array is None else {key: array}
            yield f"{key} {name}", lambda path, content={**others, **more}: np.savez(path, **content)


def of_weights(path: Path, draw: random.Random, num_values: int) -> Iterator[Damage]:
    """Yield a file of torch with odd values in place of its parts, and files that are something else."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    tensor_of = lambda value: value if isinstance(value, torch.Tensor) else torch.zeros(2)  # noqa: E731
    parts: Mapping[str, Callable[[Any], Any]] = {
        "gone": lambda value: GONE,
        "none": lambda value: None,
        "text": lambda value: "text",
        "number": lambda value: 3,
        "minus": lambda value: -1,
        "nan": lambda value: float("nan"),
        "list": lambda value: [1, 2],
        "object": lambda value: {},
        "shorter": lambda value: tensor_of(value).flatten()[:-1].clone(),
        "whole numbers": lambda value: tensor_of(value).long(),
        "complex": lambda value: tensor_of(value) * 1j,
        "not finite": lambda value: tensor_of(value).float() * float("nan"),
        "scalar": lambda value: torch.tensor(3),
        "giant": lambda value: torch.zeros(1).expand(10**6, 10**6),
        "sparse": lambda value: tensor_of(value).float().to_sparse(),
        "nowhere": lambda value: torch.empty(3, device="meta"),
    }
    for place in fields_of(content):
        inner = content
        for key in place:
            inner = inner[key]
        for name in draw.sample(list(parts), min(num_values, len(parts))):
            damaged = changed(content, place, parts[name](inner))
            yield f"{'/'.join(map(str, place))} {name}", lambda path, content=damaged: torch.save(content, path)
    for name, other in {"number": 3, "list": [1], "tensor": torch.zeros(3), "object": {}, "more": {1: 2}}.items():
        yield f"{name} for all", lambda path, content=other: torch.save(content, path)
    yield "code", lambda path: path.write_bytes(pickle.dumps(Evil()))
    yield "old format", lambda path: torch.save(content, path, _use_new_zipfile_serialization=False)


class Evil:
    """Would write a file if it was unpickled."""

    def __reduce__(self) -> Any:
        return open, ("outside", "w")


KINDS: dict[str, Callable[[Path, random.Random, int], Iterator[Damage]]] = {
    ".json": of_json,
    ".jsonl": of_jsonl,
    ".yaml": of_yaml,
    ".db": of_database,
    ".npz": of_arrays,
    ".pt": of_weights,
}
