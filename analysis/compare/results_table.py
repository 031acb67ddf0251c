"""The results table of README.md: measured figures beside the notebook's and public ones."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.compare.references import REFERENCES, Reference
from analysis.terminal import clock
from data.errors import UserError

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
COLUMNS = [
    "network",
    "learning rate",
    "epochs",
    "parameters",
    "obtained",
    "test loss",
    "seeds",
    "training",
    "images/s",
    "on",
    "the notebook",
    "public figures",
]


@dataclass(frozen=True)
class Result:
    """What one model's runs with the same settings came to; None where it was not measured.

    Attributes:
        name: of the sweep whose best trial it is, or of the run.
        model: a key of MODELS.
        dataset: a key of DATASETS.
        settings: those that were told, without the protocol's.
        lr: learning rate.
        epochs: of training.
        num_seeds: runs.
        num_parameters: trainable ones.
        metrics: mean and standard deviation, the latter None for one seed, by name: test/accuracy and the like.
        train_seconds: mean time of training.
        images_per_second: mean speed of training.
        device: hardware.
        command: what makes the row again.
        note: what else there is to say.
    """

    name: str
    model: str
    dataset: str
    settings: Mapping[str, Any]
    lr: float | None
    epochs: int | None
    num_seeds: int
    num_parameters: int | None
    metrics: Mapping[str, Mapping[str, float | None]]
    train_seconds: float | None
    images_per_second: float | None
    device: str
    command: str
    note: str = ""


def read_results(path: Path) -> list[Result]:
    """The committed results."""
    return [Result(**entry) for entry in json.loads(path.read_text())]


def figures_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run's figures on the test images, or on the held-out ones where it read none."""
    split = "test/" if any(key.startswith("test/") for key in summary) else "val/"
    return {key: value for key, value in summary.items() if key.startswith(split)}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation; the latter needs two values."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": std, "values": list(values)}


def plus_minus(figure: Mapping[str, Any], key: str) -> str:
    """A mean with its deviation."""
    few = 2 if abs(figure["mean"]) >= 10 else 4
    scale, digits, unit = (100, 2, " %") if key.endswith("accuracy") else (1, few, "")
    figures = [f"{scale * figure[part]:.{digits}f}" for part in ("mean", "std") if figure[part] is not None]
    return " ± ".join(figures) + unit


def reference_of(result: Result) -> Reference | None:
    """The row that a result belongs to, the most special one."""
    from models.registry import MODELS  # imported late: takes seconds

    settings_class = MODELS[result.model][0]
    fitting = [
        reference
        for reference in REFERENCES
        if (reference.model, reference.dataset) == (result.model, result.dataset)
        and all(
            result.settings.get(key, getattr(settings_class, key)) == value for key, value in reference.settings.items()
        )
    ]
    return max(fitting, key=lambda reference: len(reference.settings), default=None)


def render(results: Sequence[Result]) -> str:
    """The part of README.md that is made of the results."""
    by_title: dict[str, list[Result]] = {}
    for result in results:
        reference = reference_of(result)
        by_title.setdefault(reference.title if reference else "", []).append(result)
    rows = []
    for reference in REFERENCES:
        first, *others = by_title.get(reference.title, [None])
        rows += [row(reference, first), *(row(reference._replace(public=()), other) for other in others)]
    rows += [row(None, result) for result in by_title.get("", [])]
    table = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    notes = {result.name: f", {result.note}" if result.note else "" for result in results}
    lines += ["", "Each again:", ""]
    lines += [f"- `{result.name}`{notes[result.name]}:<br>`{result.command}`" for result in results]
    return "\n".join(lines)


def row(reference: Reference | None, result: Result | None) -> list[str]:
    """The cells of a row of the table."""
    title = reference.title if reference else f"{result.model} on {result.dataset}" if result else ""
    metric = reference.metric if reference else "test/accuracy"
    obtained = [""] * (len(COLUMNS) - 3)
    if result:
        special = reference.settings if reference else {}
        told = [f"{key}={value}" for key, value in result.settings.items() if key not in special]
        title = ", ".join([title, *told])
        figures = (figure(result.metrics, name) for name in (metric, "test/loss"))
        obtained = [
            number("{:.2e}", result.lr).replace("e-0", "e-"),
            number("{}", result.epochs),
            number("{:,}", result.num_parameters),
            *figures,
            str(result.num_seeds),
            "" if result.train_seconds is None else clock(result.train_seconds),
            number("{:,.0f}", result.images_per_second),
            result.device,
        ]
    notebook = public = ""
    if reference:
        notebook = " in ".join(part for part in (reference.notebook, reference.notebook_time) if part)
        public = "; ".join(f"[{figure}]({source}) {what}" for figure, what, source in reference.public)
    return [title, *obtained, notebook, public]


def figure(metrics: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """The figure of that name; of those in whose names a number of samples follows, that of the most."""
    if name in metrics:
        return plus_minus(metrics[name], name)
    nums = [int(rest) for key in metrics if (rest := key.removeprefix(f"{name}_")).isdigit()]
    return f"{plus_minus(metrics[f'{name}_{max(nums)}'], name)} of {max(nums):,}" if nums else ""


def number(form: str, value: float | None) -> str:
    """A figure; nothing where it was not measured."""
    return "" if value is None else form.format(value)


def replace_section(text: str, section: str) -> str:
    """README.md with another section of results.

    Raises:
        UserError: it has no place for one.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md has no place for the results: write {BEGIN} and {END} round it")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"
