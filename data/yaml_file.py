"""YAML as people write it by hand: what a reader would overlook is refused, and so is what no sweep needs."""

from pathlib import Path
from typing import Any

import yaml

from data.errors import UserError

MOST_CHARACTERS = 1_000_000  # of a file, also with its aliases written out
MOST_OF_A_TEXT = 10_000  # characters: a command line takes no more than 128 KiB
DEEPEST = 50


def read_yaml_file(path: Path, example: str = "name a sweep file, such as sweeps/quickstart.yaml") -> Any:
    """Return the content of a YAML file; where there is none, the message ends with `example`.

    Raises:
        UserError: it is no file, no YAML, or too large; it gives a key twice, or a text that no program can be told.
    """
    if path.exists() and not path.is_file():  # reading a pipe could take for ever
        raise UserError(f"{path} cannot be read (it is no file): {example}")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {example}") from None
    except ValueError as error:
        raise UserError(f"{path} is no YAML: {error}; save it as UTF-8") from None
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{path} is longer than the {MOST_CHARACTERS:,} characters that a sweep may take")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Any:
    """Return the content of a YAML text, which messages call by `name`.

    Raises:
        UserError: as `read_yaml_file`.
    """
    try:
        if (node := yaml.compose(text, yaml.SafeLoader)) is not None:
            measure(node, {})
        return yaml.safe_load(text)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except RecursionError:
        raise UserError(f"{name} is no YAML of a sweep: it is nested more than {DEEPEST} deep") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as day 32, or a number of 5,000 digits
        raise UserError(f"{name} is no YAML: {' '.join(str(error).split())}") from None


def measure(node: yaml.Node, known: dict[int, int], depth: int = 0) -> int:
    """Return how many characters a part of a YAML file takes with its aliases written out, and check it on the way.

    Args:
        node: the part.
        known: characters of the parts that have been measured, by id; 0 of those that are being measured.
        depth: how deep it is nested.
    """
    line = node.start_mark.line + 1
    if id(node) in known:
        if not known[id(node)]:
            raise UserError(f"line {line} is a part of itself: write it out")
        return known[id(node)]
    if depth > DEEPEST:
        raise UserError(f"line {line} is nested more than {DEEPEST} deep")
    known[id(node)] = 0
    size = 1
    if isinstance(node, yaml.ScalarNode):
        check_text(node.value, line)
        size += len(node.value)
    elif isinstance(node, yaml.MappingNode):
        check_keys_differ(node)
        size += sum(measure(part, known, depth + 1) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(measure(part, known, depth + 1) for part in node.value)
    if size > MOST_CHARACTERS:
        raise UserError(f"line {line} takes more than {MOST_CHARACTERS:,} characters with its aliases written out")
    known[id(node)] = size
    return size


def check_keys_differ(node: yaml.MappingNode) -> None:
    """Refuse a key that is given twice: YAML would take the last one and drop the others."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line, name = key.start_mark.line + 1, (key.tag, key.value)
        if name in lines:
            raise UserError(f"{key.value} is given twice, in lines {lines[name]} and {line}: leave one out")
        lines[name] = line


def check_text(text: str, line: int) -> None:
    """Refuse a text that cannot be told to a program: on a command line, in its environment or in a file."""
    if len(text) > MOST_OF_A_TEXT:
        raise UserError(f"line {line} holds a text of {len(text):,} characters, more than {MOST_OF_A_TEXT:,}")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"line {line} holds a text that no program can be told (\\0, or half a character): correct it")
