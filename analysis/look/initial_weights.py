"""Weights that training starts from: those that another run of the same model has kept."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from analysis.look.trained_run import load_network, settings_of
from analysis.read.runs import find_run
from analysis.record import run_folder
from data.errors import UserError
from data.paths import expanded
from data.visible import counted, listed
from models.core.abilities import Classifies
from models.core.objective import Objective
from models.core.settings import Settings
from models.frozen_backbone import FrozenSettings
from models.parts.likelihoods import Likelihood

# Settings that make the features of a frozen network what they are; so does the seed, of random weights.
OF_FEATURES = ("arch", "pretrained", "weights", "input_size", "interpolation", "standardise")
STANDARDISATION = ("net.mean", "net.deviation")  # of the features of the run's own images
NUM_NAMED = 3  # tensors that are left as they are


def source_of(settings: Settings) -> Path:
    """Return the folder of the run that `init_from` names: by its id beside the new run, or as `find_run` finds it.

    A run of a sweep has $VISION_SWEEPS_RUNS for itself, and finds in $VISION_SWEEPS_ALL_RUNS what that is elsewhere.

    Raises:
        UserError: there is none, or several sweeps have a run of that id.
    """
    name = expanded(settings.init_from)
    beside = Path(settings.runs_dir) / name
    if (beside / run_folder.SETTINGS).is_file():
        return beside
    all_runs = os.environ.get("VISION_SWEEPS_ALL_RUNS", "")
    try:
        return find_run(str(name), Path(all_runs) if all_runs else None)
    except UserError as error:
        raise UserError(f"--init_from={settings.init_from}: {error}") from None


def check_source(settings: Settings, objective: Objective | None) -> None:
    """Refuse before images are read what `init_from` names, where it is no run of the same model that has weights.

    Args:
        settings: of the new run.
        objective: its model, as `check_model` returns it, whose form is compared, too; None where that has to wait.

    Raises:
        UserError: as `source_of` and `settings_of`, the run is one of another model, or as `start_from`.
    """
    folder = source_of(settings)
    check_model_is(settings_of(folder, "").model, settings)
    if objective is not None:
        start_from(folder, objective)


def check_model_is(model: str, own: Settings) -> None:
    """Refuse to start from the weights of another model.

    Raises:
        UserError: it is another.
    """
    if model != own.model:
        raise UserError(f"--init_from={own.init_from} has --model={model}: give --model={model}, or another run")


def start_from(folder: Path, objective: Objective) -> str:
    """Load the weights that a run has kept into a model that is to be trained; return what was loaded, in a line.

    A tensor whose shape differs by the number of classes alone, as that of a head, is left as it is, and so is what the
    new run's images or settings tell: the standardisation of a frozen network's features, a fixed variance of pixels.

    Raises:
        UserError: the run has no weights, is one of another model, its network has another form, or its head is one for
            other features.
    """
    told, source = f"--init_from={objective.settings.init_from}", load_network(folder)
    check_model_is(source.settings.model, objective.settings)
    check_features(told, source.settings, objective.settings)
    theirs, own = source.objective.state_dict(), objective.state_dict()
    for name in told_tensors(objective):
        theirs.pop(name, None)
        del own[name]
    classes = len(source.info.classes), len(objective.info.classes)
    misfits = [name for name in {**theirs, **own} if not fits(name, theirs, own, classes)]
    if misfits:
        shapes = [str(list(state[misfits[0]].shape)) if misfits[0] in state else "none" for state in (theirs, own)]
        raise UserError(f"{told} has another form, {misfits[0]} is {' and not '.join(shapes)}: give the run's settings")
    same = {name: tensor for name, tensor in theirs.items() if tensor.shape == own[name].shape}
    objective.load_state_dict(same, strict=False)
    left = [name for name in own if name not in same]
    rest = f", but for {listed(left, NUM_NAMED)}, which depend on the classes" if left else ""
    knows_classes = isinstance(objective, Classifies) or getattr(objective, "num_labels", 0) > 0
    if knows_classes and not left and source.info.classes != objective.info.classes:
        rest = f"; its {classes[0]} classes have other names: each starts from the one in its place"
    return f"training starts from {counted(len(same), 'tensor')} of {folder}{rest}"


def told_tensors(objective: Objective) -> list[str]:
    """Return the names of the tensors that the images or settings of a run tell, and no training."""
    if isinstance(objective.settings, FrozenSettings):
        return [*STANDARDISATION]
    likelihood = getattr(objective, "likelihood", None)
    fixed = likelihood.named_parameters() if isinstance(likelihood, Likelihood) else ()
    return [f"likelihood.{name}" for name, parameter in fixed if not parameter.requires_grad]


def check_features(told: str, theirs: Settings, own: Settings) -> None:
    """Refuse to put the head of a run on the features of another frozen network.

    Raises:
        UserError: the network or how the images are prepared for it is not the same.
    """
    if not isinstance(theirs, FrozenSettings):
        return
    for name in (*OF_FEATURES, *(() if theirs.pretrained else ("seed",))):
        value = getattr(theirs, name)
        if value != getattr(own, name):
            raise UserError(f"{told} has a head for other features: give --{name}={value}, or another run")


def fits(name: str, theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], classes: tuple[int, int]) -> bool:
    """Return whether both models have a tensor, whose sizes differ by nothing but the numbers of classes.

    A size may be this number, or that of other inputs beside the class.
    """
    if name not in theirs or name not in own or theirs[name].ndim != own[name].ndim:
        return False
    sizes = zip(theirs[name].shape, own[name].shape, strict=True)
    return all(one - other in (0, classes[0] - classes[1]) for one, other in sizes)
