"""Earlier runs, wherever they are, that count as observations of a search."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from optuna.study import Study

from analysis.read.index import read_parts
from analysis.read.records import RunRecord
from analysis.read.runs import curves_of_metrics, find_run, read_runs, record_of
from analysis.read.sweep_command import is_ours
from analysis.read.sweeps import read_sweep, sweep_folder
from analysis.read.trials import Trial, trials_of
from analysis.read.wandb_runs import read_wandb_sweep
from analysis.record import run_folder
from data.datasets import load_dataset
from data.errors import UserError
from data.metrics import Metric
from data.visible import counted
from sweeps.local.agreement import base_settings, differing, expected_settings
from sweeps.local.observations import NOT_COMPARED, PRIOR, branch_for, is_inside, point_of, points_of
from sweeps.local.search import best_and_newest
from sweeps.local.sweep import Sweep, value_at

Entry = dict[str, Any]  # a run as a study keeps it: its id, its settings and its best value, None if it failed
USABLE = ("COMPLETE", "PRUNED", "FAIL")


class Earlier(NamedTuple):
    """An earlier run.

    Attributes:
        run_id: its name.
        settings: all that are known.
        state: of a trial: COMPLETE, PRUNED, FAIL or RUNNING.
        value: its best value of the metric; None for none.
        data: fingerprint of its images; "" if it is not known.
        folds: number of folds over which its value is a mean; 0 for none.
    """

    run_id: str
    settings: Mapping[str, Any]
    state: str
    value: float | None
    data: str
    folds: int = 0


class Taken(NamedTuple):
    """What a search takes from one place.

    Attributes:
        entries: the runs that count.
        line: how many there are, how many do not count, and why not.
    """

    entries: list[Entry]
    line: str


def learn_from(place: str, study: Study, sweep: Sweep, storage: str = "") -> str:
    """Let earlier runs count as observations of a study, for good; return a line about them.

    Args:
        place: a sweep in the runs folder, entity/project/id of one on W&B, or a run.
        study: of the sweep's trials.
        sweep: what is searched.
        storage: address of the database that sweeps are in; "" for that of each one's folder.

    Raises:
        UserError: they cannot be read, or none of them counts.
    """
    place = name_of_sweep(place)
    if place == study.study_name:
        raise UserError(f"--prior={place} is this sweep itself, whose trials count anyway: leave it out")
    kept = {name_of_sweep(each): entries for each, entries in study.user_attrs.get(PRIOR, {}).items()}
    if place in kept:
        return f"prior {place}: {counted(len(kept[place]), 'observation')}, as taken when it was first named"
    taken = take_prior(place, sweep, storage)
    study.set_user_attr(PRIOR, {**study.user_attrs.get(PRIOR, {}), place: taken.entries})
    return taken.line


def take_prior(place: str, sweep: Sweep, storage: str = "") -> Taken:
    """Return what a search can learn from the runs at a place.

    Args:
        place: a sweep in the runs folder, entity/project/id of one on W&B, or a run.
        sweep: what is searched.
        storage: address of the database that sweeps are in; "" for that of each one's folder.

    Raises:
        UserError: there is nothing at that place, it cannot be read, or nothing of it counts.
    """
    if sweep.method != "bayes":
        raise UserError(f"--prior={place}: method {sweep.method} learns from no runs, write method: bayes")
    if "metrics" in sweep.content:
        raise UserError(f"--prior={place}: runs are taken by one metric, write metric: in place of metrics:")
    entries, reasons, num_outside, images = [], Counter[str](), 0, Images()
    runs = earlier_runs(place, sweep.metric, storage)
    for run in runs:
        own = branch_for(sweep, run.settings)
        reason = reason_against(run, own, images) if own else "with another model"
        if own and not reason:
            num_outside += not is_inside(own.space, points_of(own, run.settings) or {})
            entries.append(entry_of(run, own))
        else:
            reasons[reason] += 1
    refused = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
    if not entries:
        raise UserError(f"--prior={place}: none of its {counted(len(runs), 'run')} counts ({refused}): leave it out")
    outside = f" ({num_outside:,} outside the ranges, for when these are widened)" if num_outside else ""
    line = f"prior {place}: {len(entries):,} of {counted(len(runs), 'run')} taken as observations{outside}"
    line += f"; not taken: {refused}" if refused else ""
    kept = enough_for_a_model(entries, sweep.metric)
    line += f"; the best and the newest {len(kept)} are kept" if len(kept) < len(entries) else ""
    return Taken(kept, line)


def earlier_runs(place: str, metric: Metric, storage: str) -> list[Earlier]:
    """Return the runs at a place, with their best values of a metric, in the order in which they were started."""
    folder, place = Path(place), name_of_sweep(place)
    if place.count("/") == 2 and not folder.exists():
        return judged(read_wandb_sweep(place)[1], metric)
    if "/" not in place and (sweep_folder(place) / run_folder.SWEEP_FILE).exists():
        return runs_of_sweep(place, metric, storage)
    if "/" not in place and storage:
        with suppress(UserError):  # it is the name of a run, perhaps
            return runs_of_sweep(place, metric, storage)
    try:
        folder = find_run(place)
    except UserError as error:
        raise UserError(f"--prior={place}: there is no sweep of that name, and {error}") from None
    record = record_of(folder, *read_parts(folder, [folder]))
    if record is None:
        raise UserError(f"--prior={place}: the run's settings name no model and no dataset")
    return judged([record], metric)


def name_of_sweep(place: str) -> str:
    """Return the name of the sweep in the runs folder whose folder a place is; any other place as it is."""
    folder = Path(os.path.abspath(place))
    has_file = (folder / run_folder.SWEEP_FILE).exists()
    is_sweep = has_file and folder.resolve() == sweep_folder(folder.name).resolve()
    return folder.name if is_sweep else place


def runs_of_sweep(name: str, metric: Metric, storage: str) -> list[Earlier]:
    """Return the trials of a local sweep; of those that have a folder here, with all that the folder says."""
    folder = sweep_folder(name)
    records = [record for record in read_runs(folder).records if not record.is_final] if folder.is_dir() else []
    runs = judged(records, metric)
    has_own = (folder / run_folder.STUDY).exists()
    if not has_own and not storage:
        return runs
    sweep = read_sweep(name, "" if has_own else storage)
    by_id = {run.run_id: run for run in runs}
    is_same = (sweep.metric.name, sweep.metric.goal) == (metric.name, metric.goal)
    return [with_folder(trial, by_id.get(trial.run_id), is_same) for trial in sweep.trials]


def with_folder(trial: Trial, run: Earlier | None, is_same: bool) -> Earlier:
    """Return what a database has of a trial together with what its folder has, if there is one here.

    Args:
        trial: by the database, which alone knows whether it is paused or was stopped for good.
        run: by its folder.
        is_same: whether the value of the trial is of the metric that is asked for.
    """
    own = run or Earlier(trial.run_id, trial.settings, trial.state, None, "")
    return own._replace(state=trial.state, value=trial.value if is_same else own.value, folds=trial.folds)


def judged(records: Sequence[RunRecord], metric: Metric) -> list[Earlier]:
    """Return runs with their best values of a metric, by their logs."""
    by_id = {record.run_id: record for record in records}
    trials = trials_of(records, curves_of_metrics(records, [metric.name]), [metric])
    return [
        Earlier(trial.run_id, trial.settings, trial.state, trial.value, images_of(by_id[trial.run_id]), trial.folds)
        for trial in trials
    ]


def images_of(record: RunRecord) -> str:
    """Return the fingerprint of a run's images; "" if it is not known."""
    return str(record.environment.get("data") or "")


class Images:
    """The images of a sweep's trials, of which the fingerprint is found when it is first asked for."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], str] = {}

    def fingerprint(self, sweep: Sweep, settings: Mapping[str, Any]) -> str:
        """Return the fingerprint of the images that a trial with these settings would have; this reads them.

        Raises:
            UserError: they cannot be read.
        """
        told = expected_settings(sweep, settings)
        own = ("dataset", "data_dir", "image_size", "eval_crop", "label_column")
        key = name, folder, side, crop, column = tuple(told[name] for name in own)
        if key not in self.known:
            dataset = load_dataset(name, folder, round(side / crop), told["max_corrupt_images"], told["decode"], column)
            self.known[key] = dataset.fingerprint
        return self.known[key]


def reason_against(run: Earlier, sweep: Sweep, images: Images) -> str:
    """Return in a few words why a run says nothing of a sweep's space; "" if it does.

    Raises:
        UserError: the sweep's own images cannot be read.
    """
    if run.state not in USABLE:
        return "not ended"
    if run.value is None and run.state != "FAIL":
        return f"without a {sweep.metric.name}"
    if run.folds != sweep.folds:
        return f"with {run.folds} folds" if run.folds else "without folds"
    try:
        names = differing(sweep, run.settings)
    except UserError as error:
        return f"with settings that no trial has ({error})"
    if names:
        return f"with another {', '.join(names)}"
    if run.data and is_ours(sweep.program) and images.fingerprint(sweep, run.settings) != run.data:
        return "with other images"
    if points_of(sweep, run.settings) is None:
        told = {name: value_at(sweep.path_to(name), run.settings) for name in sweep.space}
        lacking = [name for name, value in told.items() if point_of(sweep.parameters[name], value) is None]
        return f"with a {', '.join(lacking)} that the search has no place for"
    return ""


def entry_of(run: Earlier, sweep: Sweep) -> Entry:
    """Return a run as a study keeps it: of its settings, those that are no defaults or stand in the sweep's file."""
    base = base_settings(sweep, str(run.settings.get("model") or sweep.told_model))
    told = {
        name: value
        for name, value in run.settings.items()
        if name not in NOT_COMPARED and (not base or (name in base and base[name] != value))
    }
    listed = {name: value for name, value in run.settings.items() if name in sweep.parameters}
    return {"run": run.run_id, "settings": {**told, **listed}, "value": None if run.state == "FAIL" else run.value}


def enough_for_a_model(entries: Sequence[Entry], metric: Metric) -> list[Entry]:
    """Return as many entries as a model is told of, in their order: the best ones, and of the others the newest."""
    costs = {number: metric.cost(entry["value"]) for number, entry in enumerate(entries) if entry["value"] is not None}
    return [entries[number] for number in sorted(best_and_newest(range(len(entries)), costs))]
