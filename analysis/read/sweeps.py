"""The one reader of sweeps, from the runs folder or from W&B: what each has searched, and its trials."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from analysis.read.records import RunRecord
from analysis.read.runs import curves_of_metrics
from analysis.read.sweep_command import readable_command
from analysis.read.sweep_content import entries_of, is_sweep, is_varied, metric_of, metrics_of, read_yaml
from analysis.read.trials import NOTES, Trial, trial_of, trials_of
from analysis.read.wandb_runs import read_wandb_sweep, read_wandb_sweeps
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json
from data.internals import read_trials
from data.metrics import Curve, Metric, is_finite
from data.pareto import pareto_front
from data.paths import default_runs_dir, expanded
from models.setting_groups import CHOOSER


@dataclass(frozen=True)
class SweepRecord:
    """One sweep.

    Attributes:
        name: name of its folder, or its id on W&B.
        source: its folder, or its address on W&B.
        metric: the metric that its trials are ranked by, the first of several; without a target, which only the search
            needs.
        method: how it searches.
        varied: names of the settings that it searches.
        trials: in the order in which they were started.
        final: content of final.json; empty before sweeps/final.py has run.
        content: content of the sweep file.
    """

    name: str
    source: str
    metric: Metric
    method: str
    varied: tuple[str, ...]
    trials: tuple[Trial, ...]
    final: Mapping[str, Any] = field(hash=False)
    content: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def metrics(self) -> list[Metric]:
        """All metrics that it is after."""
        return metrics_of(self.content) if self.content else [self.metric]

    @cached_property
    def leaders(self) -> list[Trial]:
        """The trials that have a value and have not failed, the best first; with several metrics, the front's first."""
        front = {trial.number for trial in self.front} if len(self.metrics) > 1 else set()
        return sorted(self.by_first_metric, key=lambda trial: trial.number not in front)

    @cached_property
    def front(self) -> list[Trial]:
        """The trials that no other beats by every metric, the best by the first metric first."""
        first, *others = self.metrics
        costs = {
            trial: [first.cost(trial.value or 0.0), *(each.cost(trial.objectives[each.name]) for each in others)]
            for trial in self.by_first_metric
            if all(is_finite(trial.objectives.get(each.name)) for each in others)
        }
        return pareto_front(costs)

    @cached_property
    def by_first_metric(self) -> list[Trial]:
        """The trials that have a value and have not failed, the best by the first metric first."""
        known = [(trial.value, trial) for trial in self.trials if trial.value is not None and trial.state != "FAIL"]
        return [trial for _, trial in sorted(known, key=lambda pair: self.metric.cost(pair[0]))]

    def has_finals_of_its_best(self) -> bool:
        """Return whether the final runs are of the best trial, not of one that was picked, or that led before."""
        trained, leaders = self.final["trials"][0].get("trial"), [trial.run_id for trial in self.leaders[:1]]
        was_picked = self.final.get("picked") or self.final.get("from_width")
        return not was_picked and (not leaders or trained in leaders)


class SweepList(NamedTuple):
    """The sweeps of a runs folder or of a W&B project."""

    sweeps: list[SweepRecord]  # by name
    skipped: list[str]  # names of those whose file cannot be read or names no metric, and of copies of others


def sweep_folder(name: str) -> Path:
    """Return the folder of the sweep of that name.

    Raises:
        UserError: the name cannot be that of a folder.
    """
    if not name or Path(name).name != name or name.startswith(".") or not name.isprintable():
        raise UserError(f"sweep name {name!r} names a folder: use letters, digits, - _ and .")
    return default_runs_dir() / run_folder.SWEEPS / name


def read_sweeps(runs_dir: Path | None = None, records: Iterable[RunRecord] = (), project: str = "") -> SweepList:
    """Read all sweeps in the runs folder, or of a W&B project.

    Args:
        runs_dir: the runs folder; None for the default one.
        records: the runs there; the trials of a sweep without a database of its own are read from them, and where they
            lie deeper than in RUNS_DIR/sweeps, their sweeps are found by them.
        project: entity/project of W&B, in place of a folder.

    Raises:
        UserError: the project cannot be read.
    """
    by_sweep: dict[str, list[RunRecord]] = {}  # by name on W&B, else by folder: machines may have sweeps of one name
    for record in records:
        if record.sweep:
            by_sweep.setdefault(record.sweep if project else str(Path(record.source).parent), []).append(record)
    searched = {place: [record for record in own if not record.is_final] for place, own in by_sweep.items()}
    if project:
        found: Sequence[tuple[str, str, Any]] = read_wandb_sweeps(project)
    else:
        folders = sweep_folders(expanded(runs_dir or default_runs_dir()), map(Path, by_sweep))
        names = [Path(os.path.abspath(folder)).name for folder in folders]  # of ".", too
        files = [read_yaml(folder / run_folder.SWEEP_FILE) for folder in folders]
        found = list(zip(names, map(str, folders), files, strict=True))
    runs = [searched.get(name if project else source, []) for name, source, _ in found]
    pairs = [(listed_sweep(*each, own), own) for each, own in zip(found, runs, strict=True) if is_sweep(each[2])]
    sweeps = [sweep for sweep, _ in pairs]
    broken = [name for name, _, content in found if not is_sweep(content)]
    copies = find_copies([sweep for sweep, _ in sorted(pairs, key=lambda pair: -len(pair[1]))])
    skipped = [*broken, *(f"{copy.name} (a copy of {original})" for copy, original in copies.items())]
    return SweepList([sweep for sweep in sweeps if sweep not in copies], sorted(skipped))


def sweep_folders(runs_dir: Path, of_runs: Iterable[Path]) -> list[Path]:
    """Return the folders that hold a sweep file, by name: those in RUNS_DIR/sweeps, and others that hold runs.

    Args:
        runs_dir: the runs folder.
        of_runs: folders of sweeps that hold runs.
    """
    found = {path.parent for path in runs_dir.glob(f"{run_folder.SWEEPS}/*/{run_folder.SWEEP_FILE}")}
    found |= {folder for folder in of_runs if (folder / run_folder.SWEEP_FILE).is_file()}
    return sorted(found, key=lambda folder: (folder.name, folder))


def find_copies(sweeps: Iterable[SweepRecord]) -> dict[SweepRecord, str]:
    """Return the sweeps that have a trial of another one, whose folder was copied, and the other's name.

    Args:
        sweeps: the original of two comes first.
    """
    owners: dict[str, str] = {}  # names of sweeps by the ids of their trials
    copies = {}
    for sweep in sweeps:
        ids = [trial.run_id for trial in sweep.trials]
        if original := next(filter(None, map(owners.get, ids)), ""):
            copies[sweep] = original
        else:
            owners |= dict.fromkeys(ids, sweep.name)
    return copies


def read_sweep(name: str, storage: str = "") -> SweepRecord:
    """Read one sweep, from its database or from W&B, with the best epoch of each trial by its whole curve.

    Args:
        name: of a sweep in the runs folder, or entity/project/id of W&B.
        storage: address of the database; empty for the one in the sweep's folder.

    Raises:
        UserError: there is no such sweep, it cannot be read, or it names no metric.
    """
    if name.count("/") == 2:
        sweep, records = read_wandb_sweep(name)
        metrics = metrics_of(sweep.content)
        all_curves = curves_of_metrics(records, [metric.name for metric in metrics])
        return sweep_of(*sweep, trials_of(records, all_curves, metrics))
    folder = sweep_folder(name)
    from analysis.read.storage import url_of_file  # imported late: takes half a second

    content, trials = read_study(storage or url_of_file(folder / run_folder.STUDY), name)
    if not is_sweep(content):
        raise UserError(f"study {name} in that database is no sweep of sweeps/agent.py: name another")
    return sweep_of(name, str(folder), content, trials)


def listed_sweep(name: str, source: str, content: Mapping[str, Any], records: Sequence[RunRecord]) -> SweepRecord:
    """Return a sweep with its trials from its own database, which is only read, or else from its runs."""
    path = Path(source) / run_folder.STUDY
    if path.is_file():
        from analysis.read.storage import url_of_file  # imported late: takes half a second

        with suppress(UserError):  # it is broken
            _, trials = read_study(url_of_file(path, mode="ro", uri="true"))
            return sweep_of(name, source, content, trials)
    metrics = metrics_of(content)
    is_local = all(record.is_local for record in records)
    # W&B is slow to give curves: without them, the best values are those of the summaries.
    unknown = [(Curve(),) * len(metrics)] * len(records)
    known = curves_of_metrics(records, [metric.name for metric in metrics]) if is_local else unknown
    return sweep_of(name, source, content, trials_of(records, known, metrics))


def sweep_of(name: str, source: str, content: Mapping[str, Any], trials: Iterable[Trial]) -> SweepRecord:
    """Return the record of a sweep by the content of its file and its trials."""
    return SweepRecord(
        name=name,
        source=source,
        metric=metric_of(content),
        method=str(content.get("method", "")),
        varied=tuple(dict.fromkeys(path[-1] for path, config in entries_of(content) if is_varied(config))),
        trials=tuple(trials),
        final=read_json(Path(source) / run_folder.FINAL_RESULT),
        content=content,
    )


def read_study(url: str, name: str | None = None) -> tuple[dict[str, Any], list[Trial]]:
    """Read a sweep from its database.

    Args:
        url: address of the database.
        name: of the sweep there; None if it is the only one.

    Returns:
        The content of the sweep file, and the trials that have been started.

    Raises:
        UserError: the database cannot be read, or there is no such sweep in it.
    """
    import optuna  # imported late, as is what needs it: takes half a second

    from analysis.read.storage import address_of, open_storage, reason_of, unusable

    address = address_of(url)
    path = Path(address.database or "")
    if address.get_backend_name() == "sqlite" and not (address.query or path.exists()):  # opening it would make it
        raise UserError(f"there is no sweep {name}: {path} does not exist; python sweeps/agent.py FILE makes one")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(url)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        held = ", ".join(study.study_name for study in storage.get_all_studies()) or "none"
        raise UserError(f"there is no sweep {name} in that database, which holds {held}: name one of these") from None
    except Exception as error:
        raise unusable(url, reason_of(error)) from None
    try:
        rows = read_trials(storage, study.study_name, NOTES)
        # Trials without a run's id were never started.
        content = study.user_attrs.get("sweep", {}) | study.user_attrs.get("place", {})
        by_command = cache(partial(readable_command, content))  # there may be thousands of trials
        trials = [trial_of(row) for row in rows if "run_id" in row.notes]
        settings = [{**by_command(str(trial.settings.get(CHOOSER, ""))), **trial.settings} for trial in trials]
        return content, [replace(trial, settings=own) for trial, own in zip(trials, settings, strict=True)]
    except UserError:
        raise
    except Exception as error:  # Optuna raises nearly anything where something else has written to the database
        raise unusable(url, reason_of(error)) from None
