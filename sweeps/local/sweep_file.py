"""Sweep files, in W&B's YAML: read and checked."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.read.sweep_command import place_of
from data.errors import UserError, suggestion
from data.yaml_file import read_yaml_file
from models.setting_groups import entries
from sweeps.local.distributions import MOST_VALUES, Parameter, Scalar, grid_parameter, parameter
from sweeps.local.early_terminate import parse_early_terminate
from sweeps.local.objectives import parse_objectives
from sweeps.local.sweep import METHODS, Sweep

CUSTOM = "custom"  # W&B's word for the method of a scheduler of one's own; that of sweeps/scheduler.py is bayes
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
# What makes a sweep the same:
SEARCHED = ("program", "command", "method", "metric", "metrics", "early_terminate", "parameters")
OTHERS = ("name", "description", "project", "entity", "run_cap", "kind", "apiVersion", "controller", "scheduler")
OURS = ("repeats", "folds")  # W&B warns of it, and goes on without
KEYS = (*SEARCHED, *OTHERS, *OURS)


def read_sweep_file(path: Path) -> Sweep:
    """Return the sweep that a YAML file describes.

    Raises:
        UserError: there is no such file, it is no YAML, or it says something that W&B or the agent does not take.
    """
    content = read_yaml_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no sweep: it needs program, method, metric and parameters")
    with naming(path):
        return parse_sweep(content)


def name_of(sweep: Sweep, path: Path, told: str | None) -> str:
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
        UserError: as `read_sweep_file`.
    """
    check_keys(content)
    is_grid = content["method"] == "grid"
    sweep = Sweep(
        objectives=parse_objectives(content),
        program=content.get("program", ""),
        command=tuple(str(word) for word in content.get("command", COMMAND)),
        method="bayes" if content["method"] == CUSTOM else content["method"],
        early_terminate=parse_early_terminate(content["early_terminate"]) if "early_terminate" in content else None,
        parameters=parse_parameters(content["parameters"], grid_parameter if is_grid else parameter),
        name=content.get("name", ""),
        place=place_of(content),
        run_cap=content.get("run_cap"),
        content={key: content[key] for key in SEARCHED if key in content},
        repeats=content.get("folds") or content.get("repeats") or 1,
        folds=content.get("folds") or 0,
    )
    check_whole(sweep)
    return sweep


def parse_parameters(content: Mapping[Any, Any], read: Callable[[str, Any], Parameter]) -> dict[str, Parameter]:
    """Return the parameters that the section `parameters` of a sweep file describes, those in groups among them.

    Args:
        content: of the section.
        read: returns a parameter by its name and its entry.
    """
    parameters: dict[str, Parameter] = {}
    for path, config in entries(content):
        for name in path:
            if not isinstance(name, str):
                raise UserError(f"parameter {name!r} has no text for a name: YAML reads on, yes and 1 as other things")
        name = ".".join(path)
        if name in parameters:
            raise UserError(f"parameter {name} is given twice, in a group and with a dot in its name: leave one out")
        parameters[name] = replace(read(name, config), path=path)
    return parameters


def check_keys(content: Mapping[str, Any]) -> None:
    """Refuse keys that a sweep has not, and values of a wrong type."""
    if content and not set(content) & set(KEYS):
        raise UserError("it holds no key of a sweep; if it holds settings, train them: python train.py --config=FILE")
    for key in content:
        if key not in KEYS:
            raise UserError(f"{key} is not a key of a sweep{suggestion(str(key), KEYS)}")
    if content.get("method") not in METHODS and not (content.get("method") == CUSTOM and "scheduler" in content):
        raise UserError(f"method {content.get('method')} is none of {', '.join(METHODS)}")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError("parameters: there are none to search")
    command = content.get("command", COMMAND)
    if not isinstance(command, list | tuple) or not command or not all(isinstance(word, Scalar) for word in command):
        raise UserError(f"command {command!r} is not a list of words")
    if not isinstance(content.get("program", ""), str):
        raise UserError(f"program {content['program']!r} is not the name of a file")
    if not isinstance(content.get("name", ""), str):
        raise UserError(f"name {content['name']!r} is no text: put it in quotes")
    if all(content.get(key) for key in OURS):
        raise UserError(f"{' and '.join(OURS)} each say what a trial's runs are: leave one of them out")
    for key in ("run_cap", *OURS):
        num = content.get(key)
        if num is not None and (type(num) is not int or num < 1):
            raise UserError(f"{key} {num!r} is not a number of runs: write {key}: 3, or leave it out")


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
