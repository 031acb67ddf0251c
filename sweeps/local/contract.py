"""Whether a sweep fits train.py: it takes the parameters, and logs the metric. Checked before any trial starts."""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from analysis.read.sweep_command import is_ours, settings_of_command, told_by_command
from data.datasets import describe, find_dataset
from data.errors import UserError
from data.metrics import Metric, metric_named
from models.core.settings import INVOCATION, Settings, kinds
from models.loading import check_model
from models.logged_metrics import check_best_by, check_logged
from models.registry import find_model
from models.resolve import coerce, unknown_setting
from models.setting_groups import CHOOSER, may_be_told, refuse_double
from sweeps.local.distributions import QUANTILES, Parameter, Scalar, constant
from sweeps.local.launch import command_words
from sweeps.local.refusals import Refusals
from sweeps.local.sweep import Sweep
from sweeps.local.sweep_file import naming, read_sweep_file

READABLE = ("${args}", "${args_no_equals}", "${args_no_boolean_flags}")  # train.py's way to write settings
MOST_TRIED = 100  # combinations of values, of which one must do
MEASURED = ("images_per_second", "epoch_seconds", "peak_memory_gib")  # what every epoch says of its cost


def checked_sweep(path: Path) -> Sweep:
    """Return the sweep that a file describes, checked as far as can be before a trial starts.

    Raises:
        UserError: there is no such file, or its sweep cannot be run.
    """
    sweep = read_sweep_file(path)
    with naming(path):
        return checked(sweep)


def checked(sweep: Sweep) -> Sweep:
    """Return a sweep that can be run; one of train.py has its parameters by the names of settings.

    Raises:
        UserError: it cannot be run.
    """
    if is_ours(sweep.program):
        sweep = with_best_by(by_settings(sweep))
        check_contract(sweep)
    command_words(sweep.command, sweep.program, {}, Path())
    return sweep


def by_settings(sweep: Sweep) -> Sweep:
    """Return a sweep of train.py with its parameters by the names of settings, each for the models that have it.

    A group is only a heading, unless it is named for a model: then its settings are that model's alone, and go by both
    names, as in mlp.width.

    Raises:
        UserError: a parameter is a setting of none of the sweep's models, or one of them would be told a setting twice.
    """
    models = models_of(sweep)
    parameters = {}
    for entry in sweep.parameters.values():
        allowed = [model for model in models if may_be_told(entry.place, model)]
        own = frozenset(model for model in allowed if entry.place[-1] in kinds(find_model(model).settings_class))
        if not own and not allowed:
            raise UserError(
                f"parameter {entry.name}: the sweep has no trials of that model, only of {', '.join(models)}"
            )
        if not own:
            raise unknown_setting(find_model(allowed[0]).settings_class, entry.place[-1], f"parameter {entry.name}")
        name = entry.place[-1] if len(allowed) == len(models) else entry.name
        parameters[name] = replace(entry, only_for=own if len(own) < len(models) else None)
    for model in models:
        found: dict[str, tuple[str, ...]] = {}
        for entry in sweep.parameters.values():
            if may_be_told(entry.place, model):
                refuse_double(entry.place, found)
    chooser = CHOOSER if any(entry.only_for is not None for entry in parameters.values()) else ""
    bases = {
        model: asdict(find_model(model).settings_class()) | settings_of_command(sweep.content, model)
        for model in models
    }
    refusals = Refusals(sweep.content)
    return replace(sweep, parameters=parameters, chooser=chooser, is_flat=True, bases=bases, refusals=refusals)


def models_of(sweep: Sweep) -> list[str]:
    """Return the models of a sweep's trials.

    Raises:
        UserError: there is no model of that name, or it depends on itself which it is.
    """
    entry = next((entry for entry in sweep.parameters.values() if entry.place[-1] == CHOOSER), None)
    models = [str(value) for value in values_of(entry)] if entry else [sweep.told_model]
    for model in models:
        find_model(model)
        if entry and not may_be_told(entry.place, model):
            raise UserError(f"parameter {entry.name}: the model cannot stand in the group of another one")
    return models


def parameters_of(sweep: Sweep, model: str) -> Mapping[str, Parameter]:
    """Return the parameters of the trials of one of a sweep's models, by the names of settings."""
    return sweep.branch(model).parameters if sweep.chooser else sweep.parameters


def check_contract(sweep: Sweep) -> None:
    """Refuse a sweep that does not fit train.py.

    Args:
        sweep: with its parameters by the names of settings.

    Raises:
        UserError: a parameter is the agent's to set, or takes values that its setting does not, or no run logs the
            metric.
    """
    for word in sweep.command:
        if word.startswith("${args") and word not in READABLE:
            raise UserError(f"command: {word} gives words that train.py does not read: write ${{args}}")
    told = {f"parameter {entry.name}": entry.place[-1] for entry in sweep.parameters.values()}
    told |= {f"command: --{name}": name for name in told_by_command(sweep.content)}
    for place, name in told.items():
        if name in INVOCATION:
            raise UserError(f"{place}: the agent sets it for each run, leave it out")
    for model in models_of(sweep):
        settings_class, own = find_model(model).settings_class, parameters_of(sweep, model)
        options = {
            name: [coerce(settings_class, name, value) for value in values_of(parameter)]
            for name, parameter in own.items()
            if name != CHOOSER
        }
        if reason := reason_against(sweep, model, options):
            raise UserError(f"every combination is refused: {reason}")
        # Each name of a dataset, an optimizer, ... is tried by itself: all combinations would be too many.
        others = [(name, value) for name, values in options.items() for value in values[:-1]]
        for name, value in others:
            if is_decisive(name, value) and (reason := reason_against(sweep, model, {**options, name: [value]})):
                raise UserError(reason)


def reason_against(sweep: Sweep, model: str, options: Mapping[str, Sequence[Any]]) -> str:
    """Return why train.py refuses every combination of a model's settings; "" if it takes one, or that is not certain.

    It is certain if all were looked at, or if all that were looked at are refused for the very same reason.

    Args:
        sweep: whose metrics a run is to log.
        model: the model.
        options: of each setting that the sweep tells, its values.

    Raises:
        UserError: a run that is not refused does not log the metrics.
    """
    assert sweep.refusals is not None
    reasons = list[str]()
    for told in combinations_of(sweep, model, options):
        if reason := sweep.refusals.reason({**told, "model": model}):
            reasons.append(reason)
            continue
        if reasons and sweep.refusals.is_spent:
            return ""
        words = {**settings_of_command(sweep.content, model), **told, "model": model}
        settings = find_model(model).settings_class(**words)
        for metric in sweep.objectives.metrics:
            if metric.name not in MEASURED or metric is sweep.metric:
                check_metric(metric, settings)
        return ""
    is_certain = sweep.method == "grid" or num_of(sweep, model, options) <= MOST_TRIED or len(set(reasons)) == 1
    return reasons[0] if is_certain else ""


def combinations_of(sweep: Sweep, model: str, options: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield combinations of a model's settings: all if they are few; else random ones, and a grid's first.

    That of all the last values comes first.
    """
    if num_of(sweep, model, options) <= MOST_TRIED:
        for values in itertools.product(*(values[::-1] for values in options.values())):
            yield dict(zip(options, values, strict=True))
        return
    yield {name: values[-1] for name, values in options.items()}
    generator, own = random.Random(0), parameters_of(sweep, model)
    for _ in range(MOST_TRIED):
        drawn = {name: generator.choice(values) for name, values in options.items()}
        for name in drawn:
            if len(options[name]) > 1 and has_range(own[name]):
                value = own[name].value(own[name].draw(generator.random()))
                drawn[name] = coerce(find_model(model).settings_class, name, value)
        yield drawn
    if sweep.method == "grid":
        tolds = (sweep.told(points) for points in sweep.grid())
        yield from itertools.islice((told for told in tolds if told.get(CHOOSER, model) == model), 1)


def num_of(sweep: Sweep, model: str, options: Mapping[str, Sequence[Any]]) -> float:
    """Return the number of combinations of some options; infinity if a range is among them."""
    own = parameters_of(sweep, model)
    is_endless = any(len(values) > 1 and has_range(own[name]) for name, values in options.items())
    return math.inf if is_endless else math.prod(map(len, options.values()))


def has_range(parameter: Parameter) -> bool:
    """Return whether a parameter has more values than `values_of` gives."""
    return not isinstance(parameter.space, CategoricalDistribution | None)


def with_best_by(sweep: Sweep) -> Sweep:
    """Return a sweep whose trials keep the weights that are the best by its metric, unless its file says by which.

    It is told as a parameter, since a run of W&B's agent learns nothing else of its sweep.
    """
    if "best_by" in told_by_command(sweep.content):
        return sweep
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


def check_metric(metric: Metric, settings: Settings) -> None:
    """Refuse a metric that a run with these settings does not log every epoch, as its own or by `best_by`.

    Raises:
        UserError: so it is, or `best_by` has the other goal for it.
    """
    find_dataset(settings.dataset)
    info = describe(settings.dataset, settings.image_size, settings.eval_crop)
    if info is None:  # only the images themselves say how many classes there are
        check_model(settings)
    check_logged(metric.name, f"metric {metric.name}", settings, info)
    kept = metric_named(settings.best_by)
    if kept.name != metric.name:
        check_best_by(settings, info)
    elif kept.goal != metric.goal:
        raise UserError(
            f"best_by={settings.best_by} would {kept.goal} what the sweep is to {metric.goal}: give best_by the value "
            f"{metric.text()}"
        )
