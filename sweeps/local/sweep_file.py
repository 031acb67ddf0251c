"""Sweep files, in W&B's YAML: read and checked."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.read.sweep_command import model_of_command, place_of
from data.errors import UserError, suggestion
from data.metrics import Metric
from data.yaml_file import read_yaml_file
from models.idle_settings import NEEDS, idle
from models.setting_groups import CHOOSER, entries
from sweeps.local.distributions import MOST_VALUES, Parameter, Point, Scalar, constant, grid_parameter, parameter
from sweeps.local.early_terminate import EarlyTerminate, parse_early_terminate
from sweeps.local.objectives import Objectives, parse_objectives

if TYPE_CHECKING:  # this loads torch
    from sweeps.local.refusals import Refusals

Key = frozenset[tuple[str, Point]]  # of all points that make the same run
METHODS = ("bayes", "random", "grid")
CUSTOM = "custom"  # W&B's word for the method of a scheduler of one's own; that of sweeps/scheduler.py is bayes
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
# What makes a sweep the same:
SEARCHED = ("program", "command", "method", "metric", "metrics", "early_terminate", "parameters")
OTHERS = ("name", "description", "project", "entity", "run_cap", "kind", "apiVersion", "controller", "scheduler")
OURS = ("repeats", "folds")  # W&B warns of it, and goes on without
KEYS = (*SEARCHED, *OTHERS, *OURS)


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Attributes:
        program: what ${program} stands for in the command.
        command: words and macros that start a run.
        method: one of METHODS.
        objectives: the metrics that it is after, and how trials count that did not come to their ends.
        early_terminate: which trials are stopped or wait to be promoted; None for none.
        parameters: by name, those that vary and the constants; in groups, names are joined by dots: optimizer.lr.
        name: of the sweep; empty for the file's.
        place: project and entity of W&B, as far as the file names them.
        run_cap: number of trials; None for no limit.
        content: the part of the file that makes two sweeps the same.
        chooser: name of the parameter whose value decides which others apply; empty where all do.
        is_flat: whether its program takes settings without groups, of which the leaves are the settings then.
        bases: of each model of train.py, the settings of its runs unless they are told others; empty for others.
        refusals: what train.py refuses; None for another program.
        repeats: runs of each trial, with seeds or folds of their own.
        folds: their number where each trial is cross-validated; 0 where runs of a trial differ by their seeds.
    """

    program: str
    command: tuple[str, ...]
    method: str
    objectives: Objectives
    early_terminate: EarlyTerminate | None
    parameters: Mapping[str, Parameter]
    name: str
    place: Mapping[str, str]
    run_cap: int | None
    content: Mapping[str, Any]
    chooser: str = ""
    is_flat: bool = False
    bases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refusals: "Refusals | None" = None
    repeats: int = 1
    folds: int = 0

    @property
    def metric(self) -> Metric:
        """By which trials are ranked; no trial is started after one that has reached its target."""
        return self.objectives.metrics[0]

    @cached_property
    def told_model(self) -> str:
        """The model of its runs as long as its parameters name none.

        Raises:
            UserError: the command has words that are no settings.
        """
        return model_of_command(self.content)

    @cached_property
    def space(self) -> dict[str, BaseDistribution]:
        """The parameters that vary, each with the distribution that Optuna searches."""
        return {name: entry.space for name, entry in self.parameters.items() if entry.space is not None}

    @property
    def constants(self) -> dict[str, Scalar]:
        """The values of the parameters that do not vary."""
        return {name: entry.value(None) for name, entry in self.parameters.items() if entry.space is None}

    @property
    def choices(self) -> list[Scalar]:
        """The values of the chooser; none where all parameters apply."""
        space = self.space.get(self.chooser)
        return list(space.choices) if isinstance(space, CategoricalDistribution) else []  # type: ignore[arg-type]

    def applicable(self, points: Mapping[str, Any]) -> list[str]:
        """Return the names of the parameters that apply at some points, of which the chooser's alone is looked at."""
        return [name for name, entry in self.parameters.items() if entry.applies(points.get(self.chooser))]

    def names_for(self, choice: Scalar) -> dict[str, str]:
        """Return setting -> name of each parameter that applies with one value of the chooser."""
        return {self.parameters[name].place[-1]: name for name in self.applicable({self.chooser: choice})}

    def told(self, points: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a run is told at some points: the value of every parameter that applies, in its groups."""
        settings: dict[str, Any] = {}
        for name in self.applicable(points):
            *groups, leaf = self.path_to(name)
            place = settings
            for group in groups:
                place = place.setdefault(group, {})
            place[leaf] = self.parameters[name].value(points.get(name))
        return settings

    def path_to(self, name: str) -> tuple[str, ...]:
        """Return where a run is told a parameter: the groups round it, where its program has any, and its name."""
        return self.parameters[name].place[-1:] if self.is_flat else self.parameters[name].place

    def varied(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a run was told of the parameters that vary; None for those that do not apply to it."""
        paths = [self.path_to(name) for name in self.space]
        return {".".join(path): value_at(path, settings) for path in paths}

    def foreign(self, points: Mapping[str, Any]) -> list[str]:
        """Return the settings of the sweep that a run at some points is not told, since its model lacks them."""
        own = {self.parameters[name].place[-1] for name in self.applicable(points)}
        return list(dict.fromkeys(entry.place[-1] for entry in self.parameters.values() if entry.place[-1] not in own))

    def branch(self, choice: Scalar) -> "Sweep":
        """Return the sweep that is left with one value of the chooser, its parameters under the names of settings."""
        names = self.names_for(choice)
        own = {setting: replace(self.parameters[name], only_for=None) for setting, name in names.items()}
        leaf = self.parameters[self.chooser].place[-1]
        return replace(self, parameters={**own, leaf: constant(leaf, choice)}, chooser="")

    def points_with(self, choice: Scalar, points: Mapping[str, Any]) -> dict[str, Any]:
        """Return points of the branch of one value of the chooser, and that value, by the names of the whole sweep."""
        names = self.names_for(choice)
        return {self.chooser: choice, **{names[setting]: point for setting, point in points.items()}}

    def effective(self, points: Mapping[str, Point]) -> dict[str, Point]:
        """Return points in which each setting that has no effect beside the others has the first point of its range."""
        names = {self.parameters[name].place[-1]: name for name in points if name in self.space}
        if not self.bases or not names.keys() & NEEDS.keys():
            return dict(points)
        told = self.told(points)
        settings = {**self.bases.get(str(told.get(CHOOSER) or self.told_model), {}), **told}
        vain = idle({setting: [value] for setting, value in settings.items()}).keys() & names.keys()
        return {**points, **{names[setting]: first_of(self.space[names[setting]]) for setting in vain}}

    def key(self, points: Mapping[str, Point]) -> Key:
        """Return what points have in common with all others that make the same run."""
        return frozenset(each for each in self.effective(points).items() if each[0] in self.space)

    def grid(self) -> list[dict[str, Scalar]]:
        """Return all combinations of values in W&B's order: by name, the last varying fastest.

        Those that differ alone in parameters that do not apply, or in settings that have no effect there, are one.
        """
        return list(self.parts_of_grid[0].values())

    def refusal(self, points: Mapping[str, Point]) -> str:
        """Return why train.py refuses a run at some points; "" where it does not, or that is not known beforehand."""
        return self.refusals.reason(self.told(points)) if self.refusals else ""

    @cached_property
    def parts_of_grid(self) -> tuple[dict[Key, dict[str, Scalar]], dict[Key, str]]:
        """The combinations of a grid, in order, and the reasons why others are refused, which are left out."""
        names = sorted(self.parameters, key=lambda name: self.parameters[name].place)
        taken: dict[Key, dict[str, Scalar]] = {}
        refused: dict[Key, str] = {}
        for values in itertools.product(*(self.parameters[name].grid or () for name in names)):
            points = dict(zip(names, values, strict=True))
            own = self.applicable(points) if self.chooser else names
            points = {name: points[name] for name in names if name in own}
            key = self.key(points)
            if key in taken:
                continue
            if reason := self.refusal(points):
                refused.setdefault(key, reason)
            else:
                taken[key] = points
                refused.pop(key, None)
        return taken, refused


def first_of(space: BaseDistribution) -> Point:
    """Return the first point of a distribution."""
    if isinstance(space, FloatDistribution | IntDistribution):
        return space.low
    return space.choices[0] if isinstance(space, CategoricalDistribution) else None


def value_at(path: Sequence[str], settings: Any) -> Any:
    """Return the value at a path through groups of settings; None if there is none."""
    for name in path:
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


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
