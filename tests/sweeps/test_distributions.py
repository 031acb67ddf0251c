"""Every W&B distribution against scipy's quantiles and hand arithmetic."""

import math
import random
from collections import Counter

import pytest
from scipy import stats

from data.errors import UserError
from sweeps.local.distributions import DISTRIBUTIONS, MOST_VALUES, grid_parameter, parameter

QUANTILES = (0.0, 1e-6, 0.02, 0.25, 0.5, 0.7, 0.98, 1 - 1e-6, 1.0)
E = math.e


def is_in(space, point):
    return point in space.choices if hasattr(space, "choices") else space.low <= point <= space.high


def at(config, quantile):
    entry = parameter("x", config)
    point = entry.draw(quantile)
    assert is_in(entry.space, point), (config, quantile, point)
    return entry.value(point)


def loguniform(low, high):
    return stats.loguniform(low, high)


CONTINUOUS = [
    ({"distribution": "uniform", "min": -1, "max": 3}, stats.uniform(-1, 4)),
    ({"min": 0.1, "max": 0.7}, stats.uniform(0.1, 0.6)),
    ({"distribution": "log_uniform", "min": -10, "max": -4}, loguniform(E**-10, E**-4)),
    ({"distribution": "log_uniform_values", "min": 1e-5, "max": 10}, loguniform(1e-5, 10)),
    ({"distribution": "inv_log_uniform", "min": 2.0, "max": 5.0}, loguniform(E**-5, E**-2)),
    ({"distribution": "inv_log_uniform_values", "min": 0.2, "max": 8}, loguniform(0.2, 8)),
    ({"distribution": "normal"}, stats.norm(0, 1)),
    ({"distribution": "normal", "mu": 3, "sigma": 0.5}, stats.norm(3, 0.5)),
    ({"distribution": "log_normal"}, stats.lognorm(1)),
    ({"distribution": "log_normal", "mu": -2.0, "sigma": 0.3}, stats.lognorm(0.3, scale=E**-2)),
    ({"distribution": "beta"}, stats.uniform(0, 1)),
    ({"distribution": "beta", "a": 2, "b": 5.0}, stats.beta(2, 5)),
]
QUANTISED = [
    ({"distribution": "q_uniform", "min": -1, "max": 30}, stats.uniform(-1, 31)),
    ({"distribution": "q_log_uniform", "min": 0, "max": 5.0}, loguniform(1, E**5)),
    ({"distribution": "q_log_uniform_values", "min": 0.5, "max": 300}, loguniform(0.5, 300)),
    ({"distribution": "q_normal", "mu": 4, "sigma": 20}, stats.norm(4, 20)),
    ({"distribution": "q_log_normal", "mu": 2.0, "sigma": 1}, stats.lognorm(1, scale=E**2)),
    ({"distribution": "q_beta", "a": 2.0, "b": 0.5}, stats.beta(2, 0.5)),
]


def quantile_of(law, quantile):
    """Ours leaves a millionth off the ends of laws that are searched by their quantile."""
    is_bounded = law.dist.name in ("uniform", "loguniform", "reciprocal")
    return float(law.ppf(quantile if is_bounded else min(max(quantile, 1e-6), 1 - 1e-6)))


@pytest.mark.parametrize(("config", "law"), CONTINUOUS, ids=[str(config) for config, _ in CONTINUOUS])
def test_quantiles_of_numbers_are_those_of_the_named_law(config, law):
    for quantile in QUANTILES:
        if config == {"distribution": "beta"} and quantile in (0, 1):
            continue  # a millionth off its ends, though they are finite
        value = at(config, quantile)
        assert type(value) is float
        assert value == pytest.approx(quantile_of(law, quantile), rel=1e-9, abs=1e-12), quantile


@pytest.mark.parametrize(("config", "law"), QUANTISED, ids=[str(config) for config, _ in QUANTISED])
@pytest.mark.parametrize("q", [None, 1, 5, 0.25, 2.0])
def test_q_rounds_to_multiples_and_a_whole_q_gives_whole_numbers(config, law, q):
    step = q or 1
    for quantile in QUANTILES:
        value = at(config if q is None else {**config, "q": q}, quantile)
        assert type(value) is type(step)
        assert value == round(quantile_of(law, quantile) / step) * step, quantile


def test_every_distribution_is_compared_with_a_law():
    compared = {config.get("distribution", "uniform") for config, _ in CONTINUOUS + QUANTISED}
    assert compared | {"constant", "categorical", "categorical_w_probabilities", "int_uniform"} == set(DISTRIBUTIONS)


def test_half_a_step_rounds_to_the_even_multiple_as_numpy_does():
    assert [at({"distribution": "q_uniform", "min": 0, "max": 4, "q": 1}, x / 8) for x in (1, 3, 5, 7)] == [0, 2, 2, 4]


@pytest.mark.parametrize("config", [{"value": 0.5}, {"distribution": "constant", "value": 0.5}])
def test_a_constant_is_no_dimension_of_the_search(config):
    entry = parameter("x", config)
    assert entry.space is None
    assert entry.value(None) == 0.5


def test_an_int_uniform_reaches_both_ends_and_all_values_equally_often():
    config = {"min": -2, "max": 4}
    assert [at(config, quantile) for quantile in (0.0, 1.0)] == [-2, 4]
    counts = Counter(at(config, (i + 0.5) / 700) for i in range(700))
    assert counts == {value: 100 for value in range(-2, 5)}
    assert type(at(config, 0.4)) is int


@pytest.mark.parametrize("values", [["a", "b", "c", "d"], [1, 0.5, "x", False]])
def test_a_categorical_draws_all_values_equally_often(values):
    counts = Counter(at({"values": values}, (i + 0.5) / 400) for i in range(400))
    assert counts == {value: 100 for value in values}
    assert at({"values": values}, 1.0) == values[-1]


@pytest.mark.parametrize("kind", [{}, {"distribution": "categorical_w_probabilities"}])
def test_probabilities_are_how_often_a_value_is_drawn(kind):
    config = {**kind, "values": ["never", "a", "b", "nor"], "probabilities": [0, 0.25, 0.75, 0]}
    counts = Counter(at(config, (i + 0.5) / 400) for i in range(400))
    assert counts == {"a": 100, "b": 300}
    assert (at(config, 0.0), at(config, 1.0)) == ("a", "b")


def test_bounds_without_a_distribution_imply_it_by_their_type():
    assert type(at({"min": 1, "max": 9}, 0.3)) is int
    assert type(at({"min": 1.0, "max": 9.0}, 0.3)) is float
    assert at({"min": 0, "max": 0.5}, 0.5) == 0.25
    assert at({"min": 0.5, "max": 1}, 0.5) == 0.75


def test_probabilities_may_be_as_inexact_as_wandb_lets_them_be():
    config = {"values": ["a", "b", "c"], "probabilities": [0.333333] * 3}
    assert [at(config, quantile) for quantile in (0.0, 0.5, 1.0)] == ["a", "b", "c"]
    for few in (0.33333, 0.3333):
        with pytest.raises(UserError, match="sum to 1"):
            parameter("x", {**config, "probabilities": [few, few, few - 1e-5]})


@pytest.mark.parametrize(
    ("low", "high", "q", "expected"),
    [
        (0.5, 0.8, 0.1, [0.5, 0.6, 0.7, 0.8]),  # by rounding, W&B's engine runs the upper end here,
        (0.1, 0.4, 0.1, [0.1, 0.2, 0.3, 0.4]),
        (0.1, 0.3, 0.1, [0.1, 0.2]),  # but not here
        (0, 1, 0.25, [0.0, 0.25, 0.5, 0.75]),
    ],
)
def test_a_grid_over_a_quniform_has_the_values_that_wandb_runs(low, high, q, expected):
    """The expected values are those of PyPI's sweeps 0.3.0, W&B's own engine."""
    entry = grid_parameter("x", {"distribution": "q_uniform", "min": low, "max": high, "q": q})
    assert list(entry.grid) == pytest.approx(expected)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.7), (-3.0, -0.9), (1e-5, 3e-4), (0.018, 0.0183), (-1e100, 1e100)])
def test_no_draw_leaves_the_bounds_by_rounding(low, high):
    generator = random.Random(0)
    kinds = ["uniform"] + ["log_uniform_values"] * (low > 0)
    for quantile in [0.0, 1.0, 1 - 2**-53] + [generator.random() for _ in range(200)]:
        for kind in kinds:
            assert low <= at({"distribution": kind, "min": low, "max": high}, quantile) <= high


def test_a_grid_takes_a_quniform_s_values_unrounded_and_without_its_upper_end_as_numpy_arange():
    assert list(grid_parameter("x", {"distribution": "q_uniform", "min": 0.5, "max": 3.5, "q": 1}).grid) == [
        0.5,
        1.5,
        2.5,
    ]
    whole = grid_parameter("x", {"distribution": "q_uniform", "min": 16, "max": 64, "q": 16})
    assert [(value, type(value)) for value in whole.grid] == [(16, int), (32, int), (48, int)]
    assert [whole.value(value) for value in whole.grid] == [16, 32, 48]
    assert list(grid_parameter("x", {"min": 3, "max": 5}).grid) == [3, 4, 5]


@pytest.mark.parametrize(
    "config",
    [
        {"min": 0.0, "max": 1.0},
        {"distribution": "normal"},
        {"values": [1, 2], "probabilities": [0.5, 0.5]},
        {"min": 0, "max": MOST_VALUES},
        {"distribution": "q_uniform", "min": 0, "max": 1, "q": 1e-9},
    ],
    ids=str,
)
def test_a_grid_refuses_what_it_cannot_go_through(config):
    with pytest.raises(UserError, match="parameter x .*grid"):
        grid_parameter("x", config)


def test_a_fine_quniform_costs_a_search_nothing():
    assert 0 <= at({"distribution": "q_uniform", "min": 0, "max": 1e12, "q": 1e-6}, 0.5) <= 1e12


REFUSED = [
    (3, "3 is not understood: write value:, values: or min: and max:"),
    (None, "None is not understood"),
    ({}, "needs value:, values:, or min: and max:"),
    ({"min": 1}, "needs value:, values:, or min: and max:"),
    (
        {"distribution": "log_unifrom_values", "min": 1, "max": 2},
        "log_unifrom_values .*you mean log_uniform_values",
    ),
    ({"distribution": ["uniform"], "min": 1, "max": 2}, r"\['uniform'\] is not known"),
    ({"distribution": None, "min": 1, "max": 2}, "None is not known"),
    ({"distribution": "uniform", "min": 1}, "uniform needs max"),
    ({"distribution": "categorical_w_probabilities", "values": [1]}, "needs probabilities"),
    ({"distribution": "uniform", "min": 1, "max": 2, "q": 1}, "uniform has no q; it takes min, max"),
    ({"value": 1, "min": 0}, "constant has no min; it takes value"),
    ({"values": [1], 3: 4}, "categorical has no 3"),
    ({"distribution": "uniform", "min": "1e-3", "max": 1}, "min '1e-3' is not a number; .* write 1.0e-3"),
    ({"min": "1e-3", "max": 1.0}, "YAML reads 1e-3 as text"),
    ({"distribution": "uniform", "min": True, "max": 2}, "min True is not a number"),
    ({"min": False, "max": True}, "needs"),
    ({"distribution": "uniform", "min": 0, "max": math.inf}, "max inf is not a number"),
    ({"distribution": "uniform", "min": math.nan, "max": 1}, "min nan is not a number"),
    ({"distribution": "uniform", "min": 0, "max": 10**400}, "max 1000.* is not a number"),
    ({"min": 2, "max": 2}, "min 2 is not below max 2"),
    ({"min": 2.5, "max": 1.5}, "min 2.5 is not below max 1.5"),
    ({"min": 1, "max": "2.5"}, "needs value:, values:, or min: and max:"),
    ({"distribution": "log_uniform", "min": 1e-4, "max": 0.1}, "are exponents of e: .* write log_uniform_values"),
    ({"distribution": "q_log_uniform", "min": 1, "max": 100}, "write q_log_uniform_values"),
    ({"distribution": "inv_log_uniform", "min": 0.1, "max": 0.5}, "write inv_log_uniform_values"),
    ({"distribution": "int_uniform", "min": 1, "max": 2.5}, "max 2.5 of int_uniform are whole numbers"),
    ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "min 0 of log_uniform_values must be above 0"),
    ({"distribution": "inv_log_uniform_values", "min": -1.0, "max": 1}, "min -1.0 .* must be above 0"),
    ({"distribution": "log_uniform", "min": 1, "max": 5000}, "max 5000 of log_uniform is an exponent of e"),
    ({"distribution": "log_normal", "mu": 5000}, "mu 5000 of log_normal is an exponent of e"),
    ({"distribution": "log_normal", "sigma": 1e6}, "inf would be one of its values"),
    ({"distribution": "q_uniform", "min": 0, "max": 9, "q": 0}, "q 0 must be above 0"),
    ({"distribution": "normal", "sigma": -1}, "sigma -1 must be above 0"),
    ({"distribution": "beta", "a": 0.0}, "a 0.0 must be above 0"),
    ({"value": [1, 2]}, r"\[1, 2\] is no setting"),
    ({"value": None}, "None is no setting"),
    ({"values": [[1], [2]]}, r"\[1\] is no setting"),
    ({"values": []}, r"values \[\] is not a list of values"),
    ({"values": "adam"}, "values 'adam' is not a list"),
    ({"values": [1, 2, 1]}, r"\[1, 2, 1\] repeat one"),
    ({"values": [True, 1]}, "repeat one .true equals 1"),
    ({"values": [1, 2], "probabilities": [0.5, 0.4]}, r"\[0.5, 0.4\] are not 2 shares that sum to 1"),
    ({"values": [1, 2], "probabilities": [1]}, "are not 2 shares"),
    ({"values": [1, 2], "probabilities": [1.5, -0.5]}, "are not 2 shares"),
    ({"values": [1, 2], "probabilities": ["0.5", 0.5]}, "are not 2 shares"),
    ({"values": [1, 2], "probabilities": 1}, "probabilities 1 are not"),
    ({"values": [1], "probabilities": [True]}, "are not 1 shares"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_a_mistake_is_told_with_the_parameter_the_value_and_the_remedy(config, message):
    with pytest.raises(UserError, match=f"^parameter x.*{message}") as told:
        parameter("x", config)
    assert "\n" not in str(told.value)


def garbage(generator):
    """Anything that YAML can hold, numbers more often than not."""
    odd = [None, True, "", "1e-3", [], [1], [[1]], {}, {"value": 1}, 10**400, math.inf, math.nan, 1e308, -1e308, 5e-324]
    return generator.choice([*odd, *(generator.uniform(-5, 5) for _ in odd), *(generator.randint(-5, 5) for _ in odd)])


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_of_random_entries_each_is_refused_or_gives_finite_values_within_bounds():
    generator = random.Random(0)
    num_taken = 0
    for _ in range(1500):
        kind = generator.choice(list(DISTRIBUTIONS))
        keys = [
            key for key in (*DISTRIBUTIONS[kind].required, *DISTRIBUTIONS[kind].optional) if generator.random() < 0.95
        ]
        config = {"distribution": kind, **{key: garbage(generator) for key in keys}}
        try:
            entry = parameter("x", config)
        except UserError:
            continue
        num_taken += 1
        if entry.space is not None and "values" not in config:
            assert all(math.isfinite(at(config, quantile)) for quantile in QUANTILES)
    assert num_taken > 150


def test_a_value_of_no_probability_is_neither_drawn_nor_searched():
    entry = parameter("x", {"values": ["a", "b", "c"], "probabilities": [0.5, 0, 0.5]})
    assert entry.space.choices == ("a", "c")
    assert {entry.draw(quantile) for quantile in QUANTILES} == {"a", "c"}
