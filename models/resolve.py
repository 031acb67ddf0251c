"""How the settings of a run are found: values are parsed, merged with those of a saved run, and validated.

If several sources give a setting, the last of these counts:

1. the default in the model's settings class,
2. environment variables that `accelerate launch`, `wandb agent` or the user set,
3. the saved settings of the run that is resumed,
4. the file that `--config` names: a YAML file of settings, or the settings.json of a run,
5. `--key=value` on the command line,
6. the values chosen by the sweep that the run belongs to.
"""

import math
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import UserError, nearest, suggestion
from data.paths import expanded
from data.yaml_file import read_yaml_file
from models.core.settings import CIRCUMSTANCES, INVOCATION, Kind, Range, Settings, kinds
from models.registry import MODELS, find_model, models_with
from models.setting_groups import CHOOSER, settings_for

EXTENSIBLE = {"schedule": "constant", "start_size": 0}  # with these, training is the same for any number of epochs
LARGEST_INT = 2**53  # which JSON and W&B still tell from its neighbours
CONFIG = "config"  # on the command line; no setting of a run
BOOLEANS = {"true": True, "false": False}
# What other programs call a setting, where it is not spelled alike; and what they are told that this one does itself.
CALLED = {
    "learning_rate": "lr",
    "bs": "batch_size",
    "wd": "weight_decay",
    "random_seed": "seed",
    "val_split": "val_fraction",
    "early_stopping": "patience",
    "data_path": "data_dir",
    "amp": "mixed_precision",
    "bf16": "mixed_precision=bf16",
    "fp16": "mixed_precision=fp16",
    "offline": "tracking=offline",
    "no_wandb": "tracking=off",
    **dict.fromkeys(("output", "output_dir", "save_dir", "log_dir"), "runs_dir"),
    **dict.fromkeys(("clip_grad", "clip_grad_norm", "max_grad_norm", "gradient_clip_val"), "grad_clip"),
    **dict.fromkeys(("resume_from", "name", "run_name", "exp_name", "experiment"), "run_id"),
}
DEVICES = "a GPU is taken where there is one, CUDA_VISIBLE_DEVICES chooses which, and an empty one leaves the CPU"
NEEDLESS = {
    **dict.fromkeys(("device", "gpu", "cuda", "cpu"), DEVICES),
    "gpus": "one GPU is taken where there is one, and more by accelerate launch --multi_gpu --num_processes 2 train.py",
    **dict.fromkeys(("num_workers", "workers"), "batches are gathered in the background by themselves"),
}
VARIABLES = {
    "mixed_precision": "ACCELERATE_MIXED_PRECISION",
    "run_id": "WANDB_RUN_ID",
    "runs_dir": "VISION_SWEEPS_RUNS",
    "project": "WANDB_PROJECT",
    "stop_after": "VISION_SWEEPS_STOP_AFTER",
}


class Text(str):
    """A value as a person types it, which still has to be converted to the type of its setting."""


class Bare(Text):
    """The "true" that a name without a value stands for."""


class Told(NamedTuple):
    """The values that a run was given when it was started, from each source: setting name -> value."""

    environment: Mapping[str, Text]
    config: Mapping[str, Any]  # already of some type, as the sweep's
    command_line: Mapping[str, Text]
    sweep: Mapping[str, Any]

    def text(self, name: str, default: str = "") -> str:
        """Return the value given for a setting, as text, or `default` if no source gives any."""
        return str({**self.environment, **self.config, **self.command_line, **self.sweep}.get(name, default))


def parse(arguments: Iterable[str], environment: Mapping[str, str]) -> Told:
    """Return the values that the environment, a file, the command line and the sweep (if any) give to settings.

    Raises:
        UserError: a word on the command line is no setting, the file is none of settings, or the sweep's file does not
            have W&B's format.
    """
    variables = {key: Text(environment[name]) for key, name in VARIABLES.items() if environment.get(name)}
    sweep = sweep_values(environment)
    given = parse_arguments(arguments, groups={name for name, value in sweep.items() if isinstance(value, dict)})
    config = config_values(given.pop(CONFIG)) if CONFIG in given else {}
    told = Told(variables, config, given, sweep)
    return told._replace(sweep=settings_for(told.text(CHOOSER, Settings.model), sweep))


def config_values(name: str) -> dict[str, Any]:
    """Return the settings in a YAML file, or in the settings.json of a run, but for those that say which run it is.

    Raises:
        UserError: there is no such file, or it does not hold settings and their values.
    """
    example = "name a YAML file of settings, such as sweeps/best/cnn.yaml, or the settings.json of a run"
    if isinstance(name, Bare):
        raise UserError(f"--config has no value: {example}")
    content = read_yaml_file(expanded(name), example)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"--config={name} does not hold `setting: value`, line by line: {example}")
    if isinstance(content.get("parameters"), dict):
        raise UserError(f"--config={name} is a sweep, which python sweeps/agent.py {name} searches: {example}")
    return {key: value for key, value in content.items() if key not in INVOCATION}


def parse_arguments(arguments: Iterable[str], groups: Collection[str] = ()) -> dict[str, Text]:
    """Return the settings on the command line: `--key=value`, `--key value`, or `--key` alone for true.

    If a key occurs several times, the last one counts. Keys that begin with an underscore are W&B's own, such as the
    _wandb of a run that it hands out a second time.

    Args:
        arguments: the words.
        groups: names of a sweep's groups, which W&B's agent writes as --group={'key': value}: the sweep has the values.

    Raises:
        UserError: a word does not belong to a setting.
    """
    given: dict[str, Text] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(f"{word!r} is not understood: settings are written --key=value (see --help)")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else Bare("true")
        if key in groups and value.startswith("{"):
            continue
        given[key.replace("-", "_")] = value if isinstance(value, Bare) else Text(value)
    return {key: value for key, value in given.items() if not key.startswith("_")}


def sweep_values(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that the sweep has chosen for this run, in their groups; empty if the run has no sweep.

    The sweep's agent writes them to a YAML file, {key: {value: v}}, and names it in an environment variable. Names that
    begin with an underscore are W&B's own, such as _wandb.

    Raises:
        UserError: the file does not have this format.
    """
    path = environment.get("WANDB_SWEEP_PARAM_PATH", "")
    if not path or not Path(path).is_file():
        return {}
    try:
        content = read_yaml_file(Path(path)) or {}
        entries = {str(key): entry for key, entry in content.items() if key != "wandb_version"}
        return {key: entry["value"] for key, entry in entries.items() if not key.startswith("_")}
    except (UserError, AttributeError, KeyError, TypeError):
        raise UserError(f"WANDB_SWEEP_PARAM_PATH={path}: not a YAML of {{key: {{value: v}}}}") from None


def merge(told: Told, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each setting that the run was given or, if it is resumed, that was saved with it.

    Args:
        told: values given at the start of the program.
        saved: settings of the run that is resumed; empty for a new run.
    """
    handed_on = {key: value for key, value in saved.items() if key not in INVOCATION or key == "run_id"}
    merged = {**told.environment, **handed_on, **told.config, **told.command_line, **told.sweep}
    foreign = not_applicable(told.sweep, str(merged.get(CHOOSER, Settings.model)))
    return {key: value for key, value in merged.items() if key not in foreign}


def not_applicable(values: Iterable[str], model: str) -> list[str]:
    """Return those of a sweep's settings that this model lacks, but another model has."""
    if model not in MODELS:
        return []
    own = kinds(MODELS[model].settings_class)
    return [key for key in values if key not in own and models_with(key)]


def validate(merged: Mapping[str, Any], saved: Mapping[str, Any]) -> Settings:
    """Check all values and return them as the settings of a run, in the settings class of its model.

    Args:
        merged: setting name -> value, either `Text` or of the setting's type.
        saved: settings of the run that is resumed; empty for a new run.

    Raises:
        UserError: a name is not known, a value has the wrong type or is not allowed, or a setting that must not change
            differs from that of the saved run.
    """
    model = str(coerce(Settings, "model", merged.get("model", Settings.model)))
    settings_class = find_model(model).settings_class
    refuse_change("model", model, saved)
    if gone := {key for key in merged.keys() - kinds(settings_class).keys() if key in saved}:
        raise UserError(f"run {saved['run_id']!r} has the setting {min(gone)}, which is no more: start a new run")
    values = {key: coerce(settings_class, key, value) for key, value in merged.items() if key != "model"}
    defaults = {field.name: field.default for field in fields(settings_class)} if saved else {}
    for key, value in values.items():
        refuse_change(key, value, {**defaults, **saved})  # a run older than a setting had its default
    return settings_class(**values, model=model)


def refuse_change(key: str, value: Any, saved: Mapping[str, Any]) -> None:
    """Refuse another value of a run's recipe than the one that was saved with it; there may be more epochs, though.

    W&B knows a row by its number, so that a resumed run has to log as many of them between two epochs as before.

    Raises:
        UserError: the value differs from the saved one, and the setting is not a circumstance, or `log_every`; or there
            are to be more epochs, and something takes a course over those that there were to be.
    """
    if (key in CIRCUMSTANCES and key != "log_every") or key not in saved or saved[key] == value:
        return
    differs = f"--{key}={value} differs from the {saved[key]!r} of run {saved['run_id']!r}"
    if key == "epochs" and value > saved[key]:
        courses = [f"--{name}={saved[name]}" for name, free in EXTENSIBLE.items() if saved.get(name, free) != free]
        if not courses:
            return
        raise UserError(
            f"{differs}, over which {' and '.join(courses)} takes its whole course: leave it out to resume, or give "
            f"another --run_id; a run can be extended with {' and '.join(f'{k}={v}' for k, v in EXTENSIBLE.items())}"
        )
    raise UserError(f"{differs}: leave it out to resume, or give another --run_id")


def coerce(settings_class: type[Settings], key: str, value: Any) -> Any:
    """Convert `value` to the type of the setting `key`, and return it if the setting allows it; `runs_dir` without `~`.

    Raises:
        UserError: `settings_class` has no such setting, or the value has another type or is not allowed.
    """
    known = kinds(settings_class)
    if key not in known:
        raise unknown_setting(settings_class, key, f"--{key}={value}")
    kind = known[key]
    if isinstance(value, Bare) and kind.type is not bool:
        raise UserError(f"--{key} has no value: write --{key}={getattr(settings_class, key) or 'VALUE'}, for example")
    if isinstance(value, Text):
        value = read_text(kind, key, value)
    if kind.type is float and type(value) is int:
        value = float(value) if abs(value) < sys.float_info.max else math.inf
    if kind.type is int and type(value) is float and value.is_integer():  # W&B's q_uniform gives 3.0
        value = int(value)
    if type(value) is not kind.type:  # isinstance would take a bool for an int
        hint = "; YAML reads 1e-3 as text, write 1.0e-3" if kind.type is float and type(value) is str else ""
        raise UserError(f"--{key}={value!r} is of type {type(value).__name__}, not {kind.type.__name__}{hint}")
    if kind.type is float and not math.isfinite(value):
        raise UserError(f"--{key}={value} is not a finite number")
    if kind.type is int and abs(value) > LARGEST_INT:
        raise UserError(f"--{key}={value} is out of range: it must be at most {LARGEST_INT}")
    if isinstance(kind.allowed, Range) and value not in kind.allowed:
        raise UserError(f"--{key}={value} is out of range: it must be {kind.allowed}")
    if isinstance(kind.allowed, tuple) and value not in kind.allowed:
        raise UserError(f"--{key}={value} is none of {', '.join(kind.allowed)}{suggestion(value, kind.allowed)}")
    return str(expanded(value)) if key == "runs_dir" and value else value


def unknown_setting(settings_class: type[Settings], key: str, told: str) -> UserError:
    """Return the error for a name that is no setting of a class; it begins with how that was told, such as --lrr=0.1.

    It names the models that do have the setting; if there are none, it says why none is needed, or suggests one with a
    similar name or meaning.
    """
    models = [name for name, model in MODELS.items() if model.settings == settings_class.__name__]
    owners, dashes = models_with(key), "--" if told.startswith("--") else ""
    belongs = f", it belongs to {', '.join(owners)}" if owners else ""
    needless = f": {NEEDLESS[key]}" if key in NEEDLESS else ""
    meant = CALLED.get(key) or nearest(key, kinds(settings_class))
    remedy = belongs or needless or (f", did you mean {dashes}{meant}?" if meant else "")
    return UserError(f"{told} is not a setting of --model={' or '.join(models)}{remedy} (see --help)")


def read_text(kind: Kind, key: str, text: str) -> Any:
    """Convert a typed text to the type of its setting.

    Raises:
        UserError: the text is no such number or boolean.
    """
    try:
        return BOOLEANS[text.lower()] if kind.type is bool else kind.type(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind.type]
        hint = f": to resume the run of that name, give --run_id={text}" if key == "resume" else ""
        raise UserError(f"--{key}={text} is not {expected}{hint}") from None
