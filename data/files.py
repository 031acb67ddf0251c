"""Files on disk: written whole or not at all, and read even where a kill has cut them short."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name, and rename it to `path` once it is whole.

    Raises:
        OSError: the file could not be written; what was there before is kept.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file with one key a line."""
    replace_file(path, lambda unfinished: unfinished.write_text(json.dumps(content, indent=1) + "\n"))


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; an empty dict where the file is missing, cut short or no JSON object."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: not JSON, or not text at all
        return {}
    return content if isinstance(content, dict) else {}
