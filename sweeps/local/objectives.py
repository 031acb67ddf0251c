"""What a sweep is after, by the sections `metric` or `metrics` of its file."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from data.errors import UserError
from data.metrics import GOALS, Metric

IMPUTED = ("worst", "best", "latest")
NOT_IMPUTED = "false"
KEYS_OF_ONE = ("name", "goal", "target", "impute", "impute_while_running")
KEYS_OF_SEVERAL = ("name", "goal")
MOST = 4  # metrics: of many, nearly every trial is the best by some


class Objectives(NamedTuple):
    """What a sweep is after.

    Attributes:
        metrics: by the first, the best epoch of a trial is chosen, and the others have their values of that epoch.
        impute: what a trial that failed counts as: the worst of all, its best value, or its latest.
        impute_while_running: what a trial counts as that is under way; "false" for nothing but a place that is taken.
    """

    metrics: tuple[Metric, ...]
    impute: str = "worst"
    impute_while_running: str = NOT_IMPUTED


def parse_objectives(content: Mapping[str, Any]) -> Objectives:
    """Return what the content of a sweep file is after.

    Raises:
        UserError: it names no metric, or both one and several, or says of it what cannot be.
    """
    if "metrics" not in content:
        return parse_metric(content.get("metric"))
    several = content["metrics"]
    if "metric" in content:
        raise UserError("there are both metric and metrics: leave one out")
    if not isinstance(several, list) or not 2 <= len(several) <= MOST:
        raise UserError(
            f"metrics is not a list of 2 to {MOST}, each with name: and goal:; for a single one write metric:"
        )
    if "early_terminate" in content:
        raise UserError("early_terminate judges by one metric: leave it out, or write metric: in place of metrics:")
    found = tuple(named(entry, KEYS_OF_SEVERAL, "metrics") for entry in several)
    names = [metric.name for metric in found]
    if double := next((name for name in names if names.count(name) > 1), ""):
        raise UserError(f"metrics names {double} twice")
    return Objectives(found)


def parse_metric(config: Any) -> Objectives:
    """Return what the section `metric` of a sweep file describes."""
    metric = named(config, KEYS_OF_ONE, "metric")
    target = config.get("target")
    if target is not None and type(target) not in (int, float):
        raise UserError(f"metric target {target!r} is not a number")
    impute, running = config.get("impute", IMPUTED[0]), str(config.get("impute_while_running", False)).lower()
    if impute not in IMPUTED:
        raise UserError(f"metric impute {impute} is none of {', '.join(IMPUTED)}")
    if running not in (*IMPUTED, NOT_IMPUTED):
        raise UserError(f"metric impute_while_running {running} is none of {', '.join((*IMPUTED, NOT_IMPUTED))}")
    return Objectives((Metric(metric.name, metric.goal, target),), impute, running)


def named(config: Any, keys: tuple[str, ...], section: str) -> Metric:
    """Return the metric that an entry of a sweep file names."""
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        example = "with name: val/loss and goal: minimize"
        raise UserError(
            f"metric is missing: write metric: {example}"
            if section == "metric"
            else f"{section}: each is written {example}"
        )
    goal = config.get("goal", "minimize")
    if goal not in GOALS:
        raise UserError(f"{section} goal {goal} is none of {', '.join(GOALS)}")
    if unknown := config.keys() - set(keys):
        raise UserError(
            f"{section} has no {min(unknown, key=str)}{'' if section == 'metric' else ': only name and goal'}"
        )
    return Metric(config["name"], goal)
