"""Which of several things are the best where each is judged by several figures."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Costs = Sequence[float]  # by each figure, the less the better


def dominates(costs: Costs, others: Costs) -> bool:
    """Return whether something is at least as good as another by every figure, and better by one."""
    return tuple(costs) != tuple(others) and all(one <= other for one, other in zip(costs, others, strict=True))


def pareto_front(costs: Mapping[Key, Costs]) -> list[Key]:
    """Return what nothing else dominates, in its order: the Pareto front."""
    front: list[Key] = []
    for key, own in sorted(costs.items(), key=lambda item: tuple(item[1])):  # nothing is dominated by what comes later
        if not any(dominates(costs[each], own) for each in front):
            front.append(key)
    members = set(front)
    return [key for key in costs if key in members]


def layers(costs: Mapping[Key, Costs]) -> dict[Key, int]:
    """Return in which front each stands: 0 for the Pareto front, 1 for that of the rest, and so on."""
    if all(len(own) == 1 for own in costs.values()):  # then the fronts are the ranks
        ranks = {value: rank for rank, value in enumerate(sorted({own[0] for own in costs.values()}))}
        return {key: ranks[own[0]] for key, own in costs.items()}
    left, found, layer = dict(costs), dict[Key, int](), 0
    while left:
        front = pareto_front(left)
        found |= dict.fromkeys(front, layer)
        left = {key: own for key, own in left.items() if key not in found}
        layer += 1
    return found
