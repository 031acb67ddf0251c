import pytest

from analysis.terminal import sparkline


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0, 7, 1], "▁█▂"), ([0, 0, 0, 7, 7, 7, 0, 0], "▁▅█▁")],
)
def test_a_sparkline_goes_from_the_least_to_the_greatest(values, line):
    assert sparkline(values, 4) == line
