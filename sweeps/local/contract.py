"""Whether a sweep fits train.py: it takes the parameters, and logs the metric. Checked before any trial starts."""

from dataclasses import replace

import torch
from optuna.distributions import CategoricalDistribution

from data.dataset import Batch, DatasetInfo
from data.datasets import DATASETS, describe
from data.errors import UserError, suggestion
from models.core.abilities import Classifies, Samples
from models.core.objective import Objective
from models.core.settings import INVOCATION, Settings
from models.loading import build_objective
from models.parts.backbone import BackboneSettings
from models.parts.sampling import SamplingSettings
from models.registry import find_model
from models.resolve import coerce
from sweeps.local.distributions import QUANTILES, Parameter, Scalar
from sweeps.local.sweep_file import Sweep


def check_contract(sweep: Sweep) -> None:
    """Refuse a sweep that does not fit train.py.

    Raises:
        UserError: a parameter is no setting, or takes values that the setting does not take, or no run logs the metric.
    """
    for name in sweep.parameters:
        if name in INVOCATION:
            raise UserError(f"parameter {name}: the agent sets it for each run, leave it out")
    models = values_of(sweep.parameters["model"]) if "model" in sweep.parameters else [Settings.model]
    for model in models:
        settings_class = find_model(model).settings_class
        options = {
            name: [coerce(settings_class, name, value) for value in values_of(parameter)]
            for name, parameter in sweep.parameters.items()
            if name != "model"
        }
        last = {name: values[-1] for name, values in options.items()}
        # Each name of a dataset, an optimizer, ... is tried by itself: all combinations would be too many.
        others = [(name, value) for name, values in options.items() for value in values[:-1]]
        for change in ({}, *({name: value} for name, value in others if is_decisive(name, value))):
            check_metric(sweep.metric.name, settings_class(**{**last, **change, "model": model}))


def is_decisive(name: str, value: Scalar) -> bool:
    """Return whether a run may refuse this value of a setting although it is of the right type and in range."""
    return isinstance(value, str) or name == "val_fraction"


def values_of(parameter: Parameter) -> list[Scalar]:
    """Return all values that a parameter can take or, of a range, the ends and the middle."""
    if parameter.space is None:
        return [parameter.value(None)]
    if isinstance(parameter.space, CategoricalDistribution):
        return list(parameter.space.choices)  # type: ignore[arg-type]  # None is refused
    quantiles = (0.5,) if parameter.space == QUANTILES else (0.0, 0.5, 1.0)
    return [parameter.value(parameter.draw(quantile)) for quantile in quantiles]


def check_metric(metric: str, settings: Settings) -> None:
    """Refuse a metric that a run with these settings does not log every epoch."""
    split = metric.partition("/")[0]
    if split == "test":
        raise UserError(f"metric {metric}: nothing is chosen on test images, take val/{metric.partition('/')[2]}")
    if split == "val" and settings.val_fraction == 0:
        raise UserError(f"metric {metric}: val_fraction is 0, so no images are left to compute it on")
    if settings.dataset not in DATASETS:
        raise UserError(f"dataset={settings.dataset} is not known{suggestion(settings.dataset, DATASETS)}")
    info = describe(settings.dataset, settings.image_size)
    if info is None:  # only the images themselves say how large they are and how many classes there are
        return
    known = logged_metrics(settings, info)
    if metric not in known:
        raise UserError(f"metric {metric}: no run logs it{suggestion(metric, known)}; there are: {', '.join(known)}")


def logged_metrics(settings: Settings, info: DatasetInfo) -> list[str]:
    """Return the names of the losses and metrics that a run logs every epoch, found out on two random images."""
    if isinstance(settings, BackboneSettings):  # the pretrained weights need not be there yet
        settings = replace(settings, pretrained=False, weights="")
    objective = build_objective(settings, info)
    labels = torch.arange(2) % max(len(info.classes), 1)
    batch = Batch(torch.randn(2, *objective.input_shape(info)), labels)
    names = [f"train/{phase.name}/{term}" for phase in objective.phases() for term in objective(batch, phase.name)]
    with torch.no_grad():
        names += [f"val/{name}" for name in objective.eval().evaluate(batch)]
    return names + [f"val/{name}" for name in sample_metrics(objective, settings)]


def sample_metrics(objective: Objective, settings: Settings) -> list[str]:
    """Return the names of the metrics that a run logs of its model's own samples, without computing them."""
    if not isinstance(objective, Samples) or not isinstance(settings, SamplingSettings):
        return []
    names = ["sample_variety"]
    if objective.num_labels and isinstance(objective, Classifies):
        names.append("generated_accuracy")
    if settings.fid_every:
        names.append(f"fid_{settings.extractor}_{settings.fid_images}")
    return names
