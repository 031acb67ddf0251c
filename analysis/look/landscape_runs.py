"""A look at the loss landscape of one trained run, or of two beside each other and between them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.look.hessian import top_eigenvalues
from analysis.look.landscape import Losses, LossFunction, difference, line, plane, random_direction
from analysis.look.landscape_figures import barrier, draw_lines, draw_planes, draw_ways
from analysis.look.matching import matched
from analysis.look.trained_run import TrainedRun, load_run
from data.errors import UserError
from data.files import write_json
from data.metrics import shown
from data.visible import counted
from models.parts.classification import Classification

NUM_LINES = 3  # random directions
LEAST_POINTS, MOST_POINTS = 2, 1000  # on a side of a plane
NUM_ON_WAY = 21  # points from one run to another
DIP = 0.98  # of the lesser neighbour's loss: what is lower counts as a minimum of its own
FIGURES = "landscape.json"


@dataclass(frozen=True)
class Plan:
    """What is looked at.

    Attributes:
        split: whose images the loss is of.
        num_images: of the split, at most; of all classes in proportion.
        num_points: on each side of a plane; lines have twice as many.
        reach: how far lines and planes go, in lengths of the weights.
        seed: of the directions.
        num_eigenvalues: of the Hessian; 0 for none.
        match: whether the second run's hidden units are put in the order of the first one's, too.
        folder: of the pictures.
    """

    split: str
    num_images: int
    num_points: int
    reach: float
    seed: int
    num_eigenvalues: int
    match: bool
    folder: Path


def look_at_runs(folders: Sequence[Path], data_dir: str, plan: Plan) -> list[str]:
    """Look at the landscapes of one run or two, draw them, and return what there is to say, line by line.

    Args:
        folders: of the runs.
        data_dir: where their images are; empty for where they were.
        plan: what is looked at.

    Raises:
        UserError: a run cannot be looked at, both are one, or what is to be matched has no way between.
    """
    if not LEAST_POINTS <= plan.num_points <= MOST_POINTS:
        raise UserError(f"--points={plan.num_points} makes no picture: give {LEAST_POINTS} to {MOST_POINTS}")
    runs = {folder.resolve().name: load_run(folder, data_dir) for folder in folders}
    if len(runs) < len(folders):
        raise UserError(f"{folders[0]} and {folders[1]} have one name: name two runs")
    if plan.match and len(runs) == 1:
        raise UserError("--match: give a second run, whose hidden units are to be matched")
    functions = {name: LossFunction(run, plan.split, plan.num_images) for name, run in runs.items()}
    has_way = len(runs) == 2 and have_a_way(list(functions.values()))
    if plan.match and not has_way:
        raise UserError(
            "--match: there is no straight way between these runs, which are of different networks or images"
        )
    steps = line(-plan.reach, plan.reach, 2 * plan.num_points + 1)
    square = plane(plan.reach, plan.num_points)
    lines, planes, found, words = {}, {}, dict[str, Any](), []
    for name, function in functions.items():
        weights = function.weights
        curvature = top_eigenvalues(function, plan.num_eigenvalues, plan.seed)  # first: it may not be found
        directions = [random_direction(weights, plan.seed, i, across=function.across) for i in range(NUM_LINES)]
        along = [function.along(weights, [way], steps, f"{name}, lines") for way in directions]
        lines[name] = steps[:, 0], along
        planes[name] = function.along(weights, directions[:2], square, f"{name}, plane")
        found[name] = summary_of(lines[name], chance_of(runs[name]), curvature)
        words.append(in_words(name, found[name], chance_of(runs[name]), function.num_images, plan))
    plan.folder.mkdir(parents=True, exist_ok=True)
    pictures = [plan.folder / f"{kind}.png" for kind in ("lines", "planes")]
    chances = {chance_of(run) for run in runs.values()}
    chance = chances.pop() if len(chances) == 1 else 0.0  # runs of two kinds have no line in common
    draw_lines(lines, chance, pictures[0])
    draw_planes(planes, {name: figures["loss"] for name, figures in found.items()}, plan.reach, chance, pictures[1])
    if has_way:
        ways = ways_between(list(runs.values()), list(functions.values()), plan)
        pictures.append(plan.folder / "way.png")
        draw_ways(ways, (list(runs)[0], list(runs)[1]), pictures[-1])
        found["barriers"] = {name: barrier(losses.loss) for name, (_, losses) in ways.items()}
        words += [f"from one to the other, {name}: barrier {height:.3f}" for name, height in found["barriers"].items()]
    elif len(runs) == 2:
        words.append("no straight way leads from one to the other: they are of different networks or images")
    write_json(plan.folder / FIGURES, found)
    return [*words, *map(str, pictures), str(plan.folder / FIGURES)]


def chance_of(run: TrainedRun) -> float:
    """Return the loss of a classifier that knows nothing of an image; 0 where the loss is not a classifier's alone.

    It gives each class the same probability, and each of several labels a half.
    """
    num = 2 if run.info.several_labels else len(run.info.classes)
    return math.log(num) if isinstance(run.objective, Classification) else 0.0


def summary_of(lines: tuple[np.ndarray, Sequence[Losses]], chance: float, curvature: np.ndarray) -> dict[str, Any]:
    """Return the figures of a run's landscape.

    Returns:
        loss, accuracy: at the trained weights.
        distance_to_guessing: the mean distance, over lines and their two ends, from which on the loss is above that of
            guessing; None where some line never gets there.
        dips: minima of the lines other than that of the trained weights.
        eigenvalues: of the Hessian, the greatest first.
    """
    steps, along = lines
    centre = len(steps) // 2
    distances, dips = list[float](), 0
    for losses in along:
        loss = losses.loss
        for half in (loss[centre:], loss[centre::-1]):
            above = np.flatnonzero(half > chance)
            distances.append(steps[centre + above[0]] if chance and len(above) else math.inf)
        inner = loss[1:-1] < DIP * np.minimum(loss[:-2], loss[2:])
        inner[max(0, centre - 2) : centre + 1] = False  # the trained weights and their neighbours
        dips += int(inner.sum())
    accuracy = along[0].accuracy
    return {
        "loss": float(along[0].loss[centre]),
        "accuracy": None if accuracy is None else float(accuracy[centre]),
        "distance_to_guessing": mean if math.isfinite(mean := float(np.mean(distances))) else None,
        "dips": dips,
        "eigenvalues": [float(value) for value in curvature],
    }


def in_words(name: str, found: Mapping[str, Any], chance: float, num_images: int, plan: Plan) -> str:
    """Return the figures of a run's landscape in one line; `chance` is as of `chance_of`."""
    parts = [f"{name}: loss {found['loss']:.4f}"]
    if found["accuracy"] is not None:
        parts.append(f"accuracy {shown('accuracy', found['accuracy'])}")
    if chance:
        distance = found["distance_to_guessing"]
        near = f"better than guessing, on some lines, as far as {plan.reach:g} times the weights' length away"
        parts.append(near if distance is None else f"as bad as guessing {distance:.2f} times the weights' length away")
    parts.append(f"{counted(found['dips'], 'other minimum', 'other minima')} on {NUM_LINES} lines")
    if found["eigenvalues"]:
        greatest = found["eigenvalues"][0]
        values = ", ".join(f"{value:.4g}" for value in found["eigenvalues"])
        limit = f" (plain gradient descent diverges at rates above {2 / greatest:.3g})" if greatest > 0 else ""
        noun = "eigenvalue" if len(found["eigenvalues"]) == 1 else "eigenvalues"
        parts.append(f"greatest {noun} {values}{limit}")
    return f"{'; '.join(parts)}; on {counted(num_images, f'{plan.split} image')}"


def have_a_way(functions: Sequence[LossFunction]) -> bool:
    """Return whether two runs are of one network and the same images: the second's weights do the same in the first."""
    first, second = functions
    shapes = [{name: weight.shape for name, weight in function.weights.items()} for function in functions]
    if shapes[0] != shapes[1]:
        return False
    with torch.no_grad():
        return torch.allclose(first.means(second.weights), second.means(second.weights), rtol=0.01)


def ways_between(
    runs: Sequence[TrainedRun], functions: Sequence[LossFunction], plan: Plan
) -> dict[str, tuple[np.ndarray, Losses]]:
    """Return the straight ways from one run to the other: steps and what is reached there, by what the way is called.

    Raises:
        UserError: the runs are to be matched, and cannot be.
    """
    first, second = functions
    steps = line(0, 1, NUM_ON_WAY)
    ways = {}
    stale = [LossFunction(run, plan.split, plan.num_images, keep_statistics=True) for run in runs]
    start, end = (function.weights for function in stale)
    has_statistics = len(start) > len(first.weights)  # of batch norm, which then count as weights
    if has_statistics:
        losses = stale[0].along(start, [difference(end, start)], steps, "way, old statistics")
        ways["statistics of batch norm mixed, too"] = steps[:, 0], losses
    ends = {"statistics of batch norm taken anew" if has_statistics else "as they are": second.weights}
    if plan.match:
        states = [
            {name.removeprefix("net."): p.cpu() for name, p in function.weights.items()} for function in functions
        ]
        state = matched(runs[0].objective.net, states[1], states[0], plan.seed)
        device = next(iter(first.weights.values())).device
        ends["units matched"] = {f"net.{name}": weight.to(device) for name, weight in state.items()}
    for name, end in ends.items():
        ways[name] = steps[:, 0], first.along(first.weights, [difference(end, first.weights)], steps, f"way, {name}")
    return ways
