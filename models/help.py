"""What `train.py --help` and `--dry_run` print.

The help is each setting with its default, its range or choices, and its meaning.
"""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache

from data import datasets
from models.core.objective import count_parameters
from models.core.settings import Settings, kinds
from models.idle_settings import warn_of_idle
from models.loading import build_objective, read_data
from models.logged_metrics import check_best_by, check_patience
from models.registry import MODELS

USAGE = (
    "usage: train.py [--config=FILE] [--key=value ...]",
    "",
    "  --help --model=NAME",
    "      tell the settings of one model alone.",
    "  --config=FILE",
    "      YAML file of settings, such as sweeps/best/cnn.yaml, or the settings.json of a run; what is given",
    "      besides wins over it.",
)


def help_text(chosen: str = "") -> str:
    """Return the help text: first the settings of every run, then for each model those it adds or changes.

    Args:
        chosen: the only model whose settings are told; all of them where it is no model.
    """
    lines = [*USAGE, "", "settings of every run:"]
    lines += describe(Settings, documentation(Settings))
    for name, model in {chosen: MODELS[chosen]}.items() if chosen in MODELS else MODELS.items():
        settings_class = model.settings_class
        docs = documentation(settings_class)
        own = {
            key: docs[key]
            for key in kinds(settings_class)
            if key != "model" and getattr(Settings, key, None) != getattr(settings_class, key)
        }
        lines += ["", f"--model={name}: {inspect.getdoc(settings_class)}", *describe(settings_class, own)]
    return "\n".join(lines)


def documentation(settings_class: type[Settings]) -> dict[str, str]:
    """Return the help string of each setting, which stands below its field in the class or in a base of it."""
    return {key: doc for base in reversed(settings_class.__mro__[:-1]) for key, doc in own_documentation(base).items()}


@cache  # all models have the same base, whose source takes long to find and to parse
def own_documentation(settings_class: type) -> dict[str, str]:
    """Return the help string of each field that a class itself has."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings_class))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(str(ast.literal_eval(below.value)).split())
        for field, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


def describe(settings_class: type[Settings], docs: Mapping[str, str]) -> list[str]:
    """Return the lines of the help text for the settings in `docs`."""
    lines = []
    for key, doc in docs.items():
        kind = kinds(settings_class)[key]
        default = getattr(settings_class, key)
        values = (
            "|".join(kind.allowed) if isinstance(kind.allowed, tuple) else f"{kind.type.__name__} {kind.allowed or ''}"
        )
        lines.append(f"  --{key}={default!r}  ({values.strip()})")
        lines += textwrap.wrap(doc, 100, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)
    return lines


def outline(settings: Settings) -> str:
    """Return what a run would train, and with what settings, as text."""
    info = datasets.describe(settings.dataset, settings.image_size, settings.eval_crop) or read_data(settings)[0]
    check_best_by(settings, info)
    check_patience(settings, info)
    warn_of_idle(settings)
    objective = build_objective(settings, info)
    trainable, total = count_parameters(objective)
    lines = [f"{key}: {value}" for key, value in asdict(settings).items()]
    if info.num_images:  # else no image was read
        lines.append(f"images: {info.in_one_line()}")
    return "\n".join([*lines, str(objective), f"num_parameters: {trainable}", f"total_parameters: {total}"])
