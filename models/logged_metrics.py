"""What a run logs in every epoch, found out before it starts."""

from dataclasses import replace

import torch

from data.dataset import Batch, DatasetInfo
from data.errors import UserError, suggestion
from data.metrics import GOALS, metric_named, tells_goal
from models.core.objective import Objective
from models.core.settings import Settings
from models.loading import stand_in
from models.parts.sampling import SamplingSettings, sample_metric_names


def check_best_by(settings: Settings, info: DatasetInfo | None) -> None:
    """Refuse a value of the setting `best_by` that is no metric of the run's epochs, as `check_logged` does.

    Raises:
        UserError: with the names that there are, or nothing tells whether less or more of the metric is better.
    """
    text = settings.best_by
    if text:
        check_logged(metric_named(text).name, f"--best_by={text}", settings, info)
    if not tells_goal(text):
        goals = " or ".join(f'--best_by="{goal} {text}"' for goal in GOALS)
        raise UserError(f"--best_by={text} does not tell whether less or more of it is better: give {goals}")


def check_patience(settings: Settings, info: DatasetInfo) -> None:
    """Refuse a value of the setting `patience` that could never end a run, since no metric judges its epochs.

    A model's own default is let pass, as nobody has asked for it.

    Raises:
        UserError: with the names that `best_by` may have.
    """
    if settings.patience in (0, type(settings).patience) or settings.best_by:
        return
    objective = stand_in(settings, info)
    judge, known = objective.best_metric, logged_metrics(objective)
    if not judge or f"{'val' if settings.val_fraction else 'train'}/{judge}" not in known:
        without = "" if settings.val_fraction else " without validation images"
        raise UserError(
            f"--patience={settings.patience} has nothing to follow{without}: leave it out, or give --best_by one of "
            f"{', '.join(known)}"
        )


def check_logged(name: str, told: str, settings: Settings, info: DatasetInfo | None) -> None:
    """Refuse a metric that a run with these settings does not log every epoch.

    Args:
        name: of the metric.
        told: how it was told, to begin the message with.
        settings: of the run.
        info: the facts about its dataset; None where they are not known yet, and so neither are all metrics.

    Raises:
        UserError: with the names that there are.
    """
    split, _, rest = name.partition("/")
    if split == "test":
        raise UserError(f"{told}: nothing is chosen on test images, take val/{rest}")
    if split == "val" and not settings.val_fraction:
        raise UserError(f"{told}: val_fraction is 0, so no images are left to compute it on")
    known = logged_metrics(stand_in(settings, info)) if info else [name]
    if name in known:
        return
    measured = replace(settings, fid_every=1) if isinstance(settings, SamplingSettings) else None
    if measured and info and name in logged_metrics(stand_in(measured, info)):
        raise UserError(f"{told}: it is measured every so many epochs that --fid_every names: give --fid_every=1")
    raise UserError(f"{told}: no run logs it{suggestion(name, known)}; there are: {', '.join(known)}")


def logged_metrics(objective: Objective) -> list[str]:
    """Return the names of the losses and metrics that a run logs every epoch, found out on two random images."""
    settings = objective.settings
    objective.eval()  # in training, a code book would speak to the other processes
    batch = Batch(torch.randn(2, *objective.input_shape()), objective.info.blank_labels(2))
    names = [f"train/{phase.name}/{term}" for phase in objective.phases() for term in objective(batch, phase.name)]
    if not settings.val_fraction:  # then the model's samples alone are judged
        return names + [f"train/{name}" for name in sample_metric_names(objective)]
    with torch.no_grad():
        own = objective.evaluate(batch)
    kept = {name: own.pop(name) for name in list(own) if own[name].ndim > 1}
    together = objective.split_metrics(kept)
    return names + [f"val/{name}" for name in (*own, *together, *sample_metric_names(objective))]
