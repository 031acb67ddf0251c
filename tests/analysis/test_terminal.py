import pytest

from analysis.terminal import sparkline, visible_lines


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0, 7, 1], "▁█▂"), ([0, 0, 0, 7, 7, 7, 0, 0], "▁▅█▁")],
)
def test_a_sparkline_goes_from_the_least_to_the_greatest(values, line):
    assert sparkline(values, 4) == line


def test_lines_from_elsewhere_reach_a_terminal_with_their_control_characters_written_out():
    assert visible_lines("\x1b]0;title\x07\nsecond\tline\x9b2J") == "\\x1b]0;title\\x07\nsecond  line\\x9b2J"
    assert visible_lines("a name, ∑ é 猫\n") == "a name, ∑ é 猫\n"
