"""Whether a sweep has searched widely enough: which ranges have the best trial at an end, and what to search next."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from data.metrics import is_finite

NEAR_AN_END = 0.05  # of the length of a range, on its own scale
FEWEST_TRIALS = 5  # before which the best of them says nothing of the space
FEWEST_VALUES = 3  # of a list, for its first and last to be ends


class Scale(NamedTuple):
    """How a setting is spread over its range."""

    forth: Callable[[float], float]
    back: Callable[[float], float]


LINEAR = Scale(float, float)
LOGARITHMIC = Scale(math.log, math.exp)
SCALES = {
    "uniform": LINEAR,
    "q_uniform": LINEAR,
    "int_uniform": LINEAR,
    "log_uniform_values": LOGARITHMIC,
    "q_log_uniform_values": LOGARITHMIC,
    "inv_log_uniform_values": LOGARITHMIC,
}
NATURAL_ENDS = (0, 1)  # beyond which many settings have no values


def ends_reached(parameters: Any, best: Mapping[str, Any], num_trials: int) -> list[str]:
    """Return a line for each setting whose best value lies at an end of what was searched, with what to search next.

    Args:
        parameters: of the sweep file: setting -> its distribution.
        best: settings of the best trial.
        num_trials: trials that have a value.
    """
    if not isinstance(parameters, Mapping) or num_trials < FEWEST_TRIALS:
        return []
    found = []
    for name, entry in parameters.items():
        if isinstance(entry, Mapping) and is_finite(best.get(name)):
            look = in_list if "values" in entry else in_range
            if line := look(entry, best[name]):
                found.append(f"{name}: the best, {written(best[name])}, lies at the {line}")
    return found


def in_range(entry: Mapping[str, Any], value: float) -> str:
    """Return at which end of a range a value lies, and a range of the same length round that end; "" for none."""
    low, high = entry.get("min", math.nan), entry.get("max", math.nan)
    is_whole = type(low) is int and type(high) is int
    kind = str(entry.get("distribution", "int_uniform" if is_whole else "uniform"))
    scale = SCALES.get(kind)
    if scale is None or not is_finite(low) or not is_finite(high) or low >= high:
        return ""
    if scale is LOGARITHMIC and min(low, value) <= 0:
        return ""
    start, end, place = (scale.forth(each) for each in (low, high, value))
    ends = (("lower", low, place - start), ("upper", high, end - place))
    which, edge, distance = min(ends, key=lambda each: each[2])
    if distance > NEAR_AN_END * (end - start) or (scale is LINEAR and edge in NATURAL_ENDS):
        return ""
    half = (end - start) / 2
    centre = place if distance < 0 else scale.forth(edge)  # one that somebody has enqueued lies beyond
    step = step_of(kind, entry)
    least = -math.inf if low < 0 else step if low >= step else 0.0
    bounds = [max(stepwise(scale.back(centre - half), step, math.floor), least)]
    bounds.append(stepwise(scale.back(centre + half), step, math.ceil))
    if which == "lower" and bounds[0] >= low:
        return ""
    others = {key: entry[key] for key in ("distribution", "q") if key in entry}
    texts = [f"{key}: {written(each)}" for key, each in {**others, "min": bounds[0], "max": bounds[1]}.items()]
    return f"{which} end of {written(low)} to {written(high)}: search {{{', '.join(texts)}}} next"


def step_of(kind: str, entry: Mapping[str, Any]) -> float:
    """Return the step between the values of a range; 0 for any values."""
    step = entry.get("q", 1) if kind.startswith("q_") else int(kind == "int_uniform")
    return step if is_finite(step) and step > 0 else 0


def stepwise(bound: float, step: float, towards: Callable[[float], int]) -> float:
    """Return a bound rounded to a multiple of a step, up or down; as it is for a step of 0."""
    return towards(bound / step) * step if step else bound


def in_list(entry: Mapping[str, Any], value: float) -> str:
    """Return at which end of a list of numbers a value lies, and the list with one more beyond it; "" for none."""
    values = entry["values"]
    if not isinstance(values, Sequence) or not all(is_finite(each) for each in values):
        return ""
    known = sorted(set(values))
    if len(known) < FEWEST_VALUES or value not in (known[0], known[-1]):
        return ""
    is_first = value == known[0]
    neighbour = known[1] if is_first else known[-2]
    is_geometric = known[0] > 0 and known[-1] / known[0] > len(known)
    further = value * value / neighbour if is_geometric else 2 * value - neighbour
    if all(type(each) is int for each in known):
        further = round(further)
    is_natural = further <= 0 if is_geometric else known[0] >= 0 > further or value in NATURAL_ENDS
    if further in known or is_natural:
        return ""
    longer = [further, *known] if is_first else [*known, further]
    listed = ", ".join(map(written, longer))
    return f"{'lower' if is_first else 'upper'} end of its values: search {{values: [{listed}]}} next"


def written(value: Any) -> str:
    """Return a value as YAML reads it again: 1e-5 would be a text, and ends of 1 and 3 those of whole numbers."""
    if not isinstance(value, float):
        return str(value)
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    plain = f"{value:.3g}"
    if "e" in plain or len(plain) >= 7:
        return f"{float(mantissa)}e{int(exponent):+03d}"
    return plain if "." in plain else f"{plain}.0"
