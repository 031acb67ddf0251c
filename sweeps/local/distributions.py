"""The distributions of W&B's sweep files, mapped to distributions that Optuna searches.

Optuna proposes a point of its distribution, and the parameter's value is computed from the point. The point is the
value itself where Optuna has the same distribution, the value before rounding for the q_ distributions, and the
quantile for distributions without bounds.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import stats

from data.errors import UserError, suggestion

Scalar = bool | int | float | str
Point = Any  # a value of a parameter's Optuna distribution
QUANTILES = FloatDistribution(1e-6, 1 - 1e-6)  # without the ends, at which some distributions are infinite
LARGEST, SMALLEST = 1e100, 1e-100  # of the numbers in a sweep file, so that what is computed from them is finite
MOST_VALUES = 100_000  # of a grid


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep.

    Attributes:
        name: name of the setting.
        space: the distribution that Optuna searches; None for a constant.
        draw: returns the point at a quantile in [0, 1] of W&B's distribution.
        value: returns the setting's value at a point.
        grid: all values, if they are finite in number and equally likely.
        path: names of the groups round it in the sweep file, the outermost first, and its own; empty for no groups.
        only_for: values of the sweep's chooser with which it applies; None where it always does.
    """

    name: str
    space: BaseDistribution | None
    draw: Callable[[float], Point]
    value: Callable[[Point], Scalar]
    grid: Sequence[Scalar] | None = None
    path: tuple[str, ...] = ()
    only_for: frozenset[Scalar] | None = None

    @property
    def place(self) -> tuple[str, ...]:
        """Where it stands in the sweep file."""
        return self.path or (self.name,)

    def applies(self, choice: Scalar | None) -> bool:
        """Return whether it applies with that value of the sweep's chooser."""
        return self.only_for is None or choice in self.only_for


def parameter(name: str, config: Any) -> Parameter:
    """Return the parameter that an entry of a sweep file's `parameters` describes.

    Raises:
        UserError: an unknown distribution or key, a missing key, or bounds that contradict each other.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"parameter {name}: {config!r} is not understood: write value:, values: or min: and max:")
    kind = config["distribution"] if "distribution" in config else implied_distribution(name, config)
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise UserError(f"parameter {name}: distribution {kind} is not known{suggestion(kind, DISTRIBUTIONS)}: {known}")
    required, optional, build = DISTRIBUTIONS[kind]
    given = {key: value for key, value in config.items() if key != "distribution"}
    for key in required:
        if key not in given:
            raise UserError(f"parameter {name}: {kind} needs {key}")
    for key in given:
        if key not in (*required, *optional):
            raise UserError(f"parameter {name}: {kind} has no {key}; it takes {', '.join((*required, *optional))}")
    check_numbers(name, kind, given)
    return build(name, **{**optional, **given})


def grid_parameter(name: str, config: Any) -> Parameter:
    """Return the parameter of a grid that an entry describes; like W&B, it takes the values as they are, unrounded.

    Raises:
        UserError: as `parameter`, or the parameter has infinitely many values.
    """
    entry = parameter(name, config)
    if entry.grid is None:
        raise UserError(
            f"parameter {name} has no end of values: a grid takes values: (equally likely), int_uniform or q_uniform"
        )
    if len(entry.grid) > MOST_VALUES:
        raise UserError(f"parameter {name} has {len(entry.grid):,} values, too many for a grid")
    return entry if entry.space is None else categorical(name, list(entry.grid))


def implied_distribution(name: str, config: Mapping[str, Any]) -> str:
    """Return the distribution of an entry that names none, by the keys that it has."""
    for key, kind in (
        ("value", "constant"),
        ("probabilities", "categorical_w_probabilities"),
        ("values", "categorical"),
    ):
        if key in config:
            return kind
    types = {type(config.get("min")), type(config.get("max"))}
    if types == {int}:
        return "int_uniform"
    if types <= {int, float}:
        return "uniform"
    raise UserError(f"parameter {name} needs value:, values:, or min: and max: (numbers; YAML reads 1e-3 as text)")


def check_numbers(name: str, kind: str, given: Mapping[str, Any]) -> None:
    """Refuse bounds and shapes that are not numbers, or contradict each other."""
    for key, value in given.items():
        if key in ("value", "values", "probabilities"):
            continue
        if type(value) not in (int, float) or not abs(value) <= LARGEST:
            raise UserError(f"parameter {name}: {key} {value!r} is not a number; YAML reads 1e-3 as text, write 1.0e-3")
        if key in ("q", "sigma", "a", "b") and value < SMALLEST:
            raise UserError(f"parameter {name}: {key} {value} must be above 0")
    if "min" in given and given["min"] >= given["max"]:
        raise UserError(f"parameter {name}: min {given['min']} is not below max {given['max']}")
    if kind.endswith("_values") and given["min"] < SMALLEST:
        raise UserError(f"parameter {name}: min {given['min']} of {kind} must be above 0, it has a logarithm")
    if kind.endswith(("log_uniform", "log_normal")):
        for key in ("min", "max", "mu"):
            if abs(given.get(key, 0)) > math.log(LARGEST):
                raise UserError(
                    f"parameter {name}: {key} {given[key]} of {kind} is an exponent of e: take the logarithm"
                )
    if kind.endswith("log_uniform") and look_like_values(given["min"], given["max"]):
        raise UserError(
            f"parameter {name}: min {given['min']} and max {given['max']} of {kind} are exponents of e: if values are "
            f"meant, write {kind}_values"
        )
    if kind == "int_uniform" and {type(given["min"]), type(given["max"])} != {int}:
        raise UserError(f"parameter {name}: min {given['min']} and max {given['max']} of int_uniform are whole numbers")


def look_like_values(min: float, max: float) -> bool:
    """Return whether bounds that should be exponents of e look like values, such as 1e-4 and 0.1, or 1 and 100."""
    return min > 0 and (max <= 1 or max >= 10 * min)


def constant(name: str, value: Any) -> Parameter:
    """Return a parameter that always has the same value."""
    check_scalar(name, value)
    return Parameter(name, None, lambda quantile: value, lambda point: value, (value,))


def categorical(name: str, values: Any, probabilities: Any = None) -> Parameter:
    """Return a parameter that has one of several values."""
    if not isinstance(values, list) or not values:
        raise UserError(f"parameter {name}: values {values!r} is not a list of values")
    for value in values:
        check_scalar(name, value)
    weights = probabilities if probabilities is not None else [1 / len(values)] * len(values)
    if not are_shares(weights, len(values)):
        raise UserError(f"parameter {name}: probabilities {weights} are not {len(values)} shares that sum to 1")
    if len(set(values)) < len(values):
        raise UserError(f"parameter {name}: values {values} repeat one (true equals 1, and 1 equals 1.0)")
    ends = zip(itertools.accumulate(weights), values, weights, strict=True)
    drawn = [(end, value) for end, value, weight in ends if weight > 0]

    def draw(quantile: float) -> Scalar:
        return next((value for end, value in drawn if quantile < end), drawn[-1][1])

    grid = tuple(values) if probabilities is None else None
    space = CategoricalDistribution([value for _, value in drawn])  # no search proposes what is never drawn
    return Parameter(name, space, draw, lambda point: point, grid)


def are_shares(weights: Any, num: int) -> bool:
    """Return whether these are `num` shares that sum to 1."""
    if not isinstance(weights, list) or len(weights) != num:
        return False
    if any(type(weight) not in (int, float) or not 0 <= weight <= LARGEST for weight in weights):
        return False
    return abs(sum(weights) - 1) <= 1e-5  # as exact as W&B wants it: 0.333333 three times will do


def int_uniform(name: str, min: int, max: int) -> Parameter:
    """Return a parameter that is a whole number, both ends included."""
    space = IntDistribution(min, max)

    def draw(quantile: float) -> int:
        return space.low + int(quantile * (max - min + 1) * (1 - 1e-12))

    return Parameter(name, space, draw, lambda point: point, range(min, max + 1))


def uniform(name: str, min: float, max: float, q: float | None = None) -> Parameter:
    """Return a parameter that is a number or, with `q`, a number rounded to a multiple of q."""
    grid = None
    if q is not None:
        is_short = (max - min) / q <= MOST_VALUES
        grid = tuple(np.arange(min, max, q).tolist()) if is_short else None  # as W&B's; rounding may add the upper end
    space = FloatDistribution(float(min), float(max))
    return Parameter(name, space, lambda quantile: within(space, min + quantile * (max - min)), quantised(q), grid)


def log_uniform(name: str, min: float, max: float, q: float | None = None) -> Parameter:
    """Return a parameter whose logarithm is uniform; the ends are those of the number, not of its logarithm."""
    low, high = math.log(min), math.log(max)
    space = FloatDistribution(float(min), float(max), log=True)

    def draw(quantile: float) -> float:
        return within(space, math.exp(low + quantile * (high - low)))

    return Parameter(name, space, draw, quantised(q))


def within(space: FloatDistribution, point: float) -> float:
    """Return `point`, or the end that rounding has carried it past."""
    return min(max(point, space.low), space.high)


def unbounded(name: str, ppf: Callable[[float], float], q: float | None) -> Parameter:
    """Return the parameter of a distribution without bounds, such as a normal one.

    A search needs bounds. So it does not choose the value, but the share of the distribution that lies below it, its
    quantile, which is a number from 0 to 1.

    Args:
        name: of the parameter, for messages.
        ppf: function from a quantile to the value: the inverse of the distribution function.
        q: step to whose multiples values are rounded; None for no rounding.

    Raises:
        UserError: the distribution is so wide that a value would be too large for a setting.
    """
    value = quantised(q)
    for quantile in (QUANTILES.low, QUANTILES.high):
        with np.errstate(over="ignore"):
            end = float(ppf(quantile))
        if not abs(end) <= LARGEST * LARGEST:
            raise UserError(f"parameter {name}: {end} would be one of its values: give it narrower ones")
    return Parameter(
        name, QUANTILES, lambda quantile: within(QUANTILES, quantile), lambda point: value(float(ppf(point)))
    )


def quantised(q: float | None) -> Callable[[Point], Scalar]:
    """Return the function that rounds to multiples of `q`; without a q it changes nothing."""
    return (lambda point: point) if q is None else (lambda point: rounded(point, q))


def rounded(number: float, q: float) -> int | float:
    """Return the multiple of `q` nearest to `number`, computed as W&B does; for a whole q a whole number."""
    return round(number / q) * q


def check_scalar(name: str, value: Any) -> None:
    """Refuse what cannot be a setting: lists, dicts and nothing."""
    if not isinstance(value, Scalar):
        raise UserError(f"parameter {name}: {value!r} is no setting: a number, a text, true or false is")


class Distribution(NamedTuple):
    """One of W&B's distributions: its keys, and the function that makes a parameter of their values."""

    required: tuple[str, ...]
    optional: Mapping[str, float]
    build: Callable[..., Parameter]


BOUNDS = ("min", "max")
GAUSS = {"mu": 0.0, "sigma": 1.0}
BETA = {"a": 1.0, "b": 1.0}
Q = {"q": 1}


def log_uniform_exponents(name: str, min: float, max: float, q: float | None = None) -> Parameter:
    """Return a `log_uniform` parameter whose ends are given as exponents of e."""
    return log_uniform(name, math.exp(min), math.exp(max), q)


def inv_log_uniform_exponents(name: str, min: float, max: float) -> Parameter:
    """Return a parameter that is one over a `log_uniform_exponents` parameter."""
    return log_uniform(name, math.exp(-max), math.exp(-min))


def normal(name: str, mu: float, sigma: float, q: float | None = None) -> Parameter:
    """Return a parameter with a normal distribution."""
    return unbounded(name, stats.norm(mu, sigma).ppf, q)


def log_normal(name: str, mu: float, sigma: float, q: float | None = None) -> Parameter:
    """Return a parameter whose logarithm has a normal distribution."""
    return unbounded(name, stats.lognorm(s=sigma, scale=math.exp(mu)).ppf, q)


def beta(name: str, a: float, b: float, q: float | None = None) -> Parameter:
    """Return a parameter between 0 and 1 with a beta distribution."""
    return unbounded(name, stats.beta(a, b).ppf, q)


DISTRIBUTIONS = {
    "constant": Distribution(("value",), {}, constant),
    "categorical": Distribution(("values",), {}, categorical),
    "categorical_w_probabilities": Distribution(("values", "probabilities"), {}, categorical),
    "int_uniform": Distribution(BOUNDS, {}, int_uniform),
    "uniform": Distribution(BOUNDS, {}, uniform),
    "q_uniform": Distribution(BOUNDS, Q, uniform),
    "log_uniform": Distribution(BOUNDS, {}, log_uniform_exponents),
    "q_log_uniform": Distribution(BOUNDS, Q, log_uniform_exponents),
    "log_uniform_values": Distribution(BOUNDS, {}, log_uniform),
    "q_log_uniform_values": Distribution(BOUNDS, Q, log_uniform),
    "inv_log_uniform": Distribution(BOUNDS, {}, inv_log_uniform_exponents),
    "inv_log_uniform_values": Distribution(BOUNDS, {}, log_uniform),  # by W&B's own formula the same
    "normal": Distribution((), GAUSS, normal),
    "q_normal": Distribution((), GAUSS | Q, normal),
    "log_normal": Distribution((), GAUSS, log_normal),
    "q_log_normal": Distribution((), GAUSS | Q, log_normal),
    "beta": Distribution((), BETA, beta),
    "q_beta": Distribution((), BETA | Q, beta),
}
