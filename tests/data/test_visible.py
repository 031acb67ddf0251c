"""Text from elsewhere is printed so that a terminal shows it and obeys none of it."""

import pytest

from data.visible import visible


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
