"""From the search to the result: python sweeps/final.py SWEEP --seeds 5 (see --help).

Trains the best trial's settings on all training images, for as many epochs as the trial's best epoch counts, with
fresh seeds, and evaluates the test images once in each run. If a dataset has no test images, the held-out images stay
held out, and the figures are theirs, although the trial was chosen by them. The result goes to final.json in the
sweep's folder.
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from data.signals import hold_signals

if __name__ == "__main__":
    hold_signals()  # the imports take seconds

from rich.text import Text

from analysis.command_line import Parser, run_program, whole_number
from analysis.compare.results_table import figures_of, plus_minus, spread
from analysis.compare.seeds import difference_over_images, duel, verdict
from analysis.read.best_recipe import FILE as BEST_RECIPE
from analysis.read.best_recipe import write_best
from analysis.read.predictions import right_by_image
from analysis.read.recipe import SEED, TESTED, command_of
from analysis.read.storage import masked_arguments
from analysis.read.sweeps import SweepRecord, entries_for, read_sweep, read_yaml, sweep_folder
from analysis.read.trials import Trial
from analysis.record import run_folder
from analysis.terminal import make_console, make_table
from data.datasets import has_test_images
from data.errors import UserError
from data.files import read_json, write_json
from data.metrics import USUAL, is_finite, metric_named, shown
from data.visible import say, visible, warn
from models.core.settings import CIRCUMSTANCES, Settings
from models.resolve import validate
from sweeps.local.from_width import transfer_of
from sweeps.local.launch import ARGUMENTS, OUTPUT, Run, command_words, processes_of, unless_set
from sweeps.local.picking import front_in_words, picked
from sweeps.local.pool import Pool
from sweeps.local.sweep_file import COMMAND
from sweeps.local.workers import assign_devices

PROGRAM = "train.py"
PROTOCOL = {"train_fraction": 1.0, "patience": 0}
CHOICE = "best_by"  # which there is none of without images to validate with: the newest weights are tested
NUM_SHOWN_LINES = 5
MOST_SEEDS = 10_000
FIRST_SEED = 1  # fresh seeds: the trials had the default one unless the sweep says otherwise
COSTS = ("train_seconds", "images_per_second")


@dataclass(frozen=True)
class Final:
    """One run on all training images.

    Attributes:
        trial: the trial whose settings it has.
        seed: its own.
        settings: what it is told: the trial's settings, but for the protocol's.
    """

    trial: Trial
    seed: int
    settings: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The run's name, by which it is resumed."""
        return f"{run_folder.FINAL}{self.trial.run_id}{SEED}{self.seed}"


def finals_of(sweep: SweepRecord, trial: Trial, num_seeds: int) -> list[Final]:
    """Return the final runs of one trial's settings."""
    parameters = entries_for(sweep.content, trial.settings)
    # Where and how to run is for this machine to say, or for the sweep file; its tags are for the trials.
    recipe = {
        key: value
        for key, value in trial.settings.items()
        if key not in CIRCUMSTANCES or (key in parameters and key != "tags")
    }
    if has_test_images(recipe.get("dataset", Settings.dataset), recipe.get("data_dir", "")):
        recipe = {key: value for key, value in recipe.items() if key != CHOICE} | TESTED
    settings = {**recipe, **PROTOCOL, "epochs": trial.best_epoch}
    return [Final(trial, seed, {**settings, "seed": seed}) for seed in range(FIRST_SEED, FIRST_SEED + num_seeds)]


def command_and_program(content: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return what starts a sweep's runs, by the content of its file."""
    command = content.get("command")
    return tuple(map(str, command)) if isinstance(command, list) else COMMAND, str(content.get("program", PROGRAM))


def check_command(sweep: SweepRecord, folder: Path) -> None:
    """Refuse to run a command that stands in no sweep file on this machine: who wrote the sweep chose it.

    Raises:
        UserError: with the command.
    """
    told = command_and_program(sweep.content)
    paths = [folder / run_folder.SWEEP_FILE, *(CHECKOUT / "sweeps").glob("*.yaml")]
    contents = [content for content in map(read_yaml, paths) if isinstance(content, dict)]
    if told not in [(COMMAND, PROGRAM), *map(command_and_program, contents)]:
        command = shlex.join([*told[0], f"({told[1]})"])
        raise UserError(
            f"sweep {sweep.name} comes from elsewhere, and its command is in no sweep file here: "
            f"{command}: if you trust it, give --trust"
        )


def place_on_wandb(name: str, folder: Path) -> dict[str, str]:
    """Return the environment that sends final runs to the W&B project of their sweep, where one is known.

    Args:
        name: of the sweep: entity/project/id on W&B, or that of its folder.
        folder: of the sweep.
    """
    if name.count("/") == 2:
        entity, project, _ = name.split("/")
        return {"WANDB_ENTITY": entity, "WANDB_PROJECT": project}
    content = read_yaml(folder / run_folder.SWEEP_FILE)
    own = content.get("project") if isinstance(content, dict) else None
    return {"WANDB_PROJECT": str(own)} if own else {}


class Finals:
    """Runs final trainings, several at a time; a signal makes them save their state and end."""

    def __init__(
        self, folder: Path, sweep: SweepRecord, devices: Sequence[Mapping[str, str]], place: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.environment = {**unless_set({"WANDB_RUN_GROUP": folder.name, "WANDB_JOB_TYPE": "final"}), **place}
        self.command, self.program = command_and_program(sweep.content)
        self.pool: Pool[Run] = Pool(devices)
        self.fault = ""  # what is wrong with this machine, so that no further run is started
        self.num_failed = 0

    def run(self, finals: Sequence[Final]) -> int:
        """Run them all; return the exit code."""
        waiting = list(finals)
        self.pool.work(lambda: self.fill_slots(waiting), self.note, lambda: bool(waiting), self.is_over)
        return self.pool.exit_code or min(self.num_failed, 1)

    def is_over(self) -> bool:
        """Return whether no further run is to be started."""
        return bool(self.pool.signals or self.fault)

    def note(self, run: Run) -> None:
        """Count a run that has failed."""
        self.num_failed += not self.has_succeeded(run)

    def fill_slots(self, waiting: list[Final]) -> None:
        """Start runs in the free slots, and take them from those that are waiting."""
        for slot in self.pool.free_slots():
            # Processes that a killed command has left behind may still be saving the state of their run.
            ready = next((final for final in waiting if not processes_of(final.run_id)), None)
            if ready is None:
                return
            waiting.remove(ready)
            self.start(ready, slot)

    def start(self, final: Final, slot: int) -> None:
        """Start a run, or go on with it from its checkpoint; one that has finished ends at once."""
        words = command_words(self.command, self.program, final.settings, self.folder / final.run_id / ARGUMENTS)
        environment = {**self.environment, **self.pool.devices[slot]}
        self.pool.add(Run(words, final.run_id, self.folder, final.settings, environment), slot)

    def has_succeeded(self, run: Run) -> bool:
        """Return whether a run has finished with figures, and print how it has ended."""
        state, figures = run.state(), figures_of(read_json(run.folder / run_folder.SUMMARY))
        if state == "finished" and figures:
            say(f"{run.run_id}: {', '.join(f'{key} {shown(key, value)}' for key, value in figures.items())}")
            return True
        fault = run.fault()
        self.fault = self.fault or (fault.reason if fault else "")
        how = "finished without figures" if state == "finished" else state
        warn(f"{run.run_id}: {how}, {run.exit()}; {run.folder / OUTPUT} ends with")
        warn(run.last_lines(NUM_SHOWN_LINES))
        return False


def result_of(folder: Path, finals: Sequence[Final]) -> dict[str, Any]:
    """Return the figures of one trial's settings over the runs that finished with any: means, deviations, values."""
    summaries = {final.seed: read_json(folder / final.run_id / run_folder.SUMMARY) for final in finals}
    done = {
        seed: summary
        for seed, summary in summaries.items()
        if summary.get("state") == "finished" and figures_of(summary)
    }
    result: dict[str, Any] = {
        "trial": finals[0].trial.run_id,
        "value": finals[0].trial.value,
        "settings": finals[0].settings,
        "seeds": list(done),
        **{key: None for key in ("command", "num_parameters", "device")},
    }
    if not done:
        return result
    first = next(final for final in finals if final.seed in done)
    keys = (*figures_of(done[first.seed]), *COSTS)
    known = [key for key in keys if all(is_finite(each.get(key)) for each in done.values())]
    return result | {
        "command": command_of(read_json(folder / first.run_id / run_folder.SETTINGS)),
        "num_parameters": done[first.seed].get("num_parameters"),
        "device": read_json(folder / first.run_id / run_folder.ENVIRONMENT).get("device"),
        **{key: spread([each[key] for each in done.values()]) for key in known},
    }


def show(results: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Print a table with a row for each trial whose settings were trained."""
    keys = shown_keys(results, metric)
    held_out = "" if any(key.startswith("test/") for key in keys) else " but those held out, whose figures these are"
    title = f"on all training images{held_out}; trials by their {metric}, the best first"
    table = make_table(("trial", f"chosen by {metric}", "epochs", "seeds", *keys, "seconds"), title)
    for result in results:
        cells = [
            result["trial"],
            shown(metric, result["value"]),
            str(result["settings"]["epochs"]),
            str(len(result["seeds"])),
            *(plus_minus(result[key], key) if key in result else "" for key in keys),
            f"{result['train_seconds']['mean']:.0f}" if "train_seconds" in result else "",
        ]
        table.add_row(*(Text(visible(cell)) for cell in cells))
    if len(results) > 1:
        num_runs = sum(len(result["seeds"]) for result in results)
        together = over_trials(results, keys)
        table.add_row("all", "", "", str(num_runs), *(plus_minus(together[key], key) for key in keys))
    make_console().print(table)


def shown_keys(results: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Return the figures to show, as far as the runs have them: that of the sweep's metric first."""
    names = dict.fromkeys((metric.partition("/")[2], *USUAL))
    known = {key for result in results for key in result}
    return [key for name in names for key in (f"test/{name}", f"val/{name}") if key in known]


def over_trials(results: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Return mean and deviation over the runs of all trials: how much depends on which of the best trials is taken."""
    return {key: spread([x for result in results if key in result for x in result[key]["values"]]) for key in keys}


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
    by_seed = [dict(zip(result["seeds"], result[key]["values"], strict=True)) for _, result in known]
    images = [
        right_by_image([folder / final.run_id for final in runs if final.seed in result["seeds"]], key.split("/")[0])
        for runs, result in known
    ]
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


def run_finals(options: Namespace) -> int:
    """Train the best trials of a sweep; return the exit code."""
    devices = assign_devices(options.workers, options.devices)
    if options.pick and (options.from_width or options.top > 1):
        raise UserError(f"--pick={options.pick} names one trial: leave out --top and --from-width")
    if options.seeds > MOST_SEEDS:
        raise UserError(f"--seeds={options.seeds} are more runs than there will be: give at most {MOST_SEEDS}")
    sweep = read_sweep(options.sweep, options.storage)
    metric = sweep.metric.name
    if not sweep.leaders:
        raise UserError(f"sweep {options.sweep} has no trial with a {metric} yet: let one end, or pause the sweep")
    folder = sweep_folder(sweep.name)
    if not options.trust:
        check_command(sweep, folder)
    transfer = transfer_of(sweep, options.from_width) if options.from_width else None
    choice = picked(sweep, options.pick) if options.pick else None
    trials = transfer.trials if transfer else [choice] if choice else sweep.leaders[: options.top]
    finals = [finals_of(sweep, trial, options.seeds) for trial in trials]
    if command_and_program(sweep.content)[1] == PROGRAM:  # ours, of which we know what it takes
        for of_trial in finals:
            validate(of_trial[0].settings, {})
    runs = Finals(folder, sweep, devices, place_on_wandb(options.sweep, folder))
    code = runs.run([final for of_trial in finals for final in of_trial])
    results = [result_of(folder, of_trial) for of_trial in finals]
    if code > 1 or runs.fault:
        reason = f", {runs.fault}" if runs.fault else ""
        say(f"stopped{reason}; to go on: python sweeps/final.py {shlex.join(masked_arguments(sys.argv[1:]))}")
    elif not any(result["seeds"] for result in results):
        warn("final.py: no run has finished: the reasons are above")
    else:
        keys = shown_keys(results, metric)
        comparisons = against_the_first(folder, finals, results, keys[0]) if keys else []
        result = {"sweep": options.sweep, "metric": metric, "trials": results}
        result |= {"over_trials": over_trials(results, keys), "comparisons": comparisons}
        write_json(folder / run_folder.FINAL_RESULT, result)
        write_best(sweep, folder / BEST_RECIPE, choice)
        show(results, metric)
        for each in comparisons:
            say(f"{each['trial']} against {each['against']} by {each['metric']}: {each['verdict']}")
        if transfer:
            say(transfer.words)
        if len(sweep.metrics) > 1 and not options.pick:
            say(f"trained is the best by {metric}; of the Pareto front {front_in_words(sweep)}: --pick takes another")
        say(f"written to {folder / run_folder.FINAL_RESULT}; the recipe: {folder / BEST_RECIPE}")
    return code


def main(arguments: Sequence[str]) -> int:
    """Train the best trials, or say in one line what keeps them from it; return the exit code."""
    return run_program("final.py", lambda: run_finals(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
