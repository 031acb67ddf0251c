"""How good a trained run is on other images, by `python -m analysis.evaluate RUN --data_dir DIR`.

The images are read as train.py reads them, at the size and with the normalisation of the run; their classes are found
by name. Splits are those that DIR is divided into (train, val, test); where it is not, all images are one, called
all. The metrics are kept in the run's folder, in evaluations.json, by the images' fingerprint and the split, and never
among the run's own.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from rich.text import Text

from analysis.command_line import parser_of, run_program
from analysis.look.evaluations import ALL, evaluate_on, keep, read_other_data
from analysis.look.trained_run import load_network
from analysis.read.runs import find_run
from analysis.record import run_folder
from analysis.terminal import make_console, make_table
from data.errors import check_known
from data.files import read_json
from data.metrics import shown
from data.visible import counted, say

SPLITS = ("train", "val", "test", ALL)


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of("evaluate", __doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a run, or its id in runs/ ($VISION_SWEEPS_RUNS)")
    parser.add_argument(
        "--data_dir",
        default="",
        metavar="DIR",
        help="folder of the images (default: the run's own); the run's own are divided as they were for it",
    )
    parser.add_argument("--dataset", default="", help="as of train.py (default: the run's own)")
    parser.add_argument("--label_column", default="", metavar="NAME", help="as of train.py (default: the run's own)")
    parser.add_argument(
        "--split",
        default="",
        help="train, val, test, or all of a folder that is not divided (default: the first of test, val, all)",
    )
    return parser.parse_args(arguments)


def evaluate(options: Namespace) -> None:
    """Evaluate a run on other images, and print its metrics there beside its own."""
    if options.split:
        check_known(f"--split={options.split}", options.split, SPLITS)
    folder = find_run(options.run)
    run = load_network(folder)
    dataset, own_place, own_column = run.settings.dataset, run.settings.data_dir, run.settings.label_column
    if options.dataset not in ("", dataset):
        dataset, own_place, own_column = options.dataset, "", ""  # where that dataset usually is
    data = read_other_data(run, dataset, options.data_dir or own_place, options.label_column or own_column)
    split = data.choose(options.split)
    metrics = evaluate_on(run, data.splits[split])
    summary = read_json(folder / run_folder.SUMMARY)
    own = [name for name in ("val", "test") if any(f"{name}/{key}" in summary for key in metrics)]
    table = make_table(["metric", "here", *(f"the run's own {name}" for name in own)])
    for key, value in metrics.items():
        table.add_row(Text(key), Text(shown(key, value)), *(Text(shown(key, summary.get(f"{it}/{key}"))) for it in own))
    whose = "the run's own images, " if data.is_own else ""
    say(f"{counted(len(data.splits[split].labels), 'image')} of {data.data_dir}: {whose}{split}")
    make_console().print(table)
    say(keep(folder, data, split, metrics))


def main(arguments: Sequence[str]) -> int:
    """Evaluate, or say in one line what keeps it from being done; return the exit code."""
    return run_program("evaluate", lambda: evaluate(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
