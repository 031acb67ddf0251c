from io import BytesIO, TextIOWrapper

import pytest

from analysis.terminal import sparkline


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0, 7, 1], "▁█▂"), ([0, 0, 0, 7, 7, 7, 0, 0], "▁▅█▁")],
)
def test_a_sparkline_goes_from_the_least_to_the_greatest(values, line):
    assert sparkline(values, 4) == line


@pytest.mark.parametrize(("encoding", "line"), [("utf-8", "▁█▂"), ("ascii", "182"), ("latin-1", "182")])
def test_where_a_terminal_has_no_bars_digits_stand_for_them(encoding, line, monkeypatch):
    monkeypatch.setattr("sys.stdout", TextIOWrapper(BytesIO(), encoding))
    assert sparkline([0, 7, 1], 4) == line
