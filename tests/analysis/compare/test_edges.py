"""Where the best trial lies at an end of what a sweep has searched."""

import math

import pytest
import yaml

from analysis.compare.edges import ends_reached
from sweeps.local.distributions import parameter

LR = {"distribution": "log_uniform_values", "min": 1.0e-5, "max": 1.0e-3}
CASES = {
    "lower end, logarithmic": (LR, 1.1e-5, "lower", {"min": 1e-6, "max": 1e-4}),
    "upper end, logarithmic": (LR, 9.9e-4, "upper", {"min": 1e-4, "max": 1e-2}),
    "beyond the upper end": (LR, 1e-2, "upper", {"min": 1e-3, "max": 1e-1}),
    "a natural end, logarithmic": ({**LR, "min": 1e-4, "max": 1.0}, 0.9, "upper", {"min": 1e-2, "max": 1e2}),
    "upper end, linear": ({"min": 0.1, "max": 0.5}, 0.49, "upper", {"min": 0.3, "max": 0.7}),
    "whole numbers": ({"min": 1, "max": 9}, 9, "upper", {"min": 5, "max": 13}),
    "two whole numbers": ({"min": 2, "max": 3}, 2, "lower", {"min": 1, "max": 3}),
    "whole numbers below 0": ({"min": -3, "max": 5}, -3, "lower", {"min": -7, "max": 1}),
    "any numbers": ({**LR, "distribution": "uniform", "min": 2, "max": 3}, 2.02, "lower", {"min": 1.5}),
    "any numbers, logarithmic": ({**LR, "min": 1, "max": 100}, 1.01, "lower", {"min": 0.1, "max": 10}),
    "steps": ({"distribution": "q_uniform", "q": 0.5, "min": 2, "max": 3}, 2, "lower", {"min": 1.5, "max": 2.5}),
    "steps of whole numbers": ({"distribution": "q_uniform", "q": 8, "min": 16, "max": 64}, 64, "upper", {"max": 88}),
    "a list": ({"values": [32, 64, 128]}, 128, "upper", {"values": [32, 64, 128, 256]}),
    "a list of rates": ({"values": [0.1, 0.01, 0.001]}, 0.001, "lower", {"values": [1e-4, 1e-3, 1e-2, 1e-1]}),
    "a list of rates up to 1": ({"values": [0.01, 0.1, 1.0]}, 1.0, "upper", {"values": [0.01, 0.1, 1.0, 10.0]}),
}
QUIET = {
    "the middle": (LR, 1e-4),
    "near, but not at the end": (LR, 2e-5),
    "a natural end": ({"min": 0.0, "max": 0.5}, 0.0),
    "a share": ({"min": 0.0, "max": 1.0}, 1.0),
    "the least step": ({"distribution": "q_log_uniform_values", "q": 8, "min": 8, "max": 256}, 8),
    "a list of factors from 1": ({"values": [1, 2, 4, 8]}, 1),
    "text": ({"values": ["adam", "sgd", "lion"]}, "adam"),
    "two values": ({"values": [64, 128]}, 128),
    "a constant": ({"value": 3}, 3),
    "a bell": ({"distribution": "normal", "mu": 0, "sigma": 1}, 3.0),
    "a distribution that is no name": ({"distribution": ["uniform"], "min": 0.1, "max": 0.5}, 0.5),
    "nonsense": ({"min": "a", "max": 3}, 3),
    "nothing": (None, 3),
}


@pytest.mark.parametrize(("entry", "value", "end", "wider"), CASES.values(), ids=CASES)
def test_an_end_is_told_with_a_range_that_can_be_searched_next(entry, value, end, wider):
    [line] = ends_reached({"x": entry}, {"x": value}, 20)
    assert f"lies at the {end} end" in line
    proposed = yaml.safe_load(line.partition("search ")[2].removesuffix(" next"))
    assert {key: proposed[key] for key in wider} == pytest.approx(wider) if "values" not in wider else True
    assert proposed.get("values", []) == pytest.approx(wider.get("values", []))
    assert parameter("x", proposed)  # as the agent reads it


def test_a_range_of_any_numbers_stays_one_where_its_ends_are_whole():
    [line] = ends_reached({"x": {"min": 0.0, "max": 2.0}}, {"x": 2.0}, 20)
    assert line.endswith("search {min: 1.0, max: 3.0} next")
    assert parameter("x", yaml.safe_load(line.partition("search ")[2].removesuffix(" next"))).grid is None


@pytest.mark.parametrize(("entry", "value"), QUIET.values(), ids=QUIET)
def test_other_settings_are_not_named(entry, value):
    assert ends_reached({"x": entry}, {"x": value}, 20) == []


def test_few_trials_and_foreign_values_say_nothing():
    assert [len(ends_reached({"x": LR}, {"x": 1e-5}, num_trials)) for num_trials in (4, 5)] == [0, 1]
    for settings in ({}, {"x": "high"}, {"x": math.nan}, {"x": 0.0}, {"x": -1.0}):
        assert ends_reached({"x": LR}, settings, 20) == []
    assert ends_reached("text", {"x": 1.0}, 20) == []
