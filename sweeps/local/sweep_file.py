"""A sweep file, W&B's YAML, read and checked."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.distributions import BaseDistribution

from analysis.record import run_folder
from data.errors import UserError, suggestion
from data.paths import default_runs_dir
from sweeps.local.distributions import LARGEST, MOST_VALUES, Parameter, Scalar, grid_parameter, parameter

METHODS = ("bayes", "random", "grid")
GOALS = ("minimize", "maximize")
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
SEARCHED = ("program", "command", "method", "metric", "early_terminate", "parameters")  # what makes a sweep the same
KEYS = (*SEARCHED, "name", "description", "project", "entity", "run_cap", "kind", "apiVersion", "controller")
HYPERBAND_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
MOST_BANDS = 100


def sweep_folder(name: str) -> Path:
    """Folder of a sweep."""
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"sweep name {name!r} names a folder: use letters, digits, - _ and .")
    return default_runs_dir() / run_folder.SWEEPS / name


@dataclass(frozen=True)
class Metric:
    """What a sweep is after."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None  # no trial is started after one that reached it

    def cost(self, value: float) -> float:
        """`value` with the sign at which less is better."""
        return value if self.goal == "minimize" else -value


@dataclass(frozen=True)
class Hyperband:
    """Early termination: at each band, a number of logged values, the best 1/eta of the trials go on."""

    bands: tuple[int, ...]
    eta: float = 3
    strict: bool = True


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says."""

    program: str
    command: tuple[str, ...]
    method: str
    metric: Metric
    hyperband: Hyperband | None
    parameters: Mapping[str, Parameter]
    project: str
    run_cap: int | None
    content: Mapping[str, Any]  # the part that makes two sweeps the same

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """Where Optuna searches the parameters that vary."""
        return {name: entry.space for name, entry in self.parameters.items() if entry.space is not None}

    def grid(self) -> list[dict[str, Scalar]]:
        """All combinations of values, in W&B's order: by name, the last varying fastest."""
        names = sorted(self.parameters)
        values = [self.parameters[name].grid or () for name in names]
        return [dict(zip(names, combination, strict=True)) for combination in itertools.product(*values)]


def read_sweep(path: Path) -> Sweep:
    """The sweep that a YAML file describes.

    Raises:
        UserError: no such file, no YAML, or anything in it that W&B or the agent would not take.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): name a sweep file, such as sweeps/quickstart.yaml"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # the latter from text that is no UTF-8, or a day 32
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no sweep: it needs program, method, metric and parameters")
    try:
        return parse_sweep(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_sweep(content: Mapping[str, Any]) -> Sweep:
    """The sweep that a YAML file's content describes."""
    for key in content:
        if key not in KEYS:
            raise UserError(f"{key} is not a key of a sweep{suggestion(str(key), KEYS)}")
    if content.get("method") not in METHODS:
        raise UserError(f"method {content.get('method')} is none of {', '.join(METHODS)}")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError("parameters: there are none to search")
    for name in parameters:
        if not isinstance(name, str):
            raise UserError(f"parameter {name!r} has no text for a name: YAML reads on, yes and 1 as other things")
    command = content.get("command", COMMAND)
    if not isinstance(command, list | tuple) or not command or not all(isinstance(word, Scalar) for word in command):
        raise UserError(f"command {command!r} is not a list of words")
    program = content.get("program", "")
    if not isinstance(program, str):
        raise UserError(f"program {program!r} is not the name of a file")
    run_cap = content.get("run_cap")
    if run_cap is not None and (type(run_cap) is not int or run_cap < 1):
        raise UserError(f"run_cap {run_cap!r} is not a number of runs")
    metric = parse_metric(content.get("metric"))
    read = grid_parameter if content["method"] == "grid" else parameter
    sweep = Sweep(
        program=program,
        command=tuple(str(word) for word in command),
        method=content["method"],
        metric=metric,
        hyperband=parse_hyperband(content["early_terminate"]) if "early_terminate" in content else None,
        parameters={name: read(name, config) for name, config in parameters.items()},
        project=str(content.get("project", "")),
        run_cap=run_cap,
        content={key: content[key] for key in SEARCHED if key in content},
    )
    if not sweep.program and "${program}" in sweep.command:
        raise UserError("program is missing: write program: train.py")
    if sweep.program and not Path(sweep.program).is_file():
        raise UserError(f"program {sweep.program} is not here: start the agent in the folder that holds it")
    if not sweep.space and sweep.method != "grid":
        raise UserError("parameters: all are constant, so there is nothing to search")
    if sweep.method == "grid":
        num = math.prod(len(entry.grid or ()) for entry in sweep.parameters.values())
        if num > MOST_VALUES:
            raise UserError(f"the grid has {num:,} combinations: take fewer values, or method: random")
    return sweep


def parse_metric(config: Any) -> Metric:
    """The metric section."""
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        raise UserError("metric is missing: write metric: with name: val/loss and goal: minimize")
    goal = config.get("goal", "minimize")
    if goal not in GOALS:
        raise UserError(f"metric goal {goal} is none of {', '.join(GOALS)}")
    if config.get("impute", "worst") != "worst":
        raise UserError(f"metric impute {config['impute']}: a failed trial counts as the worst one, leave it out")
    target = config.get("target")
    if target is not None and type(target) not in (int, float):
        raise UserError(f"metric target {target!r} is not a number")
    if unknown := config.keys() - {"name", "goal", "target", "impute"}:
        raise UserError(f"metric has no {min(unknown, key=str)}")
    return Metric(config["name"], goal, target)


def parse_hyperband(config: Any) -> Hyperband:
    """The early_terminate section."""
    if not isinstance(config, dict) or config.get("type") != "hyperband":
        raise UserError(f"early_terminate {config!r} is not known: write type: hyperband with min_iter: and eta:")
    if unknown := config.keys() - set(HYPERBAND_KEYS):
        raise UserError(f"early_terminate has no {min(unknown, key=str)}; it takes {', '.join(HYPERBAND_KEYS)}")
    for key in ("min_iter", "max_iter", "s", "eta"):
        if key in config and (type(config[key]) not in (int, float) or not abs(config[key]) <= LARGEST):
            raise UserError(f"early_terminate {key} {config[key]!r} is not a number")
    eta = config.get("eta", 3)
    if eta <= 1:
        raise UserError(f"early_terminate eta {eta} must be above 1: the best 1/eta of the trials go on")
    strict = config.get("strict", True)
    if not isinstance(strict, bool):
        raise UserError(f"early_terminate strict {strict!r} is neither true nor false")
    bands: list[int] = []
    if "max_iter" in config and "s" in config:
        band = config["max_iter"] / eta
        while band >= 1 and len(bands) < int(min(config["s"], MOST_BANDS)):
            bands.insert(0, int(band))
            band /= eta
        if not bands:
            raise UserError(f"early_terminate max_iter {config['max_iter']} leaves no band: raise it, or lower eta")
    elif config.get("min_iter", 0) >= 1:
        band = config["min_iter"]
        while band <= LARGEST and len(bands) < MOST_BANDS:
            bands.append(int(band))
            band *= eta
    else:
        raise UserError("early_terminate needs min_iter: of at least 1, or max_iter: and s:")
    return Hyperband(tuple(bands), eta, strict)
