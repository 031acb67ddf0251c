"""Runs and sweeps that W&B keeps, read over the network."""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from analysis.read.records import STATES, RunRecord
from analysis.record.wandb_login import find_obstacle
from analysis.record.wandb_start import ENVIRONMENT, NOT_APPLICABLE
from data.errors import UserError, message_of

RUNS_A_PAGE = 500
ENDED = {"finished": "finished", "failed": "failed", "crashed": "unfinished", "killed": "stopped"}
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
Answer = TypeVar("Answer")


def read_wandb_runs(project: str) -> tuple[list[RunRecord], list[str]]:
    """Read all runs of a project, without their histories.

    Args:
        project: entity/project.

    Returns:
        The runs, and the ids of others, which name no model and dataset.

    Raises:
        UserError: the project cannot be read.
    """
    records = ask_wandb(
        lambda api: [record_of_wandb(run) for run in list_runs(api, project)], f"project {project}", "entity/project"
    )
    own = [record for record in records if record.model and record.dataset]
    return own, [record.run_id for record in records if not (record.model and record.dataset)]


def list_runs(api: Any, project: str, *conditions: Mapping[str, str]) -> Iterable[Any]:
    """Return W&B's own objects for the runs of a project that meet all conditions, with all that they hold."""
    filters = {"$and": list(conditions)} if conditions else None
    return api.runs(project, filters, per_page=RUNS_A_PAGE, lazy=False)


class WandbSweep(NamedTuple):
    """A sweep that W&B keeps."""

    name: str  # its id
    source: str  # its address
    content: Any  # of its file


def read_wandb_sweeps(project: str) -> list[WandbSweep]:
    """Read every sweep of a project, without its runs; sorted by id.

    Args:
        project: entity/project.

    Raises:
        UserError: the project cannot be read.
    """

    def read(api: Any) -> list[WandbSweep]:
        entity, _, name = project.rpartition("/")
        return [WandbSweep(sweep.id, sweep.url, sweep.config) for sweep in api.project(name, entity or None).sweeps()]

    return sorted(ask_wandb(read, f"project {project}", "entity/project"))


def read_wandb_sweep(path: str) -> tuple[WandbSweep, list[RunRecord]]:
    """Read one sweep and its runs, without their histories.

    Args:
        path: entity/project/id.

    Raises:
        UserError: the sweep cannot be read, or names no metric.
    """

    def read(api: Any) -> tuple[WandbSweep, list[RunRecord]]:
        sweep = api.sweep(path)
        runs = list_runs(api, path.rpartition("/")[0], {"sweep": sweep.id})
        return WandbSweep(sweep.id, sweep.url, sweep.config), [record_of_wandb(run) for run in runs]

    sweep, records = ask_wandb(read, f"sweep {path}", "entity/project/id")
    named = sweep.content.get("metrics") or [sweep.content.get("metric")]
    if not all(isinstance(metric, dict) and metric.get("name") for metric in named):
        raise UserError(f"sweep {path} names no metric to rank its runs by: give one that does")
    return sweep, records


def record_of_wandb(run: Any) -> RunRecord:
    """Return the record of a run, by W&B's own object."""
    settings = dict(run.config)
    environment = settings.pop(ENVIRONMENT, {})
    environment = environment if isinstance(environment, dict) else {}
    foreign = foreign_of(environment, settings)
    settings = {key: value for key, value in settings.items() if key not in foreign}
    summary = {key: NOT_FINITE.get(str(value), value) for key, value in own_items(run.summary_metrics)}
    state = summary.get("state", ENDED.get(run.state))
    return RunRecord(
        run_id=run.id,
        source=run.url,
        sweep=run.sweep_name or run.group or "",  # runs of sweeps/agent.py and final.py name their sweep so
        state=state if state in STATES and run.state != "running" else "unfinished",
        created=datetime.fromisoformat(run.created_at).replace(tzinfo=UTC),
        model=text_of(settings.get("model")),
        dataset=text_of(settings.get("dataset")),
        tags=tuple(run.tags),
        settings=settings,
        summary=summary,
        environment=environment,
    )


def text_of(value: Any) -> str:
    """Return a value that is text; "" for others, such as the list of datasets of another program's run."""
    return value if isinstance(value, str) else ""


def foreign_of(environment: Mapping[str, Any], config: Mapping[str, Any]) -> set[str]:
    """Return the part of a run's config on W&B that is none of its settings: groups of a sweep, other models' ones."""
    named = environment.get(NOT_APPLICABLE)
    return {*(named if isinstance(named, list) else ()), *(key for key, value in config.items() if type(value) is dict)}


def read_wandb_history(address: str) -> list[dict[str, Any]]:
    """Return the numbers that a run has logged, one dict for each log call.

    Args:
        address: address of the run's page.

    Raises:
        UserError: the run cannot be read.
    """
    path = path_of(address)
    rows = ask_wandb(lambda api: list(api.run(path).scan_history()), f"run {path}", "entity/project/id")
    return [dict(numbers) for row in rows if (numbers := list(own_numbers(row)))]


def path_of(address: str) -> str:
    """Return entity/project/id of a run, by the address of its page."""
    entity, project, _, run_id = unquote(urlsplit(address).path).strip("/").split("/")[-4:]
    return f"{entity}/{project}/{run_id}"


def own_items(items: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Return what a run itself has logged, without what W&B adds."""
    return ((key, value) for key, value in items.items() if not key.startswith("_"))


def own_numbers(row: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """Return the numbers among what was logged; W&B gives NaN and infinity as text."""
    for key, value in own_items(row):
        value = NOT_FINITE.get(str(value), value)
        if isinstance(value, int | float):
            yield key, value


class Obstacle(Exception):
    """What keeps us from W&B."""


@cache
def wandb_api() -> Any:
    """Return W&B's public API, the same one each time: with many, W&B's own process now and then does not end.

    Raises:
        Obstacle: W&B is out of reach. That is looked for once: a thousand looks in a row, one for each history, meet
            the limits of servers.
    """
    import wandb  # imported late: takes a second

    if obstacle := find_obstacle(wandb.setup().settings):
        raise Obstacle(obstacle)
    return wandb.Api()


def ask_wandb(question: Callable[[Any], Answer], subject: str, form: str, deed: str = "read from") -> Answer:
    """Ask W&B's public API something, and return the answer.

    Args:
        question: puts the question to a `wandb.Api`.
        subject: what is asked for, for the error message.
        form: how W&B names such a thing, for the error message.
        deed: what cannot be done with it, for the error message.

    Raises:
        UserError: W&B is out of reach, or does not know the subject.
    """
    try:
        return question(wandb_api())
    except Obstacle as obstacle:
        raise UserError(f"{subject} cannot be {deed} W&B: {obstacle}") from None
    except Exception as error:  # W&B has no one class for what its transport raises
        reason = message_of(error)
        raise UserError(f"{subject} cannot be {deed} W&B ({reason}): give the {form} that W&B shows") from None
