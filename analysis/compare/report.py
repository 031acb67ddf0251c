"""A report that compares runs: which runs, ranked by what, written where."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.compare.comparison import Comparison, compare
from analysis.compare.html_page import html_page
from analysis.compare.ranking import choose_metric
from analysis.compare.wandb_report import publish
from analysis.read.recipe import model_and_dataset
from analysis.read.records import Filter, RunRecord, fits
from analysis.read.runs import read_runs
from analysis.read.sweeps import SweepRecord, read_sweeps
from data.errors import UserError, suggestion
from data.files import replace_file
from data.paths import default_runs_dir

FILE = "report.html"


@dataclass(frozen=True)
class Choice:
    """Which runs are to be compared, and by what.

    Attributes:
        runs_dir: the runs folder; None for the default one.
        project: entity/project on W&B, to be read in place of a folder; "" for none.
        sweeps: names of sweeps whose runs are wanted, with the wildcards of a shell; empty for all runs.
        model: name of the model whose runs are wanted, with wildcards, too; "" for all.
        metric: name of the metric that ranks the runs; "" for the sweeps' own, or one that most of the runs have.
    """

    runs_dir: Path | None = None
    project: str = ""
    sweeps: Sequence[str] = ()
    model: str = ""
    metric: str = ""


def find_comparison(choice: Choice) -> Comparison:
    """Return the comparison of the chosen runs.

    Raises:
        UserError: there are no such runs, or none of them has such a metric.
    """
    records, skipped = read_runs(choice.runs_dir, choice.project)
    sweeps = read_sweeps(choice.runs_dir, records, choice.project).sweeps
    chosen = choose_runs(records, choice.sweeps, choice.model)
    names = {record.sweep for record in chosen}
    searched = [of_model(sweep, choice.model) for sweep in sweeps if sweep.name in names]
    metric = choose_metric(choice.metric, chosen, [(sweep.name, sweep.metrics) for sweep in searched])
    where = choice.project or f"all runs in {choice.runs_dir or default_runs_dir()}"
    title = ", ".join([*choice.sweeps, *([choice.model] if choice.model else [])]) or where
    return compare(title, chosen, metric, searched, skipped)


def of_model(sweep: SweepRecord, model: str) -> SweepRecord:
    """Return a sweep with its trials of a model alone, named with wildcards; with all of them for ""."""
    trials = [trial for trial in sweep.trials if fits(str(model_and_dataset(trial.settings)[0]), model or "*")]
    return replace(sweep, trials=tuple(trials))


def choose_runs(records: Sequence[RunRecord], sweeps: Sequence[str], model: str) -> list[RunRecord]:
    """Return the runs of some sweeps and of a model.

    Args:
        records: the runs to choose from.
        sweeps: names of the sweeps, with the wildcards of a shell; empty for all runs.
        model: name of the model, with wildcards, too; "" for all.

    Raises:
        UserError: one of the sweeps has no run, or the model has none.
    """
    for sweep in sweeps:
        if not Filter(sweep=sweep).apply(records):
            known = {record.sweep for record in records if record.sweep}
            there = f"there are {', '.join(sorted(known))}" if known else "there are no sweeps"
            raise UserError(f"sweep {sweep} has no runs{suggestion(sweep, known) or f': {there}'}")
    filters = [Filter(sweep=sweep, model=model) for sweep in sweeps or [""]]
    chosen = [record for record in records if any(one.wants(record) for one in filters)]
    if model and not chosen:
        known = {record.model for record in records}
        raise UserError(f"there is no run of model {model}{suggestion(model, known)}")
    return chosen


def write_report(choice: Choice, comparison: Comparison, out: Path | None, command: str) -> Path:
    """Write the report as an HTML page, and return the page's file.

    Args:
        choice: which runs were chosen.
        comparison: the comparison of those runs.
        out: the file; None for one beside the runs.
        command: the command line that makes this page again, which the page names.

    Raises:
        UserError: the file cannot be written.
    """
    path = out or default_file(choice, comparison)
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}; make it, or name another")
    page = html_page(comparison, command)
    try:
        replace_file(path, lambda unfinished: unfinished.write_text(page, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--out {path} cannot be written ({error.strerror}): name another") from None
    return path


def default_file(choice: Choice, comparison: Comparison) -> Path:
    """Return the file of a report: in the sweep's folder, else the runs folder; for runs on W&B in the current one."""
    folders = {Path(entry.record.source).parent for entry in comparison.entries if entry.record.is_local}
    if choice.sweeps and len(folders) == 1:
        return folders.pop() / FILE
    return (Path() if choice.project else choice.runs_dir or default_runs_dir()) / FILE


def publish_report(choice: Choice, comparison: Comparison) -> str:
    """Make the report on W&B, and return its address.

    Raises:
        UserError: the runs are not on W&B, or it cannot be reached or refuses the report.
    """
    records = [entry.record for entry in comparison.entries]
    sweeps = sorted({record.sweep for record in records}) if choice.sweeps else []
    models = sorted({record.model for record in records}) if choice.model else []
    return publish(comparison, choice.project, sweeps, models)
