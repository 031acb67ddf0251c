"""Runs and sweeps that W&B keeps, read over the network."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from analysis.read.runs import STATES, RunRecord
from analysis.record.tracker import find_obstacle
from data.errors import UserError

RUNS_A_PAGE = 500
ENDED = {"finished": "finished", "failed": "failed", "crashed": "unfinished", "killed": "stopped"}
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One run of a sweep, by its best epoch."""

    name: str
    state: str
    settings: dict[str, Any] = field(hash=False)
    value: float
    best_epoch: int


def read_wandb_sweep(path: str) -> tuple[dict[str, Any], list[TrialRecord]]:
    """Content of the sweep's file, and its runs that have a finite value, the best first.

    Args:
        path: entity/project/sweep_id.

    Raises:
        UserError: the sweep cannot be read, or names no metric.
    """

    def read(api: Any) -> tuple[dict[str, Any], str, list[tuple[str, str, dict[str, Any], list[dict[str, Any]]]]]:
        sweep = api.sweep(path)
        content = dict(sweep.config)
        metric = content.get("metric", {}).get("name", "")
        keys = ["epoch", metric]
        ranked = sweep.runs if metric else []
        runs = [(run.id, run.state, dict(run.config), list(run.scan_history(keys))) for run in ranked]
        return content, metric, runs

    content, metric, runs = ask_wandb(read, f"sweep {path}", "entity/project/id")
    if not metric:
        raise UserError(f"sweep {path} names no metric to rank its runs by: give one that does")
    is_better = max if content["metric"].get("goal") == "maximize" else min
    trials = []
    for name, state, settings, rows in runs:
        if values := finite_values(rows, metric):
            best_epoch = is_better(values, key=lambda epoch: values[epoch])
            trials.append(TrialRecord(name, state, settings, float(values[best_epoch]), best_epoch))
    return content, sorted(trials, key=lambda trial: trial.value, reverse=is_better is max)


def finite_values(rows: Iterable[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """A metric by epoch, from the rows of a history; W&B gives NaN and infinity as text."""
    values = {int(row["epoch"]): row[metric] for row in rows if "epoch" in row and metric in row}
    return {key: value for key, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}


def read_wandb_runs(project: str) -> tuple[list[RunRecord], int]:
    """All runs of a project, without their histories, and the number of those that name no model and dataset.

    Args:
        project: entity/project.

    Raises:
        UserError: the project cannot be read.
    """

    def read(api: Any) -> list[RunRecord]:
        return [record_of_wandb(run) for run in api.runs(project, per_page=RUNS_A_PAGE, lazy=False)]

    records = ask_wandb(read, f"project {project}", "entity/project")
    own = [record for record in records if record.model and record.dataset]
    return own, len(records) - len(own)


def read_wandb_sweeps(project: str) -> list[tuple[str, str, Any]]:
    """Id, address and content of the file of every sweep of a project, by id.

    Args:
        project: entity/project.

    Raises:
        UserError: the project cannot be read.
    """

    def read(api: Any) -> list[tuple[str, str, Any]]:
        entity, _, name = project.rpartition("/")
        return [(sweep.id, sweep.url, sweep.config) for sweep in api.project(name, entity or None).sweeps()]

    return sorted(ask_wandb(read, f"project {project}", "entity/project"))


def record_of_wandb(run: Any) -> RunRecord:
    """The record of one of W&B's runs."""
    settings = dict(run.config)
    summary = {key: NOT_FINITE.get(str(value), value) for key, value in own_items(run.summary_metrics)}
    state = summary.get("state", ENDED.get(run.state))
    return RunRecord(
        run_id=run.id,
        source=run.url,
        sweep=run.sweep_name or run.group or "",  # the group of what sweeps/agent.py and final.py start
        state=state if state in STATES and run.state != "running" else "unfinished",
        created=datetime.fromisoformat(run.created_at).replace(tzinfo=UTC),
        model=str(settings.get("model", "")),
        dataset=str(settings.get("dataset", "")),
        tags=tuple(run.tags),
        settings=settings,
        summary=summary,
        environment={},
    )


def read_wandb_history(address: str) -> list[dict[str, Any]]:
    """What a run logged, one dict a log call, numbers alone.

    Args:
        address: of the run's page.

    Raises:
        UserError: the run cannot be read.
    """
    path = path_of(address)
    rows = ask_wandb(lambda api: list(api.run(path).scan_history()), f"run {path}", "entity/project/id")
    return [dict(numbers) for row in rows if (numbers := list(own_numbers(row)))]


def path_of(address: str) -> str:
    """entity/project/id of a run, from the address of its page."""
    entity, project, _, run_id = unquote(urlsplit(address).path).strip("/").split("/")
    return f"{entity}/{project}/{run_id}"


def own_items(items: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """What was logged, without what W&B adds."""
    return ((key, value) for key, value in items.items() if not key.startswith("_"))


def own_numbers(row: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The numbers among what was logged; W&B gives NaN and infinity as text."""
    for key, value in own_items(row):
        value = NOT_FINITE.get(str(value), value)
        if isinstance(value, int | float):
            yield key, value


def ask_wandb(question: Callable[[Any], Answer], subject: str, form: str, deed: str = "read from") -> Answer:
    """What W&B's public API answers.

    Args:
        question: asks it of a `wandb.Api`.
        subject: what it is about, for the message.
        form: how that is named on W&B.
        deed: what is done with it, for the message.

    Raises:
        UserError: W&B is out of reach, or does not know the subject.
    """
    import wandb

    if obstacle := find_obstacle(wandb.setup().settings):
        raise UserError(f"{subject} cannot be {deed} W&B: {obstacle}")
    try:
        return question(wandb.Api())
    except Exception as error:  # W&B has no class for all that its transport raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{subject} cannot be {deed} W&B ({reason}): give the {form} that W&B shows") from None
