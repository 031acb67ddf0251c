"""Settings of a run: flat, typed and frozen, and strict about names, types and ranges.

Precedence, weakest first: the defaults in the settings classes, what `accelerate launch` and `wandb agent`
say in the environment, `--key=value` on the command line, the sweep's values.
"""

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from analysis.record import run_folder
from data.errors import UserError, suggestion


@dataclass(frozen=True, slots=True)
class Range:
    """Closed interval of the values a number may take; with `low_excluded` the lower end is left out."""

    low: float
    high: float = math.inf
    low_excluded: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.low_excluded and value == self.low)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.low_excluded else f"at least {self.low:g}"
        return f"{'above' if self.low_excluded else 'from'} {self.low:g} to {self.high:g}"


PositiveInt = Annotated[int, Range(1)]
Count = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, low_excluded=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 0.99999)]  # of a moving average


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every run can be told, whatever its model."""

    model: str = "cnn"
    """Network to train: a key of MODELS in models/__init__.py."""
    dataset: str = "cifar10"
    """Images to train on: a key of DATASETS in data/datasets.py."""
    epochs: PositiveInt = 16
    """Passes over the training images; with `patience`, the most there can be."""
    batch_size: PositiveInt = 128
    """Images of one optimizer step, over all processes and accumulated micro-batches."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    seed: Count = 3407
    """Seed of the weights, the order of the batches, augmentation and dropout."""

    data_dir: str = ""
    """Folder of the images; empty: $VISION_SWEEPS_DATA, else vision-sweeps in the user's cache folder."""
    data_seed: Count = 3407
    """Seed of the splits, which are the same on every machine."""
    train_fraction: Annotated[float, Range(0, 1, low_excluded=True)] = 1.0
    """Share of the training images that is used at all, before the validation split."""
    val_fraction: Annotated[float, Range(0, 0.9)] = 0.1
    """Share of the used training images held out for validation; 0 for none."""
    test: bool = False
    """Evaluate the test images once, at the end."""
    image_size: Count = 0
    """Side of the images in pixels, for datasets that resize; 0 for the dataset's own."""
    normalisation: Literal["channel", "symmetric", "unit"] = "channel"
    """Pixel values: each channel to mean 0 and deviation 1 over the training split, [-1, 1], or [0, 1]."""
    resident: Literal["auto", "device", "host"] = "auto"
    """Where the uint8 images live; auto: on the device where they take at most half of its free memory."""
    max_corrupt_images: Count = 10
    """Unreadable files of a folder that are named and skipped; one more ends the run."""

    augmentation: Literal["none", "crop_flip", "randaugment", "trivialaugment"] = "none"
    """Random changes to training images: crop_flip is a shift of up to 1/8 of the side and a mirror image;
    the other two add their policy to it, one draw for every 8 images."""
    cutout: Count = 0
    """Side in pixels of a square blanked out of every training image; 0 for none."""

    optimizer: str = "adam"
    """sgd (Nesterov), adam, adamw, or any name of timm's optimizer factory."""
    momentum: Fraction = 0.9
    """Momentum of sgd and of timm's optimizers that have one."""
    beta1: Decay = 0.9
    """Decay of the mean of the gradients that adam and adamw keep."""
    beta2: Decay = 0.999
    """Decay of the mean of their squares."""
    weight_decay: NonNegative = 0.0
    """Weight decay, added to the gradient by adam and sgd, decoupled by adamw; norms and biases have none."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """Course of the learning rate: flat, half a cosine down to 0, or up for 30 % of the steps and down."""
    warmup_epochs: NonNegative = 0.0
    """Epochs over which the learning rate first climbs in a straight line from 0."""
    grad_clip: NonNegative = 0.0
    """Largest norm of the gradient; 0 for no clipping."""
    accumulation_steps: PositiveInt = 1
    """Micro-batches a step is computed in, to save memory: the step still sees batch_size images."""
    ema_decay: Decay = 0.0
    """Decay per step of an exponential moving average of weights and running statistics, which is then evaluated;
    0 for none. It climbs to this value, as 1 - (1 + step)^(-2/3)."""
    patience: Count = 0
    """Stop after this many epochs without a better one, by validation loss or what else the model is judged by;
    0 for never."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Number format of the arithmetic; the default is what `accelerate launch` says, if it says so."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory layout of convolutions; auto: on for convolutional networks on a GPU, or with bf16 on a CPU."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    eval_batch_size: PositiveInt = 500
    """Images a process evaluates at once."""

    runs_dir: str = "runs"
    """Folder that the run's own folder is made in; $VISION_SWEEPS_RUNS is its default."""
    run_id: str = ""
    """Name of the run's folder and its W&B id; empty: a fresh one. A name that exists is resumed."""
    resume: bool = False
    """Continue run_id, or without one the latest unfinished run of runs_dir."""
    tracking: Literal["auto", "online", "offline", "off"] = "auto"
    """W&B; auto: online with credentials and a network, else offline. The run folder is written anyway."""
    project: str = "vision-sweeps"
    """W&B project; $WANDB_PROJECT wins."""
    tags: str = ""
    """Comma-separated W&B tags."""
    panels_every: PositiveInt = 5
    """Epochs between two image panels; the last epoch always draws them."""
    dry_run: bool = False
    """Print the settings, the network and its parameter count, and stop."""

    def __post_init__(self) -> None:
        """Refuse what no single setting's range can."""
        if self.run_id and not re.fullmatch(r"\w[\w.-]*", self.run_id):
            raise UserError(f"--run_id={self.run_id} names a folder and a W&B run: use letters, digits, - _ and .")


BOOLEANS = {"true": True, "false": False}


def resolve(
    arguments: Iterable[str], environment: Mapping[str, str], models: Mapping[str, tuple[type[Settings], Any]]
) -> Settings:
    """The settings of this run, from the command line, the environment and, under an agent, the sweep.

    Where the run exists already, its saved settings take the place of the defaults.

    Raises:
        UserError: an unknown name, a value of the wrong type or out of range, or a resumed run whose saved
            settings differ.
    """
    sweep = sweep_values(environment)
    told = {**parse_arguments(arguments), **sweep}
    given: dict[str, Any] = {**environment_values(environment), **told}
    saved = saved_settings(given)
    kept = {key: value for key, value in saved.items() if key not in ("runs_dir", "resume", "dry_run")}
    # A launcher says "no" mixed precision when it was told nothing, which is no reason not to resume.
    given = {key: value for key, value in given.items() if key in told or key not in kept}
    model = str(given.get("model", Settings.model))
    if "model" not in given:
        model = saved.get("model", model)
    if model not in models:
        raise UserError(f"model={model!r} is not known{suggestion(model, models)}; there are: {', '.join(models)}")
    settings_class = models[model][0]
    values = {
        key: coerce(settings_class, key, value, is_text=key not in sweep, models=models) for key, value in given.items()
    }
    for key, value in values.items():
        if key not in run_folder.MAY_CHANGE_ON_RESUMING and key in saved and saved[key] != value:
            raise UserError(
                f"{key}={value!r} differs from the {saved[key]!r} of run {saved['run_id']!r}: "
                f"leave it out to resume, or give another --run_id"
            )
    values["model"] = model
    if gone := kept.keys() - type_hints(settings_class).keys():
        raise UserError(f"run {saved['run_id']!r} has the setting {min(gone)}, which is no more: start a new run")
    return settings_class(**{**kept, **values})


def parse_arguments(arguments: Iterable[str]) -> dict[str, str]:
    """Command-line words as a dict: `--key=value`, `--key value`, a bare `--flag` for true; the last wins."""
    given: dict[str, str] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(f"{word!r} is not understood: settings are written --key=value (see --help)")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        given[key.replace("-", "_")] = value
    return given


def environment_values(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings that launchers and agents hand over in environment variables."""
    names = {
        "mixed_precision": "ACCELERATE_MIXED_PRECISION",
        "run_id": "WANDB_RUN_ID",
        "runs_dir": "VISION_SWEEPS_RUNS",
    }
    return {key: environment[name] for key, name in names.items() if environment.get(name)}


def sweep_values(environment: Mapping[str, str]) -> dict[str, Any]:
    """Values of the sweep that started this run; agents name a YAML file `{key: {value: v}}`, W&B's contract."""
    path = environment.get("WANDB_SWEEP_PARAM_PATH", "")
    if not path or not Path(path).is_file():
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
        return {key: entry["value"] for key, entry in content.items() if key != "wandb_version"}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        raise UserError(f"WANDB_SWEEP_PARAM_PATH={path}: not a YAML of {{key: {{value: v}}}}") from None


def saved_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the run that is to be resumed; empty for a fresh one."""
    runs_dir = Path(str(given.get("runs_dir", Settings.runs_dir)))
    run_id = str(given.get("run_id", ""))
    resume = str(given.get("resume", "false")).lower() == "true"
    if resume and not run_id:
        run_id = run_folder.latest_unfinished(runs_dir) or ""
        if not run_id:
            raise UserError(f"--resume found no unfinished run in {runs_dir}: give --run_id, or start a new run")
    saved = run_folder.read_json(runs_dir / run_id / run_folder.SETTINGS) if run_id else {}
    if resume and not saved:
        raise UserError(f"--run_id={run_id} has no run in {runs_dir} to resume: leave out --resume to start it")
    return {**saved, "run_id": run_id} if saved else {}


def coerce(
    settings_class: type[Settings],
    key: str,
    value: Any,
    *,
    is_text: bool,
    models: Mapping[str, tuple[type[Settings], Any]],
) -> Any:
    """`value` in the type that `settings_class` declares for `key`.

    Args:
        settings_class: the model's settings.
        key: name of a setting.
        value: text from the command line, or a typed value from a sweep.
        is_text: whether numbers and booleans are to be read out of text.
        models: all models, to tell whose setting an unknown key is.

    Raises:
        UserError: unknown key, wrong type, or out of range.
    """
    hints = type_hints(settings_class)
    if key not in hints:
        owners = [name for name, (other, _) in models.items() if key in type_hints(other)]
        whose = f", it belongs to {', '.join(owners)}" if owners else suggestion(key, hints)
        raise UserError(f"--{key}={value} is not a setting of {settings_class.__name__}{whose} (see --help)")
    kind, allowed = hints[key]
    if is_text:
        value = read_text(kind, key, str(value))
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():  # W&B's q_uniform gives 3.0
        value = int(value)
    is_wrong = type(value) is not kind  # no isinstance: a bool is no number
    if is_wrong:
        hint = "; YAML reads 1e-3 as text, write 1.0e-3" if kind is float and type(value) is str else ""
        raise UserError(f"{key}={value!r} is of type {type(value).__name__}, not {kind.__name__}{hint}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"--{key}={value} is not a finite number")
    if isinstance(allowed, Range) and value not in allowed:
        raise UserError(f"--{key}={value} is out of range: it must be {allowed}")
    if isinstance(allowed, tuple) and value not in allowed:
        raise UserError(f"--{key}={value} is none of {', '.join(allowed)}{suggestion(value, allowed)}")
    return value


def read_text(kind: Any, key: str, text: str) -> Any:
    """The number, boolean or text that `text` spells."""
    try:
        return BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise UserError(f"--{key}={text} is not {expected}") from None


def type_hints(settings_class: type[Settings]) -> dict[str, tuple[type, Range | tuple[str, ...] | None]]:
    """Type of every setting, with its range or its choices."""
    hints: dict[str, tuple[type, Range | tuple[str, ...] | None]] = {}
    for key, hint in get_type_hints(settings_class, include_extras=True).items():
        if get_origin(hint) is Literal:
            hints[key] = (str, get_args(hint))
        elif get_origin(hint) is Annotated:
            hints[key] = get_args(hint)
        else:
            hints[key] = (hint, None)
    return hints


def documentation(settings_class: type[Settings]) -> dict[str, str]:
    """The string below each field of a settings class, its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(settings_class.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                docs[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return docs


def help_text(models: Mapping[str, tuple[type[Settings], Any]]) -> str:
    """What `train.py --help` prints: every setting with its default, its range or choices, and its meaning."""
    lines = ["usage: train.py [--key=value ...]", "", "settings of every run:"]
    lines += describe(Settings, documentation(Settings))
    for name, (settings_class, _) in models.items():
        docs = documentation(settings_class)
        own = {
            key: docs[key]
            for key in type_hints(settings_class)
            if key != "model" and getattr(Settings, key, None) != getattr(settings_class, key)
        }
        lines += ["", f"--model={name}: {inspect.getdoc(settings_class)}", *describe(settings_class, own)]
    return "\n".join(lines)


def describe(settings_class: type[Settings], docs: Mapping[str, str]) -> list[str]:
    """Help lines of the settings in `docs`."""
    lines = []
    for key, doc in docs.items():
        kind, allowed = type_hints(settings_class)[key]
        default = getattr(settings_class, key)
        kinds = "|".join(allowed) if isinstance(allowed, tuple) else f"{kind.__name__} {allowed or ''}".strip()
        lines.append(f"  --{key}={default!r}  ({kinds})")
        lines += textwrap.wrap(doc, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines
