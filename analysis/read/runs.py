"""The one reader of runs: typed records from the local runs folder or from a W&B project, and of local sweeps.

`python -m analysis.runs` shows them in a terminal.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from analysis.read.index import Curve, RunParts, curve_of, find_run_folders, read_curves, read_parts, read_rows
from analysis.record import run_folder
from data.errors import UserError
from data.paths import default_runs_dir

STATES = ("finished", "stopped", "failed", "unfinished")

# Ends of the names of metrics of which more is better.
MAXIMIZED = ("accuracy", "purity", "nmi", "ari", "active_units", "images_per_second", "inception_score")

# Settings that tell where and how a run was carried out, not what was trained.
UNCOMPARED = run_folder.MAY_CHANGE_ON_RESUMING | {"feature_dir", "weights", "max_corrupt_images"}


@dataclass(frozen=True)
class RunRecord:
    """One run, as far as it got.

    Attributes:
        run_id: name of its folder, and its id on W&B.
        source: its folder, or its address on W&B.
        sweep: the sweep that it belongs to, as a trial or as a final run; "" for none.
        state: one of STATES; "unfinished" while it runs, or when it was killed.
        created: when it was started, or last resumed; UTC.
        model: a key of MODELS.
        dataset: a key of DATASETS.
        tags: of the setting `tags`.
        settings: all of them.
        summary: the result; {} before there is one.
        environment: command, commit, versions and hardware; {} for a run on W&B.
    """

    run_id: str
    source: str
    sweep: str
    state: str
    created: datetime
    model: str
    dataset: str
    tags: tuple[str, ...]
    settings: Mapping[str, Any] = field(hash=False)
    summary: Mapping[str, Any] = field(hash=False)
    environment: Mapping[str, Any] = field(hash=False)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder on this machine."""
        return "://" not in self.source

    @property
    def is_final(self) -> bool:
        """Whether it is a run of sweeps/final.py, on all the training images."""
        return self.run_id.startswith(run_folder.FINAL)


class RunList(NamedTuple):
    """What a runs folder or a project holds."""

    records: list[RunRecord]  # newest first
    num_skipped: int  # folders that are no run, or a broken one


@dataclass(frozen=True)
class Filter:
    """Which runs are wanted; what is empty or None says nothing. Names may have the wildcards of a shell."""

    sweep: str = ""
    model: str = ""
    dataset: str = ""
    tag: str = ""
    state: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def apply(self, records: Iterable[RunRecord]) -> list[RunRecord]:
        """The records that are wanted, in their order."""
        return [record for record in records if self.wants(record)]

    def wants(self, record: RunRecord) -> bool:
        """Whether a record is wanted."""
        wanted = ((name, getattr(self, name)) for name in ("sweep", "model", "dataset", "state"))
        return (
            all(fnmatchcase(getattr(record, name), pattern) for name, pattern in wanted if pattern)
            and (not self.tag or any(fnmatchcase(tag, self.tag) for tag in record.tags))
            and (self.since is None or record.created >= self.since)
            and (self.until is None or record.created <= self.until)
        )


def read_runs(runs_dir: Path | None = None, project: str = "") -> RunList:
    """All runs under a folder, or of a W&B project, the newest first.

    Args:
        runs_dir: the runs folder; None for the default one.
        project: entity/project of W&B, in place of a folder.

    Raises:
        UserError: no such folder, or the project cannot be read.
    """
    if project:
        from analysis.read.wandb_runs import read_wandb_runs  # imported late: W&B takes a second

        records, num_skipped = read_wandb_runs(project)
    else:
        runs_dir = runs_dir or default_runs_dir()
        if not runs_dir.is_dir():
            raise UserError(f"there is no runs folder {runs_dir}: name one by --runs_dir or $VISION_SWEEPS_RUNS")
        folders, num_skipped = find_run_folders(runs_dir)
        found = [record_of(folder, parts) for folder, parts in zip(folders, read_parts(runs_dir, folders), strict=True)]
        records = [record for record in found if record is not None]
        num_skipped += len(found) - len(records)
    return RunList(sorted(records, key=lambda record: record.created, reverse=True), num_skipped)


def record_of(folder: Path, parts: RunParts) -> RunRecord | None:
    """The record of a run folder; None where its settings name no model and dataset."""
    settings, environment, summary = parts
    model, dataset, state = (
        part.get(key) for part, key in ((settings, "model"), (settings, "dataset"), (summary, "state"))
    )
    if not isinstance(model, str) or not isinstance(dataset, str):
        return None
    created = start_time(folder, environment)
    return RunRecord(
        run_id=folder.name,
        source=str(folder),
        sweep=folder.parent.name if folder.parent.parent.name == run_folder.SWEEPS else "",
        state=state if state in STATES else "unfinished",
        created=created,
        model=model,
        dataset=dataset,
        tags=split_tags(settings.get("tags")),
        settings=settings,
        summary=summary,
        environment=environment,
    )


def start_time(folder: Path, environment: Mapping[str, Any]) -> datetime:
    """When a run was started: as it says itself, else when its settings were written."""
    try:
        return datetime.fromisoformat(environment["started"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        pass
    try:
        return datetime.fromtimestamp((folder / run_folder.SETTINGS).stat().st_mtime, UTC)
    except OSError:  # deleted since it was found
        return datetime.fromtimestamp(0, UTC)


def split_tags(text: Any) -> tuple[str, ...]:
    """Tags of the setting `tags`."""
    return tuple(tag.strip() for tag in str(text or "").split(",") if tag.strip())


def is_maximized(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric.endswith(MAXIMIZED)


def differing_settings(records: Sequence[RunRecord]) -> list[str]:
    """Names of the settings with more than one value, but for those that tell where and how runs were carried out."""
    values: dict[str, set[str]] = {}  # an older run lacks the settings that came later
    for record in records:
        for name, value in record.settings.items():
            values.setdefault(name, set()).add(repr(value))
    return [name for name, found in values.items() if len(found) > 1 and name not in UNCOMPARED]


def history(record: RunRecord) -> list[dict[str, Any]]:
    """What a run logged, one dict a log call, as far as it can be read.

    Raises:
        UserError: W&B does not answer.
    """
    if record.is_local:
        return read_rows(Path(record.source))
    from analysis.read.wandb_runs import read_wandb_history  # imported late: W&B takes a second

    return read_wandb_history(record.source)


def curves(records: Sequence[RunRecord], metric: str) -> list[Curve]:
    """A metric of every run over its epochs, where it is finite.

    Raises:
        UserError: W&B does not answer.
    """
    local = [record for record in records if record.is_local]
    known = dict(zip(local, read_curves([Path(record.source) for record in local], metric), strict=True))
    return [known[record] if record in known else curve_of(history(record), metric) for record in records]


def panels(record: RunRecord) -> list[Path]:
    """The pictures of a run on this machine, by name."""
    folder = Path(record.source)
    return sorted((folder / run_folder.PANELS).glob("*.png")) if record.is_local else []


if __name__ == "__main__":
    from analysis.compare.run_tables import main  # which imports this module

    sys.exit(main(sys.argv[1:]))
