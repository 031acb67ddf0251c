"""What the content of a sweep file says: whether it is a sweep, its metrics, and what it searches."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from analysis.read.recipe import model_and_dataset
from analysis.read.sweep_command import readable_command
from data.errors import UserError
from data.metrics import Goal, Metric
from data.yaml_file import read_yaml_file
from models.setting_groups import entries, may_be_told


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; None if it cannot be read."""
    try:
        return read_yaml_file(path)
    except (OSError, UserError):
        return None


def is_sweep(content: Any) -> bool:
    """Return whether this is the content of a sweep file that names a metric."""
    return (
        isinstance(content, dict)
        and bool(metrics := told_metrics(content))
        and all(isinstance(metric, dict) and isinstance(metric.get("name"), str) for metric in metrics)
        and isinstance(content.get("parameters"), dict)
    )


def told_metrics(content: Mapping[str, Any]) -> list[Any]:
    """Return the entries of the metrics that a sweep file is after: several, or one."""
    several = content.get("metrics")
    return several if isinstance(several, list) else [content.get("metric")]


def metrics_of(content: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics that a sweep file is after."""
    goals: dict[bool, Goal] = {True: "maximize", False: "minimize"}
    return [Metric(each["name"], goals[each.get("goal") == "maximize"]) for each in told_metrics(content)]


def metric_of(content: Mapping[str, Any]) -> Metric:
    """Return the metric by which a sweep's trials are ranked: the first that its file names."""
    return metrics_of(content)[0]


def is_varied(config: Any) -> bool:
    """Return whether a parameter of a sweep file takes more than one value."""
    if not isinstance(config, dict) or "value" in config:
        return False
    values = config.get("values")
    return not isinstance(values, list) or len(values) > 1


def entries_of(content: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """Return path and distribution of every parameter of a sweep file, those in groups among them; none if broken."""
    with suppress(UserError):
        return list(entries(content.get("parameters") or {}))
    return []


def entries_for(content: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return setting -> distribution of what a sweep file has for a trial with some settings, of its model alone."""
    model, _ = model_and_dataset({**readable_command(content, ""), **settings})
    return {path[-1]: entry for path, entry in entries_of(content) if may_be_told(path, model)}
