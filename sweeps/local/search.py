"""Which values the next trial of a sweep tries: by Optuna's Bayesian optimisation, at random, or the next of a grid."""

import itertools
import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from scipy.stats import qmc
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from data.pareto import layers
from data.seeding import mix_seeds
from sweeps.local.branches import choose_branch, in_branch
from sweeps.local.distributions import MOST_VALUES, Point
from sweeps.local.gaussian_process import gaussian_process, squashed
from sweeps.local.observations import is_inside, observations, settled_points
from sweeps.local.sweep import Sweep
from sweeps.local.worth import costs_of, is_pending

Points = dict[str, Point]  # by the names of parameters
NOTHING: Mapping[str, Point] = {}
MOST_SEEN = 150  # ended trials that a model is told of
LEAST_FIRST = 4  # trials before there is a model
MOST_DRAWS = 100
SUGGEST: Mapping[type[BaseDistribution], Callable[[Trial, str, Any], Point]] = {
    FloatDistribution: lambda trial, name, space: trial.suggest_float(name, space.low, space.high, log=space.log),
    IntDistribution: lambda trial, name, space: trial.suggest_int(name, space.low, space.high),
    CategoricalDistribution: lambda trial, name, space: trial.suggest_categorical(name, space.choices),
}


class Search(BaseSampler):
    """The sampler of a sweep's study.

    What it proposes depends on the seed, the trial's number, the trials so far and what train.py refuses: an agent that
    is killed and started again makes the same trials as one that was not, as long as `Refusals` has time for all.

    Args:
        sweep: what is searched, and how.
        seed: of all random draws.
    """

    def __init__(self, sweep: Sweep, seed: int) -> None:
        self.sweep = sweep
        self.seed = seed
        self.space = sweep.space
        self.branches = {choice: Search(sweep.branch(choice), seed) for choice in sweep.choices}
        self.propose = {"bayes": self.bayes, "random": self.draw, "grid": self.next_of_grid}[sweep.method]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Point]:
        settled = settled_points(trial)
        if settled and settled.keys() >= self.without_others({**self.space, **settled}).keys():
            return {}
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        if self.branches and self.sweep.method == "bayes":
            return self.bayes_by_branch(trial.number, study.user_attrs, others, settled)
        return self.propose(trial.number, observations(self.sweep, study.user_attrs, others), settled)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random point of a parameter that has none in the proposal, which goes on from what was settled."""
        generator = random.Random(f"{self.seed_of(trial.number)} {param_name}")
        return self.sweep.parameters[param_name].draw(generator.random())

    def draw(self, number: int, others: Sequence[FrozenTrial], settled: Mapping[str, Point] = NOTHING) -> Points:
        """Return a random point, drawn from the distributions of the sweep file, that train.py does not refuse."""
        generator = random.Random(self.seed_of(number))
        for _ in range(MOST_DRAWS):
            point = self.draw_with(generator, settled)
            if not self.sweep.refusal(point):
                break
        return point

    def draw_with(self, generator: random.Random, settled: Mapping[str, Point] = NOTHING) -> Points:
        """Return the next random point that a generator gives, of the branch in which some points are settled."""
        drawn = {name: self.sweep.parameters[name].draw(generator.random()) for name in self.space}
        return self.without_others({**drawn, **settled})

    def without_others(self, points: Mapping[str, Point]) -> dict[str, Point]:
        """Return the points of those parameters alone that apply there."""
        own = self.sweep.applicable(points) if self.branches else self.space
        return {name: point for name, point in points.items() if name in own}

    def next_of_grid(self, number: int, others: Sequence[FrozenTrial], settled: Mapping[str, Point]) -> Points:
        """Return the first combination of a grid that no earlier trial has, with the points that are settled."""
        left = left_of_grid(self.sweep, [other for other in others if 0 <= other.number < number])
        left = [combination for combination in left if settled.items() <= combination.items()] or left
        combinations = left or self.sweep.grid()
        combination = combinations[0 if left else number % len(combinations)]
        return {name: point for name, point in combination.items() if name in self.space}

    def bayes_by_branch(
        self, number: int, notes: Mapping[str, Any], others: Sequence[FrozenTrial], settled: Mapping[str, Point]
    ) -> Points:
        """Return a point of the branch that a bandit chooses, where a model of this branch alone expects the most.

        A branch is what is left to search with one value of the sweep's chooser.

        Args:
            number: of the trial.
            notes: attributes of the study.
            others: its other trials.
            settled: points that the trial has already, perhaps that of the chooser.
        """
        known = {
            each: observations(branch.sweep, notes, in_branch(self.sweep, each, notes, others))
            for each, branch in self.branches.items()
        }
        left = {each: trials for each, trials in known.items() if not self.branches[each].has_tried_all(trials)}
        sizes = {each: len(branch.space) for each, branch in self.branches.items()}
        for other in others:  # what other agents are about to choose
            if other.number < number and not (other.state.is_finished() or settled_points(other)):
                known[choose_branch(left or known, self.sweep.objectives, sizes)].append(other)
        choice = settled.get(self.sweep.chooser)
        if choice not in known:
            choice = choose_branch(left or known, self.sweep.objectives, sizes)
        names = self.sweep.names_for(choice)
        own = {setting: settled[names[setting]] for setting in self.branches[choice].space if names[setting] in settled}
        return self.sweep.points_with(choice, self.branches[choice].bayes(number, known[choice], own))

    def has_tried_all(self, others: Sequence[FrozenTrial]) -> bool:
        """Return whether trials have all the values that there are, but for those that are refused together."""
        points, tried = self.combinations(), self.tried(others)
        return bool(points) and all(self.values(point) in tried or self.sweep.refusal(point) for point in points)

    def bayes(self, number: int, others: Sequence[FrozenTrial], settled: Mapping[str, Point] = NOTHING) -> Points:
        """Return the point at which a model of the trials so far expects the greatest improvement.

        Trials that were stopped early count with the best value that they had, failed ones with the worst of all,
        unless the sweep says otherwise. Of several metrics it is the volume that the Pareto front encloses that grows.
        """
        # Beyond the ranges values may be on another scale, beside which a model does not see what differs within.
        names = self.space.keys()
        others = [trial for trial in others if trial.params.keys() != names or is_inside(self.space, trial.params)]
        objectives = self.sweep.objectives
        known = {trial.number: costs for trial in others if (costs := costs_of(objectives, trial)) is not None}
        if len(known) < max(LEAST_FIRST, 2 + len(self.space)):
            return self.first_point(number, others, settled)  # too few for a model
        worst = tuple(max(costs) for costs in zip(*known.values(), strict=True))
        told = self.seen(others, layers(known))
        ended = {trial.number: known.get(trial.number, worst) for trial in told if not is_pending(objectives, trial)}
        if ended and len(worst) == 1:  # of several metrics, the volume would be another one
            ended = dict(zip(ended, zip(squashed([cost for (cost,) in ended.values()])), strict=True))
        sampler = gaussian_process(self.seed_of(number))
        study = optuna.create_study(directions=["minimize"] * len(worst), sampler=sampler)
        for trial in told:
            values = ended.get(trial.number)
            state = TrialState.RUNNING if values is None else TrialState.COMPLETE
            study.add_trial(create_trial(params=trial.params, distributions=self.space, values=values, state=state))
        with threadpool_limits(1):  # the matrices are so small that threads would only wait for each other
            proposal = {**study.ask(self.space).params, **settled}
        # It may have been tried at the end of a range, for example.
        return proposal if self.is_new(proposal, self.tried(others)) else self.draw_untried(number, others, settled)

    def is_new(self, point: Points, tried: Collection[tuple[Any, ...]]) -> bool:
        """Return whether a point has other values than those that were tried, which train.py does not refuse."""
        return self.values(point) not in tried and not self.sweep.refusal(point)

    def first_point(self, number: int, others: Sequence[FrozenTrial], settled: Mapping[str, Point]) -> Points:
        """Return a point to begin with, before there is a model: such points fill the space evenly.

        They are those of a Sobol sequence, scrambled by the seed: Owen 1998, https://doi.org/10.1145/290274.290275.
        """
        place = sum(0 <= other.number < number for other in others)
        if self.space:
            sequence = qmc.Sobol(len(self.space), seed=self.seed).random(2 ** place.bit_length())
            quantiles = zip(self.space, sequence[place].tolist(), strict=True)
            drawn = {name: self.sweep.parameters[name].draw(each) for name, each in quantiles}
            point = self.without_others({**drawn, **settled})
            if self.is_new(point, self.tried(others)):
                return point
        return self.draw_untried(number, others, settled)

    def seen(self, others: Sequence[FrozenTrial], known: Mapping[int, float]) -> list[FrozenTrial]:
        """Return the trials that the model is told of, by number: if there are many, only the best and the newest.

        A Gaussian process over n trials takes time and memory of n^3 and n^2: 100 seconds and 2 GiB at 3,000.
        """
        told = [trial for trial in others if trial.params.keys() == self.space.keys()]
        running = [trial.number for trial in told if is_pending(self.sweep.objectives, trial)]
        ended = [trial.number for trial in told if trial.number not in running]
        chosen = {*best_and_newest(ended, known), *running}
        return [trial for trial in told if trial.number in chosen]

    def values(self, point: Mapping[str, Point]) -> tuple[Any, ...]:
        """Return the values of the settings at a point: several points can be rounded, or come, to the same ones."""
        effective = self.sweep.effective(point)
        return tuple(self.sweep.parameters[name].value(effective[name]) for name in self.space)

    def tried(self, others: Sequence[FrozenTrial]) -> set[tuple[Any, ...]]:
        """Return the values of all trials that have any."""
        own = [trial.params for trial in others if trial.number >= 0]  # not those of earlier sweeps
        return {self.values(points) for points in own if points.keys() == self.space.keys()}

    def draw_untried(self, number: int, others: Sequence[FrozenTrial], settled: Mapping[str, Point]) -> Points:
        """Return a random point with those that are settled whose values no trial has, as long as there is one."""
        generator, tried = random.Random(self.seed_of(number)), self.tried(others)
        for _ in range(MOST_DRAWS):
            point = self.draw_with(generator, settled)
            if self.is_new(point, tried):
                return point
        points = [point for point in self.combinations() if {**point, **settled} == point]
        generator.shuffle(points)
        left = (point for point in points if self.is_new(point, tried))
        return next(left, None) or self.draw(number, others, settled)

    def combinations(self) -> list[dict[str, Point]]:
        """Return all points if they are few enough to be listed; else none."""
        options: list[Sequence[Point]] = []
        for space in self.space.values():
            if isinstance(space, CategoricalDistribution):
                options.append(space.choices)
            elif isinstance(space, IntDistribution):
                options.append(range(space.low, space.high + 1))
            else:
                return []
        if math.prod(map(len, options)) > MOST_VALUES:
            return []
        return [dict(zip(self.space, each, strict=True)) for each in itertools.product(*options)]

    def seed_of(self, number: int) -> int:
        """Return the seed of one trial's draws."""
        return mix_seeds(self.seed, number, num=1)[0]


def best_and_newest(ended: Sequence[int], costs: Mapping[int, float]) -> list[int]:
    """Return as many of some numbers as a model is told of: those with the lowest costs and, of the others, the last.

    Args:
        ended: numbers of trials that have ended, the newest last.
        costs: of those that have any.
    """
    if len(ended) <= MOST_SEEN:
        return list(ended)
    best = sorted(costs, key=lambda number: costs[number])[: MOST_SEEN // 2]
    return best + [number for number in ended if number not in best][len(best) - MOST_SEEN :]


def settings_of(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """Return the settings of a trial in the order of the sweep file, constants included; the first call draws them.

    Those that do not apply are left out.
    """
    space, points = sweep.space, dict[str, Point]()
    for names in ([sweep.chooser], list(space)):
        own = [name for name in sweep.applicable(points) if name in names and name in space]
        points |= {name: SUGGEST[type(space[name])](trial, name, space[name]) for name in own}
    return sweep.told(points)


def left_of_grid(sweep: Sweep, trials: Iterable[FrozenTrial]) -> list[Points]:
    """Return the combinations of a grid that are left beside some trials, in order.

    Trials without points, or with a part of them, will take the first combination that is left for them, so it is gone.
    """
    space, left = sweep.space, dict(sweep.parts_of_grid[0])
    own = [{name: point for name, point in settled_points(trial).items() if name in space} for trial in trials]
    for begun in [points for points in own if left.pop(sweep.key(points), None) is None]:
        left.pop(next((key for key, points in left.items() if points.items() >= begun.items()), frozenset()), None)
    return list(left.values())
