"""From the search to the result: python sweeps/final.py SWEEP --seeds 5 (see --help).

Trains the best trial's settings on all training images, for as many epochs as the trial's best epoch counts, with
fresh seeds, and evaluates the test images once in each run. If a dataset has no test images, the held-out images stay
held out, and the figures are theirs, although the trial was chosen by them. The result goes to final.json in the
sweep's folder.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.signals import hold_signals

if __name__ == "__main__":
    hold_signals()  # the imports take seconds

from rich.text import Text

from analysis.command_line import Parser, run_program, whole_number
from analysis.compare.seeds import difference_over_images, duel, verdict
from analysis.read.best_recipe import FILE as BEST_RECIPE
from analysis.read.best_recipe import write_best
from analysis.read.figures import plus_minus
from analysis.read.predictions import right_by_image
from analysis.read.storage import this_command
from analysis.read.sweeps import SweepRecord, read_sweep, sweep_folder
from analysis.read.trials import Trial
from analysis.record import run_folder
from analysis.terminal import make_console, make_table
from data.errors import UserError
from data.files import write_json
from data.metrics import USUAL, is_of_test_images, metric_named, shown
from data.visible import counted, say, visible, warn
from sweeps.local.final_runs import (
    Final,
    Finals,
    check_command,
    check_settings,
    finals_of,
    place_of_finals,
    result_of,
)
from sweeps.local.from_width import transfer_of
from sweeps.local.picking import picked, trials_in_words
from sweeps.local.workers import assign_devices

MOST_SEEDS = 10_000


def show(results: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Print a table with a row for each trial whose settings were trained."""
    keys = shown_keys(results, metric)
    held_out = "" if any(map(is_of_test_images, keys)) else " but those held out, whose figures these are"
    order = f"; trials by their {metric}, the best first" if len(results) > 1 else ""
    title = f"on all training images{held_out}{order}"
    table = make_table(("trial", f"its {metric}", "epochs", "seeds", *keys, "seconds"), title)
    for result in results:
        cells = [
            result["trial"],
            shown(metric, result["value"]),
            str(result["settings"]["epochs"]),
            str(len(result["seeds"])),
            *(told_figure(result, key) for key in keys),
            f"{result['train_seconds']['mean']:.0f}" if "train_seconds" in result else "",
        ]
        table.add_row(*(Text(visible(cell)) for cell in cells))
    make_console().print(table)


def shown_keys(results: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Return the figures to show, as far as the runs have them: that of the sweep's metric first."""
    names = dict.fromkeys((metric.partition("/")[2], *USUAL))
    known = {key for result in results for key in result}
    return [key for name in names for key in (f"test/{name}", f"val/{name}") if key in known]


def told_figure(result: Mapping[str, Any], key: str) -> str:
    """Return a figure of a trial's final runs in words, with the number of runs where not all have it; "" for none."""
    if key not in result:
        return ""
    few = f" ({counted(len(result[key]['seeds']), 'run')})" if "seeds" in result[key] else ""
    return plus_minus(result[key], key) + few


def against_the_first(
    folder: Path, finals: Sequence[Sequence[Final]], results: Sequence[Mapping[str, Any]], key: str
) -> list[dict[str, Any]]:
    """Return how the trial that was chosen compares with each of the others, whose settings were trained, too.

    Args:
        folder: of the sweep.
        finals: the runs of each trial's settings, the chosen trial first.
        results: of these.
        key: the figure by which they are compared.
    """
    known = [(runs, result) for runs, result in zip(finals, results, strict=True) if key in result]
    figures = [(result[key], result["seeds"]) for _, result in known]
    by_seed = [dict(zip(each.get("seeds", seeds), each["values"], strict=True)) for each, seeds in figures]
    split, _, figure = key.partition("/")  # over images there is but a difference in accuracy
    folders = [[folder / final.run_id for final in runs if final.seed in result["seeds"]] for runs, result in known]
    images = [right_by_image(own, split) if figure == "accuracy" else {} for own in folders]
    found = []
    for (_, other), values, right in list(zip(known, by_seed, images, strict=True))[1:]:
        contest, over_images = duel(by_seed[0], values, metric_named(key)), difference_over_images(images[0], right)
        found.append(
            {
                "trial": known[0][1]["trial"],
                "against": other["trial"],
                "metric": key,
                **contest._asdict(),
                "over_images": over_images,
                "verdict": verdict(contest, over_images, key),
            }
        )
    return found


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the options of the command line."""
    parser = Parser(prog="python sweeps/final.py", description=__doc__)
    parser.add_argument("sweep", help="name of a sweep in runs/sweeps, or entity/project/sweep_id of W&B")
    parser.add_argument("--seeds", type=whole_number, default=5, help="runs of each trial's settings; default: 5")
    parser.add_argument("--top", type=whole_number, default=1, help="trials to train, the best first; default: 1")
    parser.add_argument(
        "--pick",
        metavar="TRIAL|METRIC",
        help="the trial to train: its number or, of a sweep with several metrics, the metric that it is the best by",
    )
    parser.add_argument(
        "--from-width",
        type=whole_number,
        metavar="W",
        help="train the widest model by the best trial of width W, and by the best of its own width, if there are such",
    )
    parser.add_argument("--workers", type=whole_number, help="runs at a time; default: one for each device, else 1")
    parser.add_argument("--devices", help="GPUs for the workers in turn: 0,1 or, two for each run, 0+1,2+3")
    parser.add_argument("--storage", default="", help="database of the sweep, if it is not in the sweep's folder")
    parser.add_argument("--trust", action="store_true", help="run the command of a sweep that comes from elsewhere")
    return parser.parse_args(arguments)


def chosen_trials(options: Namespace, sweep: SweepRecord) -> tuple[list[Trial], str]:
    """Return the trials whose settings are to be trained, and what is to be said of them at the end.

    Raises:
        UserError: the sweep has none yet, or none such.
    """
    if not sweep.leaders:
        raise UserError(
            f"sweep {options.sweep} has no trial with a {sweep.metric.name} yet: let one end, or pause the sweep"
        )
    if options.from_width:
        transfer = transfer_of(sweep, options.from_width)
        return transfer.trials, transfer.words
    if options.pick:
        return [picked(sweep, options.pick)], ""
    front = trials_in_words(sweep, sweep.front)
    words = f"trained is the best by {sweep.metric.name}; of the Pareto front there are {front}: --pick takes another"
    return sweep.leaders[: options.top], words if len(sweep.metrics) > 1 else ""


def warn_of_a_search(sweep: SweepRecord) -> None:
    """Say so if trials of a sweep have not ended: the best of the others may not stay it."""
    open_trials = sum(trial.state == "RUNNING" for trial in sweep.trials)
    if open_trials:
        of_all = f"{open_trials} of {counted(len(sweep.trials), 'trial')}"
        warn(f"{sweep.name} is not searched to its end, {of_all} may still become the best")


def run_finals(options: Namespace) -> int:
    """Train the best trials of a sweep; return the exit code."""
    devices = assign_devices(options.workers, options.devices)
    if options.pick and (options.from_width or options.top > 1):
        raise UserError(f"--pick={options.pick} names one trial: leave out --top and --from-width")
    if options.from_width and options.top > 1:
        raise UserError(f"--from-width={options.from_width} says itself which trials are trained: leave out --top")
    if options.seeds > MOST_SEEDS:
        raise UserError(f"--seeds={options.seeds} are more runs than there will be: give at most {MOST_SEEDS}")
    sweep = read_sweep(options.sweep, options.storage)
    trials, words = chosen_trials(options, sweep)
    folder = sweep_folder(sweep.name)
    if not options.trust:
        check_command(sweep, folder)
    finals = [finals_of(sweep, trial, options.seeds, folder) for trial in trials]
    check_settings(sweep, [of_trial[0] for of_trial in finals])
    warn_of_a_search(sweep)
    runs = Finals(folder, sweep, devices, place_of_finals(options.sweep, sweep))
    code = runs.run([final for of_trial in finals for final in of_trial])
    results = [result_of(folder, of_trial, runs.failed) for of_trial in finals]
    if code > 1 or runs.fault:
        reason = f", {runs.fault}" if runs.fault else ""
        say(f"stopped{reason}; to go on: {this_command('final.py')}")
    elif not any(result["seeds"] for result in results):
        warn("final.py: no run has finished: the reasons are above")
    else:
        write_best(sweep, folder / BEST_RECIPE, trials[0] if options.pick else None)
        choice = {"picked": options.pick, "from_width": options.from_width}
        about = {"sweep": options.sweep, "metric": sweep.metric.name, **choice}
        conclude(about, folder, finals, results, words)
    return code


def conclude(
    about: Mapping[str, Any],
    folder: Path,
    finals: Sequence[Sequence[Final]],
    results: Sequence[dict[str, Any]],
    words: str,
) -> None:
    """Write and print the figures of the final runs.

    Args:
        about: the sweep, as it was given, the metric by which trials were chosen and, where these are not the best,
            what the user asked for in their place.
        folder: of the sweep.
        finals: the runs of each trial's settings, the chosen trial first.
        results: of these.
        words: what is to be said of the choice.
    """
    keys = shown_keys(results, about["metric"])
    comparisons = against_the_first(folder, finals, results, keys[0]) if keys else []
    write_json(folder / run_folder.FINAL_RESULT, {**about, "trials": results, "comparisons": comparisons})
    show(results, about["metric"])
    for each in comparisons:
        say(f"{each['trial']} against {each['against']} by {each['metric']}: {each['verdict']}")
    if words:
        say(words)
    say(f"written to {folder / run_folder.FINAL_RESULT}; the recipe: {folder / BEST_RECIPE}")


def main(arguments: Sequence[str]) -> int:
    """Train the best trials, or say in one line what keeps them from it; return the exit code."""
    return run_program("final.py", lambda: run_finals(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
