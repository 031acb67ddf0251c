"""From tuning to the result: python sweeps/final.py SWEEP --seeds 5 (see --help).

Trains the best trial's settings on all the training images, for as many epochs as its best one counts, with fresh
seeds, and reads the test images once a run. Where a dataset has none, the held-out images stay held out and the figures
are theirs, though the trial was chosen by them. The result is in the sweep's folder, in final.json.
"""

import shlex
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from rich.text import Text

from analysis.command_line import Parser, run_program, whole_number
from analysis.compare.results_table import figures_of, plus_minus, spread
from analysis.look.reproduction import command_of
from analysis.read.wandb_runs import TrialRecord, read_wandb_sweep
from analysis.record import run_folder
from analysis.terminal import make_console, make_table
from data.datasets import has_test_images
from data.errors import UserError
from models.core.settings import Settings
from sweeps.local.launch import ARGUMENTS, OUTPUT, Run, command_words, processes_of
from sweeps.local.sweep_file import COMMAND, sweep_folder
from sweeps.local.trials import read_trials
from sweeps.local.workers import assign_devices

PROTOCOL = {"train_fraction": 1.0, "patience": 0}
TESTED = {"val_fraction": 0.0, "test": True}  # where there are test images
SECONDS_BETWEEN_LOOKS = 0.2
NUM_SHOWN_LINES = 5
SHOWN = ("accuracy", "loss")  # beside the sweep's own metric
FIRST_SEED = 1  # fresh ones: the trials had settings.seed, 3407 unless the sweep says otherwise
COSTS = ("train_seconds", "images_per_second")


@dataclass(frozen=True)
class Final:
    """One run on all the training images."""

    trial: TrialRecord
    seed: int

    @property
    def run_id(self) -> str:
        """The run's name, by which it is resumed."""
        return f"{run_folder.FINAL}{self.trial.name}-seed{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """The trial's settings, but for what the protocol says."""
        own = {key: value for key, value in self.trial.settings.items() if key not in run_folder.MAY_CHANGE_ON_RESUMING}
        tested = TESTED if has_test_images(own.get("dataset", Settings.dataset), own.get("data_dir", "")) else {}
        return {**own, **PROTOCOL, **tested, "epochs": self.trial.best_epoch, "seed": self.seed}


class Finals:
    """Runs some final trainings, several at once; a signal makes them save and end."""

    def __init__(self, folder: Path, content: Mapping[str, Any], devices: Sequence[Mapping[str, str]]) -> None:
        self.folder = folder
        self.command = content.get("command", COMMAND)
        self.program = content.get("program", "train.py")
        self.devices = devices
        self.received: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self.received.append(number)

    def words(self, final: Final) -> list[str]:
        """The command of a run."""
        return command_words(self.command, self.program, final.settings, self.folder / final.run_id / ARGUMENTS)

    def run(self, finals: Sequence[Final]) -> int:
        """Run them all; returns the exit code."""
        waiting = list(finals)
        slots: list[Run | None] = [None] * len(self.devices)
        stopping: list[Run] = []
        num_failed = 0
        while any(slots) or (waiting and not self.received):
            for i, run in enumerate(slots):
                if run is None:
                    # What a killed command has left behind may still be saving its state.
                    free = [final for final in waiting if not processes_of(final.run_id)]
                    if free and not self.received:
                        waiting.remove(free[0])
                        slots[i] = self.start(free[0], i)
                elif run.has_ended():
                    slots[i] = None
                    num_failed += not self.has_succeeded(run)
                elif self.received and run not in stopping:
                    run.stop()
                    stopping.append(run)
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return 128 + self.received[0] if self.received else min(num_failed, 1)

    def start(self, final: Final, slot: int) -> Run:
        """Start a run, go on with it from its checkpoint, or read what it came to if it has finished."""
        environment = {**self.devices[slot], "WANDB_RUN_GROUP": self.folder.name, "WANDB_JOB_TYPE": "final"}
        return Run(self.words(final), final.run_id, self.folder, final.settings, environment)

    def has_succeeded(self, run: Run) -> bool:
        """Whether a run has finished; says how it ended."""
        state = run.state()
        if state == "finished":
            summary = run_folder.read_json(run.folder / run_folder.SUMMARY)
            figures = figures_of(summary).items()
            print(f"{run.run_id}: {', '.join(f'{key} {value:.4f}' for key, value in figures)}", flush=True)
        else:
            print(f"{run.run_id}: {state}, {run.exit()}; {run.folder / OUTPUT} ends with", file=sys.stderr)
            print(run.last_lines(NUM_SHOWN_LINES), file=sys.stderr, flush=True)
        return state == "finished"


def result_of(finals: Finals, runs: Sequence[Final]) -> dict[str, Any]:
    """What the finished runs of one trial's settings came to: means, deviations and every value."""
    folders = [finals.folder / run.run_id for run in runs]
    summaries = [run_folder.read_json(folder / run_folder.SUMMARY) for folder in folders]
    done = [i for i, summary in enumerate(summaries) if summary.get("state") == "finished"]
    metrics = figures_of(summaries[done[0]]) if done else {}
    return {
        "trial": runs[0].trial.name,
        "value": runs[0].trial.value,
        "settings": runs[0].settings,
        "command": command_of(run_folder.read_json(folders[done[0]] / run_folder.SETTINGS)) if done else None,
        "seeds": [runs[i].seed for i in done],
        "num_parameters": summaries[done[0]]["num_parameters"] if done else None,
        "device": run_folder.read_json(folders[done[0]] / run_folder.ENVIRONMENT)["device"] if done else None,
        **{key: spread([summaries[i][key] for i in done]) for key in (*metrics, *COSTS) if done},
    }


def show(results: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Print a row for each of the sweep's trials that was trained."""
    title = f"on all training images; trials by their {metric}, the best first"
    keys = shown_keys(results, metric)
    table = make_table(("trial", f"chosen by {metric}", "epochs", "seeds", *keys, "seconds"), title)
    for result in results:
        cells = [
            result["trial"],
            f"{result['value']:.4f}",
            str(result["settings"]["epochs"]),
            str(len(result["seeds"])),
            *(plus_minus(result[key], key) if key in result else "" for key in keys),
            f"{result['train_seconds']['mean']:.0f}" if "train_seconds" in result else "",
        ]
        table.add_row(*map(Text, cells))
    if len(results) > 1:
        num_runs = sum(len(result["seeds"]) for result in results)
        together = over_trials(results, keys)
        table.add_row("all", "", "", str(num_runs), *(plus_minus(together[key], key) for key in keys))
    make_console().print(table)


def shown_keys(results: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Figures to show, where runs have them: the sweep's metric first."""
    names = dict.fromkeys((metric.partition("/")[2], *SHOWN))
    known = {key for result in results for key in result}
    return [key for name in names for key in (f"test/{name}", f"val/{name}") if key in known]


def over_trials(results: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Means and deviations over every run of every trial: how much depends on which of the best is taken."""
    return {key: spread([x for result in results if key in result for x in result[key]["values"]]) for key in keys}


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line."""
    parser = Parser(prog="python sweeps/final.py", description=__doc__)
    parser.add_argument("sweep", help="name of a sweep in runs/sweeps, or entity/project/sweep_id of W&B")
    parser.add_argument("--seeds", type=whole_number, default=5, help="runs of each trial's settings; default: 5")
    parser.add_argument("--top", type=whole_number, default=1, help="trials to train, the best first; default: 1")
    parser.add_argument("--workers", type=whole_number, help="runs at once; default: one a device, else 1")
    parser.add_argument("--devices", help="GPUs, dealt out to the workers: 0,1 or, two for each run, 0+1,2+3")
    parser.add_argument("--storage", help="database of the sweep, where it is not in its folder")
    return parser.parse_args(arguments)


def run_finals(options: Namespace) -> int:
    """Train the best trials of a sweep; returns the exit code."""
    devices = assign_devices(options.workers, options.devices)
    if options.sweep.count("/") == 2:
        folder = sweep_folder(options.sweep.rpartition("/")[2])
        content, trials = read_wandb_sweep(options.sweep)
    else:
        folder = sweep_folder(options.sweep)
        content, trials = read_trials(options.storage or f"sqlite:///{folder / run_folder.STUDY}", options.sweep)
    metric = content["metric"]["name"]
    if not trials:
        raise UserError(f"sweep {options.sweep} has no ended trial with a {metric} yet")
    chosen = trials[: options.top]
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    runs = [[Final(trial, seed) for seed in seeds] for trial in chosen]
    finals = Finals(folder, content, devices)
    code = finals.run([run for of_trial in runs for run in of_trial])
    results = [result_of(finals, of_trial) for of_trial in runs]
    if code <= 1:
        together = over_trials(results, shown_keys(results, metric))
        result = {"sweep": options.sweep, "metric": metric, "trials": results, "over_trials": together}
        run_folder.write_json(folder / run_folder.FINAL_RESULT, result)
        show(results, metric)
        print(f"written to {folder / run_folder.FINAL_RESULT}")
    else:
        print(f"stopped; to go on: python sweeps/final.py {shlex.join(sys.argv[1:])}")
    return code


def main(arguments: Sequence[str]) -> int:
    """Train the best trials, or say in one line what keeps them from it; returns the exit code."""
    try:
        return run_program("final.py", lambda: run_finals(parse(arguments)))
    except KeyboardInterrupt:  # before there is a run
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
