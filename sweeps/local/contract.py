"""What train.py takes and logs, checked against a sweep before any trial starts."""

from dataclasses import replace

import torch
from optuna.distributions import CategoricalDistribution

from data.dataset import Batch, DatasetInfo
from data.datasets import DATASETS, describe
from data.errors import UserError, suggestion
from models.core.settings import Settings, coerce
from models.parts.backbone import BackboneSettings
from models.registry import MODELS
from sweeps.local.distributions import QUANTILES, Parameter, Scalar
from sweeps.local.sweep_file import Sweep
from train import build_objective

OF_THE_AGENT = ("run_id", "runs_dir", "resume", "dry_run")


def check_contract(sweep: Sweep) -> None:
    """Refuse a sweep of train.py that its settings or its metrics do not allow.

    Raises:
        UserError: a parameter is no setting or takes values that the setting does not, or no run logs the metric.
    """
    for name in OF_THE_AGENT:
        if name in sweep.parameters:
            raise UserError(f"parameter {name}: the agent sees to it for each run, leave it out")
    models = values_of(sweep.parameters["model"]) if "model" in sweep.parameters else [Settings.model]
    for model in models:
        if model not in MODELS:
            raise UserError(
                f"model={model!r} is not known{suggestion(str(model), MODELS)}; there are: {', '.join(MODELS)}"
            )
        settings_class = MODELS[str(model)][0]
        options = {
            name: [coerce(settings_class, name, value, is_text=False, models=MODELS) for value in values_of(parameter)]
            for name, parameter in sweep.parameters.items()
            if name != "model"
        }
        last = {name: values[-1] for name, values in options.items()}
        # Each name of a dataset, an optimizer, ... for itself: all combinations would be too many.
        others = [(name, value) for name, values in options.items() for value in values[:-1]]
        for change in ({}, *({name: value} for name, value in others if is_decisive(name, value))):
            check_metric(sweep.metric.name, settings_class(**{**last, **change, "model": model}))


def is_decisive(name: str, value: Scalar) -> bool:
    """Whether a run can be refused for this one value although it is of the right type and in range."""
    return isinstance(value, str) or name == "val_fraction"


def values_of(parameter: Parameter) -> list[Scalar]:
    """Values that a parameter can take: all, or the ends and the middle."""
    if parameter.space is None:
        return [parameter.value(None)]
    if isinstance(parameter.space, CategoricalDistribution):
        return list(parameter.space.choices)  # type: ignore[arg-type]  # None is refused
    quantiles = (0.5,) if parameter.space == QUANTILES else (0.0, 0.5, 1.0)
    return [parameter.value(parameter.draw(quantile)) for quantile in quantiles]


def check_metric(metric: str, settings: Settings) -> None:
    """Refuse a metric that a run of `settings` does not log every epoch."""
    split = metric.partition("/")[0]
    if split == "test":
        raise UserError(f"metric {metric}: nothing is chosen on test images, take val/{metric.partition('/')[2]}")
    if split == "val" and settings.val_fraction == 0:
        raise UserError(f"metric {metric}: val_fraction is 0, so no images are left to compute it on")
    if settings.dataset not in DATASETS:
        raise UserError(f"dataset={settings.dataset} is not known{suggestion(settings.dataset, DATASETS)}")
    info = describe(settings.dataset, settings.image_size)
    if info is None:  # the folder's images say how large they are and how many classes there are
        return
    known = logged_metrics(settings, info)
    if metric not in known:
        raise UserError(f"metric {metric}: no run logs it{suggestion(metric, known)}; there are: {', '.join(known)}")


def logged_metrics(settings: Settings, info: DatasetInfo) -> list[str]:
    """Names of the losses and metrics that a run logs every epoch, found out on two random images."""
    if isinstance(settings, BackboneSettings):  # whose weights need not be there yet
        settings = replace(settings, pretrained=False, weights="")
    objective = build_objective(settings, info)
    labels = torch.arange(2) % max(len(info.classes), 1)
    batch = Batch(torch.randn(2, *objective.input_shape(info)), labels)
    names = [f"train/{phase.name}/{term}" for phase in objective.phases() for term in objective(batch, phase.name)]
    with torch.no_grad():
        names += [f"val/{name}" for name in objective.eval().evaluate(batch)]
    if objective.best_metric not in ("", "loss"):  # of the whole split, which two images do not make
        names.append(f"val/{objective.best_metric}")
    return names
