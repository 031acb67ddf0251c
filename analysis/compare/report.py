"""A report that compares runs, by `python -m analysis.report`: one HTML file that opens anywhere, without a network.

Leaderboard, curves, best so far, settings against values, parallel coordinates, importance, differences, pictures.
With --publish the same comparison becomes a W&B Report.
"""

import shlex
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from analysis.command_line import Parser, run_program
from analysis.compare.comparison import Comparison, Metric, common_metric, compare, metric_of
from analysis.compare.html_page import html_page
from analysis.read.runs import Filter, RunRecord, read_runs
from analysis.read.sweeps import SweepRecord, read_sweeps
from data.errors import UserError, suggestion
from data.files import replace_file
from data.paths import default_runs_dir

FILE = "report.html"


def find_comparison(options: Namespace) -> Comparison:
    """The runs that are asked for, ranked.

    Raises:
        UserError: there are none.
    """
    records, num_skipped = read_runs(options.runs_dir, options.project)
    sweeps = read_sweeps(options.runs_dir, records, options.project).sweeps
    chosen = choose_runs(records, options.sweep, options.model)
    searched = [sweep for sweep in sweeps if sweep.name in {record.sweep for record in chosen}]
    metric = metric_of(options.metric) if options.metric else metric_for(chosen, searched)
    where = options.project or f"all runs in {options.runs_dir or default_runs_dir()}"
    title = ", ".join(options.sweep + ([options.model] if options.model else [])) or where
    return compare(title, chosen, metric, searched, num_skipped)


def choose_runs(records: Sequence[RunRecord], sweeps: Sequence[str], model: str) -> list[RunRecord]:
    """The runs of some sweeps and of a model; each may be named by a shell's wildcards, and none is no condition.

    Raises:
        UserError: a sweep or the model has none.
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


def metric_for(records: Sequence[RunRecord], sweeps: Sequence[SweepRecord]) -> Metric:
    """The sweeps' own metric, where all runs are theirs and they agree; else one that most runs have."""
    metrics = {Metric(sweep.metric.name, sweep.metric.goal == "minimize") for sweep in sweeps}
    is_all = {record.sweep for record in records} == {sweep.name for sweep in sweeps}
    return metrics.pop() if is_all and len(metrics) == 1 else common_metric(records)


def place_of(options: Namespace, comparison: Comparison) -> Path:
    """Where the report goes: the sweep's own folder, else the runs folder; the current one for runs on W&B."""
    if options.out:
        return options.out
    folders = {Path(entry.record.source).parent for entry in comparison.entries if entry.record.is_local}
    if options.sweep and len(folders) == 1:
        return folders.pop() / FILE
    return (Path() if options.project else options.runs_dir or default_runs_dir()) / FILE


def write_report(options: Namespace, arguments: Sequence[str]) -> None:
    """Write or publish the report, and print where it is."""
    comparison = find_comparison(options)
    if options.publish:
        from analysis.compare.wandb_report import publish  # imported late: W&B takes a second

        records = [entry.record for entry in comparison.entries]
        sweeps = sorted({record.sweep for record in records}) if options.sweep else []
        models = sorted({record.model for record in records}) if options.model else []
        print(publish(comparison, options.project, sweeps, models))
        return
    path = place_of(options, comparison)
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}; make it, or name another")
    page = html_page(comparison, shlex.join(["python", "-m", "analysis.report", *arguments]))
    replace_file(path, lambda unfinished: unfinished.write_text(page, encoding="utf-8"))
    print(path)


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line."""
    parser = Parser(prog="python -m analysis.report", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", nargs="+", default=[], metavar="S", help="sweeps to compare; default: all runs")
    parser.add_argument("--model", default="", metavar="M", help="runs of this model alone")
    parser.add_argument(
        "--metric", metavar="NAME", help="to rank by; default: the sweep's, else val/accuracy or val/loss"
    )
    parser.add_argument(
        "--project", default="", metavar="E/P", help="runs of a W&B project, in place of the runs folder"
    )
    parser.add_argument(
        "--runs_dir", type=Path, metavar="DIR", help="runs folder; default: $VISION_SWEEPS_RUNS, else runs"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: {FILE} in the sweep's or the runs folder")
    parser.add_argument(
        "--publish", action="store_true", help="make a W&B Report of the project's runs in place of a file"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Report on runs, or say in one line what keeps them from being compared; returns the exit code."""
    return run_program("report", lambda: write_report(parse(arguments), arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
