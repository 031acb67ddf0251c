"""A sweep: its parameters, what a run is told at a point of them, and the combinations of a grid."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.read.sweep_command import model_of_command
from data.metrics import Metric
from models.idle_settings import NEEDS, idle
from models.setting_groups import CHOOSER
from sweeps.local.distributions import Parameter, Point, Scalar, constant
from sweeps.local.early_terminate import EarlyTerminate
from sweeps.local.objectives import Objectives

if TYPE_CHECKING:  # this loads torch
    from sweeps.local.refusals import Refusals

Key = frozenset[tuple[str, Point]]  # of all points that make the same run
METHODS = ("bayes", "random", "grid")


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
