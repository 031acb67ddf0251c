"""List runs and sweeps as tables in a terminal.

python -m analysis.runs                                the newest runs
python -m analysis.runs --sweep cnn_lr                 a sweep's runs, the best first, with the settings that differ
python -m analysis.runs --state failed --since 2d      what went wrong lately
python -m analysis.runs --sweeps                       every sweep
python -m analysis.runs --project ENTITY/PROJECT       what W&B keeps
python -m analysis.runs --csv FILE --history FILE      their settings and figures, and all that they have logged
python -m analysis.runs --prune                        files that nobody needs any more; --yes deletes them
"""

import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from analysis.command_line import count, parser_of, path, run_program, whole_number
from analysis.compare.pruning import prune
from analysis.compare.ranking import choose_metric
from analysis.compare.run_csv import write_histories, write_runs
from analysis.compare.run_tables import SORTS, print_runs
from analysis.compare.sweep_table import print_sweeps
from analysis.read.records import STATES, Filter, RunList, RunRecord, fits
from analysis.read.runs import read_runs
from analysis.read.spare import find_spare
from analysis.read.sweep_metrics import metrics_of_sweeps
from analysis.read.sweeps import read_sweeps
from data.errors import UserError, suggestion
from data.metrics import metric_named
from data.paths import default_runs_dir, expanded
from data.visible import say, warn

NUM_SHOWN = 30
NUM_KEPT = 5  # trials of a sweep whose weights are kept
HOURS = {"h": 1, "d": 24, "w": 168}
CONDITIONS = ("sweep", "model", "dataset", "tag", "state", "since", "until")  # options, and parts of a Filter
EFFECTIVE = {  # what is asked for in place of the table of runs, "", and the options that have an effect on it
    "sweeps": ("project",),
    "csv": (*CONDITIONS, "project", "history"),
    "history": (*CONDITIONS, "project", "csv"),
    "prune": (*CONDITIONS, "limit", "keep_weights", "yes"),
    "": (*CONDITIONS, "project", "metric", "sort", "limit"),
}


def moment(text: str) -> datetime:
    """Return the time that a text names: a date, with or without a time of day, or so many hours, days or weeks ago."""
    try:
        if match := re.fullmatch(r"(\d+)([hdw])", text):
            return datetime.now(UTC) - timedelta(hours=int(match[1]) * HOURS[match[2]])
        return datetime.fromisoformat(text).astimezone(UTC)  # a time without a zone is one of this machine's
    except OverflowError:
        raise ArgumentTypeError(f"{text} is before all calendars: name a later time") from None
    except ValueError:
        raise ArgumentTypeError(f"{text} is no time: write 2026-11-25, or 12h, 3d or 2w for so long ago") from None


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the options that a command line gives."""
    parser = parser_of("runs", __doc__)
    parser.add_argument("--runs_dir", type=path, help="folder of the runs; default: $VISION_SWEEPS_RUNS, else runs")
    parser.add_argument("--project", default="", help="entity/project on W&B, to be read in place of a folder")
    parser.add_argument("--sweeps", action="store_true", help="list sweeps rather than runs")
    for name in ("sweep", "model", "dataset", "tag"):
        parser.add_argument(f"--{name}", default="", help=f"list the runs of this {name} alone; * and ? are wildcards")
    parser.add_argument("--state", default="", choices=STATES, help="list runs that ended so; unfinished ones may run")
    for name, bound in (("since", "from this time on"), ("until", "up to this time")):
        parser.add_argument(f"--{name}", type=moment, help=f"list runs started {bound}: 2026-11-25, or 12h, 3d, 2w ago")
    parser.add_argument(
        "--metric",
        default="",
        help="metric to show, 'maximize val/x' for a goal; default: that of --sweep, else val/loss",
    )
    parser.add_argument("--sort", choices=SORTS, help="default: age, and best with --sweep")
    parser.add_argument("--limit", type=whole_number, help=f"the most rows; default: {NUM_SHOWN}")
    parser.add_argument("--csv", type=path, metavar="FILE", help="write a CSV row for each run: settings and figures")
    parser.add_argument("--history", type=path, metavar="FILE", help="write all rows that the runs have logged")
    parser.add_argument("--prune", action="store_true", help="list the files of these runs that can be deleted")
    parser.add_argument("--keep_weights", type=count, help=f"best trials that keep theirs; default: {NUM_KEPT}")
    parser.add_argument("--yes", action="store_true", help="with --prune: delete them")
    return parser.parse_args(arguments)


def show(options: Namespace) -> None:
    """Print the table, or write the files, that the options ask for."""
    check_options(options)
    limit = NUM_SHOWN if options.limit is None else options.limit
    runs = read_runs(options.runs_dir, options.project)
    if options.sweeps:
        print_sweeps(read_sweeps(options.runs_dir, runs.records, options.project))
        return
    found = Filter(**{name: getattr(options, name) for name in CONDITIONS}).apply(runs.records)
    if not found:
        tell_unknown(options, runs.records)
    files = (options.csv, write_runs), (options.history, write_histories)
    if told := [write(place, found) for place, write in files if place]:
        say(*told)
        return
    if options.prune:
        runs_dir = expanded(options.runs_dir or default_runs_dir())
        sweeps = read_sweeps(runs_dir, runs.records).sweeps
        num_kept = NUM_KEPT if options.keep_weights is None else options.keep_weights
        prune(runs_dir, find_spare(runs_dir, found, sweeps, num_kept), limit, options.yes)
        return
    metric = metric_named("val/loss")
    if options.metric or options.sweep:
        metrics = metrics_of_sweeps(found, options.project)
        metric = choose_metric(options.metric, found, metrics.items())
    sort = options.sort or ("best" if options.sweep else "age")
    print_runs(RunList(found, runs.skipped), metric, sort, limit)


def check_options(options: Namespace) -> None:
    """Refuse options that have no effect on what the others ask for, and one file for two tables.

    Raises:
        UserError: the options do not go together.
    """
    given = [name for name, value in vars(options).items() if value not in (None, "") and value is not False]
    asked = next((name for name in EFFECTIVE if name in given), "")
    for name in given:
        if name not in ("runs_dir", asked, *EFFECTIVE[asked]):
            remedy = f"on --{asked}: leave one of them out" if asked else "without --prune: give that, too"
            raise UserError(f"--{name} has no effect {remedy}")
    if options.csv and options.history and options.csv.resolve() == options.history.resolve():
        raise UserError(f"--csv and --history are both {options.csv}: name two files")


def tell_unknown(options: Namespace, records: Sequence[RunRecord]) -> None:
    """Say which of the names that are asked for no run has, and those that there are."""
    for name in ("sweep", "model", "dataset"):
        pattern, known = getattr(options, name), sorted({getattr(record, name) for record in records} - {""})
        if pattern and not any(fits(each, pattern) for each in known):
            warn(f"no run has --{name}={pattern}{suggestion(pattern, known)}; there are: {', '.join(known) or 'none'}")


def main(arguments: Sequence[str]) -> int:
    """List runs or sweeps, or say in one line why that cannot be done; return the exit code."""
    return run_program("runs", lambda: show(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
