"""Functions of settings whose best value is known, and tables of real trainings, to compare searches on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from data.files import read_json
from tests.search_quality.record import FOLDER

Settings = Mapping[str, Any]
LR = {"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1}


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Attributes:
        parameters: as in a sweep file.
        value: of settings, the lower the better; what a search is told.
        best: the lowest value there is, which the table subtracts.
        noise: standard deviation of what is added to a value as a search is told it; the table has it without.
    """

    parameters: Mapping[str, Any]
    value: Callable[[Settings], float]
    best: float = 0.0
    noise: float = 0.0


def unit(num: int) -> dict[str, Any]:
    """Return the parameters of a function of the unit cube."""
    return {f"x{i}": {"min": 0.0, "max": 1.0} for i in range(num)}


def branin(s: Settings) -> float:
    """Return Branin's function, which has three equally low minima."""
    x, y = s["x"], s["y"]
    return (
        (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10
    )


ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
A3 = np.array([[3, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]])
P3 = 1e-4 * np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]])
A6 = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
P6 = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(a: np.ndarray, p: np.ndarray, s: Settings) -> float:
    """Return Hartmann's function, with four basins, one of them the deepest."""
    x = np.array([s[f"x{i}"] for i in range(a.shape[1])])
    return -float(ALPHA @ np.exp(-(a * (x - p) ** 2).sum(1)))


def ackley(s: Settings) -> float:
    """Return Ackley's function: a funnel with many shallow holes in its walls; its bottom lies off the middle."""
    x = np.array([s[f"x{i}"] for i in range(4)]) - 3.7
    return float(20 - 20 * np.exp(-0.2 * np.sqrt((x**2).mean())) + math.e - np.exp(np.cos(2 * math.pi * x).mean()))


def valley(s: Settings) -> float:
    """Return a loss like that of a classifier by learning rate, weight decay and momentum.

    It lies in a narrow valley, since what counts is the learning rate over 1 - momentum, and rises steeply where that
    is too high.
    """
    rate = math.log10(s["lr"] / (1 - s["momentum"])) + 2
    steep = 0.15 * rate**2 if rate < 0 else min(0.5 * rate**2, 1.6)
    return steep + 0.02 * (math.log10(s["weight_decay"]) + 3.5) ** 2 + 0.1 * (s["momentum"] - 0.85) ** 2


def mixed(s: Settings) -> float:
    """Return a function of settings of five kinds; the best learning rate depends on the optimizer."""
    best_rate, extra = {"sgd": (-1.5, 0.1), "adam": (-3.0, 0.05), "adamw": (-2.7, 0.0)}[s["optimizer"]]
    return (
        0.5 * (math.log10(s["lr"]) - best_rate) ** 2
        + 3 * (s["dropout"] - 0.3) ** 2
        + 0.05 * (s["num_layers"] - 5) ** 2
        + 0.5 * ((s["width"] - 160) / 128) ** 2
        + extra
    )


def choices(s: Settings) -> float:
    """Return a function of choices without any order; two of them matter together."""
    together = 0.0 if (s["optimizer"], s["schedule"]) in (("adamw", "cosine"), ("sgd", "one_cycle")) else 0.4
    costs = {"norm": "batch layer group none", "activation": "gelu silu relu tanh", "pooling": "mean max attention"}
    return (
        together
        + sum(0.15 * costs[name].split().index(s[name]) for name in costs)
        + {"adamw": 0.0, "sgd": 0.05, "adam": 0.1, "lion": 0.2}[s["optimizer"]]
    )


@cache
def interpolators(name: str) -> tuple[dict[str, Any], dict[Any, RegularGridInterpolator]]:
    """Return a table of real trainings, and for each of its choices what interpolates between its points."""
    table = read_json(FOLDER / f"{name}_digits.json")
    axes: dict[str, list[Any]] = table["axes"]
    losses = np.array(table["losses"]).reshape([len(values) for values in axes.values()])
    options = axes.get("optimizer", [None])
    numbers = [[position(axis, value) for value in values] for axis, values in axes.items() if axis != "optimizer"]
    losses = np.moveaxis(losses, list(axes).index("optimizer"), 0) if "optimizer" in axes else losses[None]
    return axes, {option: RegularGridInterpolator(numbers, each) for option, each in zip(options, losses, strict=True)}


def position(name: str, value: float) -> float:
    """Return where a value lies on its axis."""
    return value if name == "dropout" else math.log(value)


def trained(name: str, s: Settings) -> float:
    """Return the loss of a training, interpolated between those that were recorded."""
    axes, found = interpolators(name)
    point = [position(axis, s[axis]) for axis in axes if axis != "optimizer"]
    return float(found[s.get("optimizer")](point)[0])


def table_problem(name: str) -> Problem:
    """Return the search of a table of real trainings, whose lowest value lies at a point of the grid."""
    axes = read_json(FOLDER / f"{name}_digits.json")["axes"]
    spaces: dict[str, Any] = {}
    for axis, values in axes.items():
        if axis == "optimizer":
            spaces[axis] = {"values": values}
        else:
            scale = {"distribution": "log_uniform_values"} if axis in ("lr", "weight_decay") else {}
            spaces[axis] = {**scale, "min": values[0], "max": values[-1]}
    best = min(read_json(FOLDER / f"{name}_digits.json")["losses"])
    return Problem(spaces, partial(trained, name), best)


def problems() -> dict[str, Problem]:
    """Return all of them, by name."""
    mixed_space = {
        "lr": LR,
        "dropout": {"min": 0.0, "max": 0.8},
        "num_layers": {"min": 1, "max": 8},
        "width": {"distribution": "q_uniform", "min": 16, "max": 256, "q": 16},
        "optimizer": {"values": ["sgd", "adam", "adamw"]},
    }
    valley_space = {
        "lr": LR,
        "weight_decay": {"distribution": "log_uniform_values", "min": 1e-6, "max": 0.01},
        "momentum": {"min": 0.5, "max": 0.99},
    }
    choice_space = {
        "optimizer": {"values": ["sgd", "adam", "adamw", "lion"]},
        "schedule": {"values": ["constant", "cosine", "one_cycle"]},
        "norm": {"values": ["none", "group", "batch", "layer"]},
        "activation": {"values": ["relu", "tanh", "gelu", "silu"]},
        "pooling": {"values": ["max", "attention", "mean"]},
    }
    return {
        "branin": Problem({"x": {"min": -5.0, "max": 10.0}, "y": {"min": 0.0, "max": 15.0}}, branin, 0.397887),
        "hartmann 3": Problem(unit(3), partial(hartmann, A3, P3), -3.86278),
        "hartmann 6": Problem(unit(6), partial(hartmann, A6, P6), -3.32237),
        "ackley 4": Problem({f"x{i}": {"min": -10.0, "max": 20.0} for i in range(4)}, ackley),
        "valley": Problem(valley_space, valley),
        "mixed": Problem(mixed_space, mixed),
        "mixed, noisy": Problem(mixed_space, mixed, noise=0.1),
        "choices": Problem(choice_space, choices),
        "mlp on digits": table_problem("mlp"),
        "cnn on digits": table_problem("cnn"),
    }
