"""Whether a sweep fits train.py: it takes the parameters, and logs the metric. Checked before any trial starts."""

from dataclasses import replace
from pathlib import Path

from optuna.distributions import CategoricalDistribution

from data.datasets import describe, find_dataset
from data.errors import UserError
from data.metrics import metric_named
from models.core.settings import INVOCATION, Settings
from models.logged import check_best_by, check_logged
from models.registry import find_model
from models.resolve import coerce
from sweeps.local.distributions import QUANTILES, Parameter, Scalar, constant
from sweeps.local.launch import command_words
from sweeps.local.sweep_file import Sweep, naming, read_sweep

TRAIN_PY = Path(__file__).resolve().parents[2] / "train.py"


def checked_sweep(path: Path) -> Sweep:
    """Return the sweep that a file describes, checked as far as can be before a trial starts.

    Raises:
        UserError: there is no such file, or its sweep cannot be run.
    """
    sweep = read_sweep(path)
    with naming(path):
        if is_train_py(sweep):
            sweep = with_best_by(sweep)
            check_contract(sweep)
        command_words(sweep.command, sweep.program, {}, Path())
    return sweep


def is_train_py(sweep: Sweep) -> bool:
    """Return whether a sweep's program is ours, of which we know what it takes."""
    return bool(sweep.program) and Path(sweep.program).resolve() == TRAIN_PY


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


def with_best_by(sweep: Sweep) -> Sweep:
    """Return a sweep whose trials keep the weights that are the best by its metric, unless its file says by which.

    It is told as a parameter, since a run of W&B's agent learns nothing else of its sweep.
    """
    return replace(sweep, parameters={"best_by": constant("best_by", sweep.metric.text()), **sweep.parameters})


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
    """Refuse a metric that a run with these settings does not log every epoch, as its own or by `best_by`."""
    find_dataset(settings.dataset)
    info = describe(settings.dataset, settings.image_size, settings.eval_crop)
    # None: only the images themselves say how large they are and how many classes there are
    check_logged(metric, f"metric {metric}", settings, info)
    if metric_named(settings.best_by).name != metric:
        check_best_by(settings, info)
