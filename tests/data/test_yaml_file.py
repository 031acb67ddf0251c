"""What is refused of a YAML file before anything is made of it."""

import os
import time

import pytest
import yaml

from data.errors import LONGEST_MESSAGE, UserError
from data.yaml_file import parse_yaml, read_yaml_file
from tests.sweep_helpers import ROOT

LETTERS = "abcdefghi"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip(LETTERS, LETTERS[1:], strict=False)
)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_suites_files_are_read_as_by_pyyaml(path):
    assert read_yaml_file(path) == yaml.safe_load(path.read_text())


def test_aliases_and_merged_keys_are_kept():
    text = "base: &base {min: 0.1, max: 1.0}\nlr: {<<: *base, max: 2.0}\nother: *base\n"
    assert parse_yaml(text, "a.yaml")["lr"] == {"min": 0.1, "max": 2.0}
    assert parse_yaml(text, "a.yaml") == yaml.safe_load(text)
    assert parse_yaml("", "a.yaml") is None


def pace():
    """Processor time of some work: a thirtieth of a second, and longer on a machine whose caches others use."""
    started = time.process_time()
    sum(i * i for i in range(500_000))
    return time.process_time() - started


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "a is given twice, in lines 1 and 3: leave one out"),
        ("x: {lr: {value: 1}, lr: {value: 2}}", "lr is given twice, in lines 1 and 1"),
        ('x:\n  lr: 1\n  "lr": 2\n', "lr is given twice, in lines 2 and 3"),
        (BOMB, "with its aliases written out"),
        ("a: &a [*a]", "line 1 is a part of itself"),
        ("a: &a\n  b: *a\n", "is a part of itself"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("[" * 100_000, "nested more than 50 deep"),
        ('a: x\nb: ["c\\0d"]\n', "line 2 holds a text that no program can be told"),
        ('a: "\\ud800"', "line 1 holds a text that no program can be told"),
        ("a: " + "x" * 20_000, "line 1 holds a text of 20,000 characters, more than 10,000"),
        ("a: " + "9" * 5000, "a.yaml is no YAML: Exceeds the limit"),
        ("a: 2026-01-32", "a.yaml is no YAML: day "),
        ("a: [", "a.yaml is no YAML: while parsing a flow node"),
        ("a: !!python/object:os.system x", "a.yaml is no YAML: could not determine a constructor"),
    ],
    ids=lambda text: text[:25],
)
def test_a_text_is_refused_within_a_second_in_one_short_line(text, message):
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "a.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2 * LONGEST_MESSAGE
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 60 * pace()  # 2 seconds, by themselves


def test_files_that_are_none_or_too_large_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_text("a: 1\n" * 300_000)
    (tmp_path / "latin").write_bytes("a: é".encode("latin-1"))
    for name, message in (
        ("fifo", "it is no file"),
        (".", "it is no file"),
        ("missing", "cannot be read (No such file or directory)"),
        ("large", "longer than the 1,000,000 characters"),
        ("latin", "save it as UTF-8"),
    ):
        with pytest.raises(UserError) as caught:
            read_yaml_file(tmp_path / name)
        assert message in str(caught.value)
