"""What is said: text from elsewhere is printed so that a terminal shows it and obeys none of it."""

from pathlib import Path

import pytest

from data.visible import counted, listed, percent, say, visible, visible_lines, warn


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café 日本 ±", "café 日本 ±"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff", r"\udcff"),
        (0.5, "0.5"),
    ],
)
def test_what_a_terminal_would_obey_or_cannot_show_is_escaped(text, shown):
    assert visible(text) == shown
    assert visible(text).encode().decode() == shown


def test_lines_from_elsewhere_reach_a_terminal_with_their_control_characters_written_out():
    assert visible_lines("\x1b]0;title\x07\nsecond\tline\x9b2J") == "\\x1b]0;title\\x07\nsecond  line\\x9b2J"
    assert visible_lines("a name, ∑ é 猫\n") == "a name, ∑ é 猫\n"


def test_what_is_said_is_made_visible_and_warnings_come_from_the_first_process_alone(capsys, monkeypatch):
    say("\x1b[2Jone", Path("two"), "three\nfour")
    warn("\x07beep")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    warn("the same once more")
    assert capsys.readouterr() == ("\\x1b[2Jone\ntwo\nthree\nfour\n", "\\x07beep\n")


def test_things_are_counted_as_people_say_it():
    counts = [counted(number, "run") for number in (0, 1, 2000)]
    assert counts == ["0 runs", "1 run", "2,000 runs"]
    assert [counted(number, "process", "processes") for number in (1, 2)] == ["1 process", "2 processes"]


@pytest.mark.parametrize(
    ("rank", "size", "is_told"),
    [(None, None, True), ("0", "2", True), ("1", "2", False), ("1", None, True), ("odd", None, True)],
)
def test_one_process_warns_and_so_does_one_whose_user_has_set_a_rank(monkeypatch, capsys, rank, size, is_told):
    for name, value in (("RANK", rank), ("WORLD_SIZE", size)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    warn("a word")
    assert capsys.readouterr().err == ("a word\n" if is_told else "")


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (list("abcde"), "a, b, c and 2 more")]
)
def test_names_are_listed_with_the_number_of_those_that_are_left_out(names, text):
    assert listed(names, most=3) == text


def test_shares_are_told_as_metrics_are_with_a_blank_before_the_sign():
    assert [percent(0.98765), percent(0.5, 0), percent(1.0)] == ["98.8 %", "50 %", "100.0 %"]
