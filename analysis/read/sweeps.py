"""The one reader of sweeps, of the runs folder or of a W&B project: what each searched, and its trials."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from analysis.read.index import Curve, curve_of
from analysis.read.runs import RunRecord, curves
from analysis.record import run_folder
from data.files import read_json
from data.metrics import Metric
from data.paths import default_runs_dir

STATES = {"finished": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL", "unfinished": "RUNNING"}  # of runs, of trials


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        number: its place in the order in which the trials were begun, from 0.
        run_id: name of its run folder in the sweep's.
        state: COMPLETE, PRUNED (stopped early), FAIL, or RUNNING, also while it is paused.
        value: the best of the metric so far; None where it logged none.
        best_epoch: the epoch of that value.
        settings: what it was told, constants included.
        started: UTC; None where that is not known.
        ended: UTC; None where it has not, or that is not known.
    """

    number: int
    run_id: str
    state: str
    value: float | None
    best_epoch: int | None
    settings: Mapping[str, Any] = field(hash=False)
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True)
class SweepRecord:
    """One sweep.

    Attributes:
        name: of its folder, or its id on W&B.
        source: the folder, or its address on W&B.
        metric: by which its trials are ranked; without the target, which only the search needs.
        method: of the search.
        varied: names of the settings that it searches.
        trials: in the order in which they were begun.
        final: content of final.json; {} before sweeps/final.py has run.
    """

    name: str
    source: str
    metric: Metric
    method: str
    varied: tuple[str, ...]
    trials: tuple[Trial, ...]
    final: Mapping[str, Any] = field(hash=False)

    @property
    def leaders(self) -> list[Trial]:
        """Trials that have a value and have not failed, the best first."""
        known = [trial for trial in self.trials if trial.value is not None and trial.state != "FAIL"]
        return sorted(known, key=lambda trial: self.metric.cost(trial.value))  # type: ignore[arg-type]  # None is left out


class SweepList(NamedTuple):
    """The sweeps of a runs folder or of a project."""

    sweeps: list[SweepRecord]  # by name
    num_skipped: int  # those of a content that cannot be read


def read_sweeps(runs_dir: Path | None = None, records: Iterable[RunRecord] = (), project: str = "") -> SweepList:
    """All sweeps in the runs folder, or of a W&B project.

    Args:
        runs_dir: the runs folder; None for the default one.
        records: its runs, for the trials of sweeps whose database is elsewhere.
        project: entity/project of W&B, in place of a folder.

    Raises:
        UserError: the project cannot be read.
    """
    by_sweep: dict[str, list[RunRecord]] = {}
    for record in records:
        if not record.is_final:
            by_sweep.setdefault(record.sweep, []).append(record)
    if project:
        from analysis.read.wandb_runs import read_wandb_sweeps  # imported late: W&B takes a second

        found = read_wandb_sweeps(project)
    else:
        paths = sorted((runs_dir or default_runs_dir()).glob(f"{run_folder.SWEEPS}/*/{run_folder.SWEEP_FILE}"))
        found = [(path.parent.name, str(path.parent), read_yaml(path)) for path in paths]
    sweeps = [sweep_of(*each, by_sweep.get(each[0], [])) for each in found if is_sweep(each[2])]
    return SweepList(sweeps, len(found) - len(sweeps))


def sweep_of(name: str, source: str, content: Mapping[str, Any], records: Sequence[RunRecord]) -> SweepRecord:
    """The record of a sweep with the content of a sweep file, and of its runs where it has no database of its own."""
    goal = content["metric"].get("goal")
    metric = Metric(content["metric"]["name"], "maximize" if goal == "maximize" else "minimize")
    trials = read_study(Path(source) / run_folder.STUDY)
    return SweepRecord(
        name=name,
        source=source,
        metric=metric,
        method=str(content.get("method", "")),
        varied=tuple(key for key, config in content["parameters"].items() if is_varied(config)),
        trials=tuple(trials_of(records, metric) if trials is None else trials),
        final=read_json(Path(source) / run_folder.FINAL_RESULT),
    )


def read_yaml(path: Path) -> Any:
    """Content of a YAML file; None where it is none."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None


def is_sweep(content: Any) -> bool:
    """Whether this is what a sweep file holds."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("metric"), dict)
        and isinstance(content["metric"].get("name"), str)
        and isinstance(content.get("parameters"), dict)
    )


def is_varied(config: Any) -> bool:
    """Whether a parameter of a sweep file takes more than one value."""
    return isinstance(config, dict) and "value" not in config and len(config.get("values", "two or more")) > 1


def read_study(path: Path) -> list[Trial] | None:
    """Trials of a sweep's own database, which is only read; None where there is none, or a broken one."""
    if not path.is_file():
        return None
    import optuna  # imported late: takes half a second
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute().as_uri()}?mode=ro&uri=true")
        trials = optuna.load_study(study_name=None, storage=storage).get_trials()
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, KeyError, ValueError):
        return None
    return [
        Trial(
            number=trial.number,
            run_id=trial.user_attrs["run_id"],
            state=trial.state.name,
            value=trial.user_attrs.get("best"),
            best_epoch=trial.user_attrs.get("best_epoch"),
            settings=trial.user_attrs.get("settings", {}),
            started=utc(trial.datetime_start),
            ended=utc(trial.datetime_complete),
        )
        for trial in trials
        if "run_id" in trial.user_attrs  # the others were never begun
    ]


def utc(time: datetime | None) -> datetime | None:
    """Optuna's local time."""
    return time and time.astimezone(UTC)


def trials_of(records: Iterable[RunRecord], metric: Metric) -> list[Trial]:
    """Trials by their runs alone, which do not tell one that is paused from one that was stopped early."""
    ordered = sorted(records, key=lambda record: (record.run_id if record.is_local else "", record.created))
    trials = []
    for number, (record, curve) in enumerate(zip(ordered, known_curves(ordered, metric.name), strict=True)):
        epoch, value = min(curve, key=lambda point: metric.cost(point[1]), default=(None, None))
        trials.append(
            Trial(
                number=number,
                run_id=record.run_id,
                state=STATES[record.state],
                value=value,
                best_epoch=None if epoch is None else int(epoch),
                settings=record.settings,
                started=record.created,
                ended=None,
            )
        )
    return trials


def known_curves(records: Sequence[RunRecord], metric: str) -> list[Curve]:
    """A metric of each run over its epochs; of runs on W&B, which is slow to give them, its best alone."""
    if all(record.is_local for record in records):
        return curves(records, metric)
    summaries = [record.summary for record in records]
    return [
        curve_of([{**summary, "epoch": summary.get("best_epoch", summary.get("epoch"))}], metric)
        for summary in summaries
    ]
