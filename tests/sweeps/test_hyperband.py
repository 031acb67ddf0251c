"""W&B's hyperband, by histories worked out by hand and by what must hold for all."""

import random

import pytest

from sweeps.local.early_terminate import Hyperband, parse_early_terminate

DOCUMENTED = {  # the docstring of W&B's hyperband_stopping.py, whose bands are 1 (5/4) and 2 (5/2)
    "a": [10, 9],
    "b": [10, 10],
    "c": [10, 8, 8],
    "d": [10, 7, 7],
    "e": [10, 6, 6],
}


def stop(histories, running, **config):
    numbered = {i: values for i, values in enumerate(histories.values())}
    hyperband = parse_early_terminate({"type": "hyperband", **config})
    stopped = hyperband.to_stop(numbered, [list(histories).index(name) for name in running])
    return "".join(list(histories)[number] for number in stopped)


def test_the_documented_scenario():
    """At band 2 the five values are 6 7 8 9 10, and 8 is in place int(5/2) = 2: above it is out."""
    assert stop(DOCUMENTED, "bcd", max_iter=5, s=2, eta=2) == "b"


def test_a_smaller_share_goes_on_with_a_larger_eta():
    """int(5/4) = 1: only 6 and 7 are at most 7. The bands are 10/4 = 2.5 and 10/16, which is below 1."""
    assert stop(DOCUMENTED, "bcd", max_iter=10, s=2, eta=4) == "bc"


def test_ended_trials_are_compared_but_not_stopped():
    assert stop(DOCUMENTED, "", max_iter=5, s=2, eta=2) == ""
    alone = {name: DOCUMENTED[name] for name in "bcd"}  # 7 8 10: int(3/2) = 1, the threshold is 8
    assert stop(alone, "bcd", max_iter=5, s=2, eta=2) == "b"
    pair = {name: DOCUMENTED[name] for name in "cd"}  # 7 8: int(2/2) = 1, the threshold is 8
    assert stop(pair, "cd", max_iter=5, s=2, eta=2) == ""


def test_only_the_last_band_a_trial_has_reached_counts():
    histories = {"a": [1, 9], "b": [2, 1], "c": [9]}  # bands 1 and 2
    assert stop(histories, "abc", max_iter=4, s=2, eta=2) == "c"  # 1 2 9 -> 2; at 2: 1 9 -> 9
    assert stop(histories, "abc", min_iter=2, eta=4) == "a"  # 1 9 -> 1; c has not come to a band


def test_without_strict_the_best_value_ever_counts_instead_of_the_band_s():
    histories = {"a": [3, 9, 0], "b": [3, 8, 8], "c": [3, 4, 4]}  # band 2: 4 8 9 -> 4
    assert stop(histories, "abc", min_iter=2, eta=4) == "ab"
    assert stop(histories, "abc", min_iter=2, eta=4, strict=False) == ""  # 0 and 3 are better than 4
    assert stop({**histories, "b": [5, 8, 8]}, "abc", min_iter=2, eta=4, strict=False) == "b"
    later = {**histories, "a": [5, 9, 0]}  # worse than 4 up to the band, better after it
    assert stop(later, "abc", min_iter=2, eta=4, strict=False) == ""


def test_a_value_equal_to_the_threshold_goes_on():
    assert stop({"a": [5], "b": [5], "c": [5]}, "abc", min_iter=1, eta=3) == ""


def test_a_trial_alone_or_without_values_goes_on():
    assert stop({"a": [5, 9, 99]}, "a", min_iter=1) == ""
    assert stop({"a": [], "b": [1]}, "ab", min_iter=1) == ""
    assert Hyperband((1,)).to_stop({}, [7]) == []


@pytest.mark.parametrize("eta", [1.3, 2, 3, 4.5])
def test_of_trials_side_by_side_at_a_band_the_best_share_and_no_other_goes_on(eta):
    generator = random.Random(0)
    for num in range(1, 30):
        costs = {i: [generator.random() for _ in range(4)] for i in range(num)}
        stopped = Hyperband((4,), eta).to_stop(costs, list(costs))
        ranked = sorted(costs, key=lambda i: costs[i][3])
        assert sorted(stopped) == sorted(ranked[int(num / eta) + 1 :])
