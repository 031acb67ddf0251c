"""Sweep files, in W&B's YAML: read and checked."""

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from data.errors import UserError, suggestion
from data.metrics import GOALS, Metric
from data.yaml_file import read_yaml_file
from sweeps.local.distributions import MOST_VALUES, Parameter, Scalar, grid_parameter, parameter
from sweeps.local.early_terminate import EarlyTerminate, parse_early_terminate

METHODS = ("bayes", "random", "grid")
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
SEARCHED = ("program", "command", "method", "metric", "early_terminate", "parameters")  # what makes a sweep the same
KEYS = (*SEARCHED, "name", "description", "project", "entity", "run_cap", "kind", "apiVersion", "controller")


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Attributes:
        program: what ${program} stands for in the command.
        command: words and macros that start a run.
        method: one of METHODS.
        metric: by which trials are ranked; no trial is started after one that has reached its target.
        early_terminate: which trials are stopped or wait to be promoted; None for none.
        parameters: by name, those that vary and the constants.
        name: of the sweep; empty for the file's.
        project: of W&B; empty for the default.
        run_cap: number of trials; None for no limit.
        content: the part of the file that makes two sweeps the same.
    """

    program: str
    command: tuple[str, ...]
    method: str
    metric: Metric
    early_terminate: EarlyTerminate | None
    parameters: Mapping[str, Parameter]
    name: str
    project: str
    run_cap: int | None
    content: Mapping[str, Any]

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """The parameters that vary, each with the distribution that Optuna searches."""
        return {name: entry.space for name, entry in self.parameters.items() if entry.space is not None}

    def grid(self) -> list[dict[str, Scalar]]:
        """Return all combinations of values in W&B's order: by name, the last varying fastest."""
        names = sorted(self.parameters)
        values = [self.parameters[name].grid or () for name in names]
        return [dict(zip(names, combination, strict=True)) for combination in itertools.product(*values)]

    def best_value(self, trial: FrozenTrial) -> float:
        """Return the best value that a trial has logged; there must be one."""
        return min(trial.intermediate_values.values(), key=self.metric.cost)


def read_sweep(path: Path) -> Sweep:
    """Return the sweep that a YAML file describes.

    Raises:
        UserError: there is no such file, it is no YAML, or it says something that W&B or the agent does not take.
    """
    content = read_yaml_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no sweep: it needs program, method, metric and parameters")
    with naming(path):
        return parse_sweep(content)


def name_of(sweep: Sweep, path: Path, told: str | None = None) -> str:
    """Return the name of a sweep: the one that was told, else its `name:` in the file, else the file's own."""
    return told or sweep.name or path.stem


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a sweep file in errors about what it says."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_sweep(content: Mapping[str, Any]) -> Sweep:
    """Return the sweep that the content of a YAML file describes.

    Raises:
        UserError: as `read_sweep`.
    """
    check_keys(content)
    read = grid_parameter if content["method"] == "grid" else parameter
    sweep = Sweep(
        metric=parse_metric(content.get("metric")),
        program=content.get("program", ""),
        command=tuple(str(word) for word in content.get("command", COMMAND)),
        method=content["method"],
        early_terminate=parse_early_terminate(content["early_terminate"]) if "early_terminate" in content else None,
        parameters={name: read(name, config) for name, config in content["parameters"].items()},
        name=content.get("name", ""),
        project=str(content.get("project", "")),
        run_cap=content.get("run_cap"),
        content={key: content[key] for key in SEARCHED if key in content},
    )
    check_whole(sweep)
    return sweep


def check_keys(content: Mapping[str, Any]) -> None:
    """Refuse keys that a sweep has not, and values of a wrong type."""
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
    if not isinstance(content.get("program", ""), str):
        raise UserError(f"program {content['program']!r} is not the name of a file")
    if not isinstance(content.get("name", ""), str):
        raise UserError(f"name {content['name']!r} is no text: put it in quotes")
    run_cap = content.get("run_cap")
    if run_cap is not None and (type(run_cap) is not int or run_cap < 1):
        raise UserError(f"run_cap {run_cap!r} is not a number of runs")


def check_whole(sweep: Sweep) -> None:
    """Refuse a sweep whose parts do not go together."""
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


def parse_metric(config: Any) -> Metric:
    """Return the metric that the section `metric` of a sweep file describes."""
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
