"""Weights that training starts from: those that another run of the same model has kept."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from analysis.look.trained_run import load_network
from analysis.read.runs import find_run
from analysis.record import run_folder
from data.errors import UserError
from data.paths import expanded
from data.visible import counted
from models.core.objective import Objective
from models.core.settings import Settings


def source_of(settings: Settings) -> Path:
    """Return the folder of the run that `init_from` names: by its path, or by its id beside the new run or in runs/.

    A run of a sweep has $VISION_SWEEPS_RUNS for itself, and finds in $VISION_SWEEPS_ALL_RUNS what that is elsewhere.

    Raises:
        UserError: there is none.
    """
    name = expanded(settings.init_from)
    for runs_dir in (settings.runs_dir, os.environ.get("VISION_SWEEPS_ALL_RUNS", "")):
        if (Path(runs_dir) / name / run_folder.SETTINGS).is_file():
            return Path(runs_dir) / name
    try:
        return find_run(str(name))
    except UserError as error:
        raise UserError(f"--init_from={settings.init_from}: {error}") from None


def start_from(folder: Path, objective: Objective) -> str:
    """Load the weights that a run has kept into a model that is to be trained; return what was loaded, in a line.

    A tensor whose shape differs by the number of classes alone, as that of a head, is left as it is.

    Raises:
        UserError: the run has no weights, is one of another model, or its network has another form.
    """
    told, source = f"--init_from={objective.settings.init_from}", load_network(folder)
    if source.settings.model != objective.settings.model:
        raise UserError(f"{told} is a {source.settings.model}: give --model={source.settings.model}, or another run")
    theirs, own = source.objective.state_dict(), objective.state_dict()
    classes = len(source.info.classes), len(objective.info.classes)
    misfits = [name for name in {**theirs, **own} if not fits(name, theirs, own, classes)]
    if misfits:
        shapes = [str(list(state[misfits[0]].shape)) if misfits[0] in state else "none" for state in (theirs, own)]
        raise UserError(f"{told} has another form, {misfits[0]} is {' and not '.join(shapes)}: give the run's settings")
    same = {name: tensor for name, tensor in theirs.items() if tensor.shape == own[name].shape}
    objective.load_state_dict(same, strict=False)
    left = [name for name in own if name not in same]
    rest = f", but for {' and '.join(left)}, which depend on the classes" if left else ""
    return f"{counted(len(same), 'tensor')} of {folder} are what training starts from{rest}"


def fits(name: str, theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], classes: tuple[int, int]) -> bool:
    """Return whether both models have a tensor, whose sizes differ by nothing but the numbers of classes.

    A size may be this number, or that of other inputs beside the class.
    """
    if name not in theirs or name not in own or theirs[name].ndim != own[name].ndim:
        return False
    sizes = zip(theirs[name].shape, own[name].shape, strict=True)
    return all(one - other in (0, classes[0] - classes[1]) for one, other in sizes)
