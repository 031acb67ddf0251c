"""The text of RESULTS.md: results beside those of the notebook and published ones."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.compare.references import Reference, recipes, references
from analysis.read.figures import plus_minus
from analysis.read.recipe import default_settings, flags
from analysis.terminal import clock
from data.errors import UserError
from data.files import refusing_damage
from data.metrics import is_of_test_images

HEADER = """# Results

Each row is the mean and the sample standard deviation over the seeds of its runs, beside the figure of the notebook
that this suite began as (on a P100 GPU) and published figures of the same family of networks. A cell is empty where
nothing was measured; with one seed, a difference of a point means little.

**Nothing is chosen on test images.** A sweep chooses the settings and the number of epochs on validation images, which
are held out of the training images. Final runs then train with these settings and fresh seeds on all the training
images, for that number of epochs, and read the test images once, at their end. Rows of no sweep have the settings that
their command names, and read the test images once, too. A dataset without test images has the figures of its validation
images.

This file is written by `python -m analysis.results --update`, out of [results.json](results.json) and the final runs in
the runs folder, and checked by `--check`: do not edit it by hand.

## Table
"""
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


NOT_RUN = "not run"


@dataclass(frozen=True)
class Result:
    """The result of one or more runs that differ in their seeds alone; None stands for what was not measured.

    Attributes:
        name: name of the sweep whose best trial gave the settings, or of the first of the runs.
        model: name of the network, a key of MODELS.
        dataset: name of the images, a key of DATASETS.
        settings: the settings that were told, but for those of the protocol and those with a column of their own.
        lr: learning rate.
        epochs: number of epochs of training, the most where runs had different ones.
        num_seeds: number of runs.
        num_parameters: number of trainable parameters.
        metrics: mean and standard deviation over the runs of each metric, such as test/accuracy; the deviation is None
            for a single run.
        train_seconds: mean time of training, in seconds.
        images_per_second: mean over the runs of the median speed of training.
        device: hardware that the runs were trained on, all that differ.
        command: the command line that makes the result again.
        note: a remark for the reader.
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
    """Return the results in a file, such as the committed one.

    Raises:
        UserError: the file is not whole, or holds something else.
    """
    if not path.is_file():  # reading a pipe could take for ever
        raise UserError(f"{path} is no file: take it out of git again")
    with refusing_damage(path, "it holds no results, take it out of git again"):
        results = [Result(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
        render(results).encode()  # which fails of what is of another type, or no text
        return results


def reference_of(result: Result) -> Reference | None:
    """Return the row of the table that a result belongs to: of those that fit, the one that asks for the most settings.

    Raises:
        UserError: there is no such model any more.
    """

    def has_settings(wanted: Mapping[str, Any]) -> bool:
        defaults = {} if wanted.keys() <= result.settings.keys() else default_settings(result.model)
        return wanted.items() <= {**defaults, **result.settings}.items()

    fitting = [
        reference
        for reference in references()
        if (reference.model, reference.dataset) == (result.model, result.dataset) and has_settings(reference.settings)
    ]
    return max(fitting, key=lambda reference: len(reference.settings), default=None)


def recipe_file_of(result: Result) -> str:
    """Return the name of the recipe's file whose settings a result has; "" where there is none."""
    own = {"model": result.model, "lr": result.lr, "epochs": result.epochs, **result.settings}
    return next((name for name, settings in recipes().items() if settings == own), "")


def render(results: Sequence[Result]) -> str:
    """Return the text of RESULTS.md: a header, a table with a row for each reference and result, and the commands."""
    by_title: dict[str, list[Result]] = {}
    for result in results:
        reference = reference_of(result)
        by_title.setdefault(reference.title if reference else "", []).append(result)
    rows = []
    for reference in references():
        first, *others = by_title.get(reference.title, [None])
        rows += [row(reference, first), *(row(reference._replace(public=()), other) for other in others)]
    rows += [row(None, result) for result in by_title.get("", [])]
    table = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    notes = {result.name: f", {result.note}" if result.note else "" for result in results}
    lines += ["", "## How to make each again", ""]
    lines += [f"- `{result.name}`{notes[result.name]}:<br>`{result.command}`" for result in results]
    missing = [reference for reference in references() if reference.title not in by_title]
    lines += [f"- {reference.title}, not run:<br>`{command_for(reference)}`" for reference in missing]
    return "\n".join([HEADER, *lines, ""])


def command_for(reference: Reference) -> str:
    """Return the command that trains a row of the table that nobody has run."""
    settings = {"model": reference.model, "dataset": reference.dataset, **reference.settings}
    tested = {"val_fraction": 0, "test": True} if is_of_test_images(reference.metric) else {}
    return shlex.join(["python", "train.py", *flags({**settings, **tested, "mixed_precision": "bf16"})])


def row(reference: Reference | None, result: Result | None) -> list[str]:
    """Return the cells of a row of the table, which has a reference, a result, or both."""
    title = reference.title if reference else f"{result.model} on {result.dataset}" if result else ""
    metric = reference.metric if reference else "test/accuracy"
    obtained = [NOT_RUN if column == "obtained" else "" for column in COLUMNS[1:-2]]
    if result:
        special = reference.settings if reference else {}
        recipe = recipe_file_of(result)
        told = [f"{key}={value}" for key, value in result.settings.items() if key not in special]
        title = ", ".join([title, f"[recipe](../sweeps/best/{recipe})"] if recipe else [title, *told])
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
    """Return the metric of that name as text; "" where there is none.

    Metrics of drawn samples have the number of samples behind their names: the one of the most samples is taken.
    """
    if name in metrics:
        return plus_minus(metrics[name], name)
    nums = [int(rest) for key in metrics if (rest := key.removeprefix(f"{name}_")).isdigit()]
    return f"{plus_minus(metrics[f'{name}_{max(nums)}'], name)} of {max(nums):,}" if nums else ""


def number(form: str, value: float | None) -> str:
    """Return a number as text of some form; "" where it was not measured."""
    return "" if value is None else form.format(value)
