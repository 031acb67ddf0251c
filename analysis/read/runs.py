"""The one reader of runs, out of the runs folder or out of a W&B project; `python -m analysis.runs` lists them."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.read.folders import find_run_folders
from analysis.read.index import (
    RunParts,
    curve_of,
    read_curves,
    read_names,
    read_object,
    read_parts,
    read_rows,
)
from analysis.read.records import STATES, RunList, RunRecord
from analysis.read.wandb_runs import read_wandb_history, read_wandb_runs
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json
from data.metrics import Best, Curve, Metric, is_finite, metric_named
from data.paths import default_runs_dir, expanded
from data.visible import visible, warn

READERS_OF_WANDB = 8  # histories asked for at a time


def read_runs(runs_dir: Path | None = None, project: str = "") -> RunList:
    """Return all runs under a folder, or of a W&B project, the newest first.

    Args:
        runs_dir: the runs folder; None for the default one.
        project: entity/project on W&B, to be read in place of a folder; "" for none.

    Raises:
        UserError: there is no such folder, or the project cannot be read.
    """
    if project:
        records, skipped = read_wandb_runs(project)
    else:
        runs_dir = expanded(runs_dir or default_runs_dir())
        if not runs_dir.is_dir():
            raise UserError(f"there is no runs folder {runs_dir}: name one by --runs_dir or $VISION_SWEEPS_RUNS")
        folders, others = find_run_folders(runs_dir)
        parts = read_parts(runs_dir, folders)
        found = {folder: record_of(folder, own) for folder, own in zip(folders, parts, strict=True)}
        originals = find_originals([record for record in found.values() if record is not None])
        records = [record for record in originals if originals[record] is record]
        notes = {Path(copy.source): original for copy, original in originals.items() if original is not copy}
        broken = [folder for folder, record in found.items() if record is None]
        skipped = [
            str(folder.relative_to(runs_dir))
            + (f" (a copy of {Path(notes[folder].source).relative_to(runs_dir)})" if folder in notes else "")
            for folder in sorted([*others, *broken, *notes])
        ]
    return RunList(sorted(records, key=lambda record: record.created, reverse=True), skipped)


def find_run(name: str, runs_dir: Path | None = None) -> Path:
    """Return the folder of a run, by its path, or by its id in a folder of runs, or runs/, and the sweeps there.

    Raises:
        UserError: there is none, or several sweeps have a run of that id.
    """
    runs_dir = runs_dir or default_runs_dir()
    for folder in (Path(name), runs_dir / name):
        if read_json(folder / run_folder.SETTINGS):
            return folder
    found = [folder for folder in find_run_folders(runs_dir).runs if folder.name == name]
    if len(found) > 1:
        raise UserError(
            f"{name} is the id of {len(found)} runs: name one by its folder, {' or '.join(map(str, found))}"
        )
    if not found:
        raise UserError(
            f"{name} is no run: neither a folder with a {run_folder.SETTINGS}, nor the id of a run in {runs_dir}"
        )
    return found[0]


def find_sweep_folder(name: str) -> Path:
    """Return the folder of a sweep, given its path or its name in runs/sweeps.

    Raises:
        UserError: neither is a folder with runs.
    """
    own = default_runs_dir() / run_folder.SWEEPS / name
    for folder in (Path(name), own):
        if find_run_folders(folder).runs:
            return folder
    raise UserError(f"{name} is no sweep with runs: neither it nor {own} holds any")


def find_originals(records: Sequence[RunRecord]) -> dict[RunRecord, RunRecord]:
    """Return for each run the one that it is a copy of, or the run itself.

    A copy has the same id, start and settings, and lies elsewhere than its settings say. If none of several lies where
    they say, the one in the folder that comes first is the original.
    """

    def is_elsewhere(record: RunRecord) -> bool:
        place = record.settings.get("runs_dir")
        return isinstance(place, str) and Path(place).name != Path(record.source).parent.name

    first: dict[tuple[str, datetime], RunRecord] = {}
    originals = {}
    for record in sorted(records, key=lambda record: (is_elsewhere(record), record.source)):
        known = first.setdefault((record.run_id, record.created), record)
        originals[record] = known if is_elsewhere(record) and known.settings == record.settings else record
    return originals


def record_of(folder: Path, parts: RunParts) -> RunRecord | None:
    """Return the record of a run's folder; None where its settings name no model or no dataset."""
    settings, environment, summary = parts
    model, dataset, state = settings.get("model"), settings.get("dataset"), summary.get("state")
    if not isinstance(model, str) or not isinstance(dataset, str):
        return None
    return RunRecord(
        run_id=folder.name,
        source=str(folder),
        sweep=run_folder.sweep_of(folder),
        state=state if state in STATES else "unfinished",
        created=start_time(folder, environment),
        model=model,
        dataset=dataset,
        tags=run_folder.split_tags(settings.get("tags")),
        settings=settings,
        summary=summary,
        environment=environment,
    )


def start_time(folder: Path, environment: Mapping[str, Any]) -> datetime:
    """Return when a run was started: as its environment says, else when its settings were written."""
    try:
        return datetime.fromisoformat(environment["started"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):  # the last two: at the ends of the calendar
        pass
    try:
        return datetime.fromtimestamp((folder / run_folder.SETTINGS).stat().st_mtime, UTC)
    except OSError:  # deleted since it was found
        return datetime.fromtimestamp(0, UTC)


def history(record: RunRecord) -> Iterable[dict[str, Any]]:
    """Return what a run logged, one dict a log call, as far as it can be read: on this machine as it is read.

    Raises:
        UserError: W&B does not answer.
    """
    return read_rows(Path(record.source)) if record.is_local else read_wandb_history(record.source)


def names_of_metrics(records: Sequence[RunRecord], *, of_all_logs: bool = False) -> list[set[str]]:
    """Return the names of the metrics that each run has a number of, in its summary or in what it logged.

    Args:
        records: the runs.
        of_all_logs: whether to look through the logs of runs with a summary, too, and of those on W&B, which is slow.

    Raises:
        UserError: W&B does not answer.
    """
    to_read = [record for record in records if of_all_logs or (record.is_local and not record.summary)]
    local = [record for record in to_read if record.is_local]
    logged = dict(zip(local, read_names([Path(record.source) for record in local]), strict=True))
    logged |= {record: {name for row in history(record) for name in row} for record in to_read if not record.is_local}
    return [
        {name for name, value in record.summary.items() if is_finite(value)} | logged.get(record, set())
        for record in records
    ]


def curves(records: Sequence[RunRecord], metric: str) -> list[Curve]:
    """Return each run's finite values of a metric over its epochs.

    Raises:
        UserError: W&B does not answer.
    """
    return [curve for (curve,) in curves_of_metrics(records, [metric])]


def curves_of_metrics(records: Sequence[RunRecord], metrics: Sequence[str]) -> list[tuple[Curve, ...]]:
    """Return each run's curves of some metrics, in the metrics' order; of a run on W&B all are read at once.

    Raises:
        UserError: W&B does not answer.
    """
    local = [record for record in records if record.is_local]
    remote = [record for record in records if not record.is_local]
    folders = [Path(record.source) for record in local]
    by_metric = [read_curves(folders, metric) for metric in metrics]

    def ask(record: RunRecord) -> tuple[Curve, ...]:
        rows = list(history(record))
        return tuple(curve_of(rows, metric) for metric in metrics)

    with ThreadPoolExecutor(READERS_OF_WANDB) as pool:
        found = dict(zip(remote, pool.map(ask, remote), strict=True))
    found |= zip(local, zip(*by_metric, strict=True), strict=True)
    return [found[record] for record in records]


def best_values(records: Sequence[RunRecord], metrics: Sequence[Metric]) -> list[dict[str, Best]]:
    """Return each run's best value of each metric, by the metric's name; one that a run has no value of is left out.

    Raises:
        UserError: W&B does not answer.
    """
    all_curves = curves_of_metrics(records, [metric.name for metric in metrics])
    return [
        {
            metric.name: best
            for metric, curve in zip(metrics, own, strict=True)
            if (best := best_of(record, curve, metric))
        }
        for record, own in zip(records, all_curves, strict=True)
    ]


def best_of(record: RunRecord, curve: Curve, metric: Metric) -> Best | None:
    """Return a run's best value of a metric: this is what every table, report and figure shows of the run.

    It is the best that the run has logged. What is not known to be logged, but its summary has, is taken from there:
    the best that the summary notes, else the value of the epoch whose weights were kept. Those values are not asked
    first: they are all of one epoch, which is the best by one metric alone.

    Args:
        record: the run.
        curve: its values of the metric, as `curves` returns them.
        metric: the metric.

    Returns:
        The value with its epoch; None where there is no finite value.
    """
    logged = ({"epoch": int(epoch) if epoch % 1 == 0 else epoch, metric.name: value} for epoch, value in curve)
    return metric.best(logged) or noted_best(record, metric) or kept_value(record, metric)


def noted_best(record: RunRecord, metric: Metric) -> Best | None:
    """Return the best value in a run's summary of a metric whose best epoch is not that of the weights it has kept."""
    noted = record.summary.get("best")
    own = noted.get(metric.name) if isinstance(noted, Mapping) and metric_named(metric.name) == metric else None
    return metric.best([{**own, metric.name: own.get("value")}]) if isinstance(own, Mapping) else None


def kept_value(record: RunRecord, metric: Metric) -> Best | None:
    """Return what the weights that a run has kept have of a metric, and their epoch; None where it is not known."""
    summary = record.summary
    epochs = (summary.get(name) for name in ("best_epoch", "epochs"))
    return metric.best([{**summary, "epoch": next(filter(is_finite, epochs), None)}])


def generation_scores(record: RunRecord) -> dict[str, Any]:
    """Return what `python -m analysis.generation` has measured of a run's images; empty where it has not.

    Figures of other weights than the run keeps, since it has gone on, are left out with a line that says so.
    """
    folder = Path(record.source)
    scores = read_object(folder / run_folder.GENERATION)
    measured = scores.pop(run_folder.MEASURED, "")  # files of 0.1.0 do not say it
    if measured and run_folder.weights_fingerprint(folder) not in ("", measured):  # "": pruned, and no longer training
        warn(f"{visible(folder / run_folder.GENERATION)}: left out: the run has gone on since: measure it again")
        return {}
    return scores
