"""The final runs of a sweep's best trials: what each is told, how they are run, and their figures over the seeds."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from analysis.read.best_recipe import precision_of
from analysis.read.figures import figures_of, spread
from analysis.read.recipe import FINAL_OVERRIDES, FINAL_SETTINGS, NO_LIMITS, command_of
from analysis.read.sweep_command import PROGRAM, is_ours, place_of, place_on_wandb, told_in_all
from analysis.read.sweep_content import entries_for, read_yaml
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from analysis.record import run_folder
from data.datasets import has_test_images
from data.errors import UserError
from data.files import read_json
from data.metrics import is_finite, shown
from data.paths import CHECKOUT
from data.visible import say, warn
from models.core.settings import CIRCUMSTANCES, Settings
from models.resolve import validate
from sweeps.local.launch import ARGUMENTS, NUM_SHOWN_LINES, OUTPUT, Run, command_words, processes_of, unless_set
from sweeps.local.pool import Pool
from sweeps.local.sweep_file import COMMAND

FIRST_SEED = 1
TOLD_APART = {"epochs": "-epochs", "mixed_precision": "-"}  # where names of final runs tell of them
COSTS = ("train_seconds", "images_per_second")


@dataclass(frozen=True)
class Final:
    """One run on all training images.

    Attributes:
        trial: the trial whose settings it has.
        seed: its own.
        settings: what it is told: the trial's settings, but for the protocol's.
        run_id: the run's name, by which it is resumed.
    """

    trial: Trial
    seed: int
    settings: Mapping[str, Any]
    run_id: str


def finals_of(sweep: SweepRecord, trial: Trial, num_seeds: int, folder: Path) -> list[Final]:
    """Return the final runs of one trial's settings.

    Args:
        sweep: of the trial.
        trial: the one.
        num_seeds: number of runs.
        folder: of the runs, and of those that there are already.
    """
    parameters = entries_for(sweep.content, trial.settings)
    # Where and how to run is for this machine to say, or for the sweep file; its tags are for the trials.
    recipe = precision_of(sweep, trial) | {
        key: value
        for key, value in trial.settings.items()
        if key not in CIRCUMSTANCES or (key in parameters and key != "tags")
    }
    if tested := final_settings(trial.settings):
        # Without images to validate with nothing chooses the best epoch: the newest weights are tested.
        recipe |= tested
        if "best_by" in recipe:
            recipe["best_by"] = ""
    limits = {key: value for key, value in NO_LIMITS.items() if key in recipe}  # another program may not have them
    settings = {**recipe, **FINAL_OVERRIDES, **limits, "epochs": trial.best_epoch}
    seeds = fresh_seeds(sweep, num_seeds)
    name = f"{run_folder.FINAL}{trial.run_id}"
    name += what_has_changed(settings, [folder / f"{name}{run_folder.SEED_SUFFIX}{seed}" for seed in seeds])
    return [Final(trial, seed, {**settings, "seed": seed}, f"{name}{run_folder.SEED_SUFFIX}{seed}") for seed in seeds]


def fresh_seeds(sweep: SweepRecord, num: int) -> list[int]:
    """Return the first seeds that no trial of a sweep was told: by those that it was chosen with, one may be lucky."""
    told = {(trial.settings.get("seed"), 0 if trial.folds else len(trial.seeds)) for trial in sweep.trials}
    used = {seed + i for seed, num_more in told if isinstance(seed, int) for i in range(num_more + 1)}
    return list(islice((seed for seed in count(FIRST_SEED) if seed not in used), num))


def final_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a final run: on all training images and tested, if there are images to test with."""
    dataset, data_dir = settings.get("dataset", Settings.dataset), settings.get("data_dir", "")
    return FINAL_SETTINGS if has_test_images(dataset, data_dir) else {}


def what_has_changed(settings: Mapping[str, Any], runs: Sequence[Path]) -> str:
    """Return what the names of final runs say of their settings; "" where the runs of plain names have the same.

    A trial may have gone on since its first final runs, and have its best epoch later.

    Args:
        settings: what the runs are told.
        runs: folders of the runs of plain names, which need not be there.
    """
    saved = [read_json(run / run_folder.SETTINGS) for run in runs]
    return "".join(
        f"{told}{settings[key]}"
        for key, told in TOLD_APART.items()
        if key in settings and any(settings[key] != own.get(key, settings[key]) for own in saved)
    )


def check_settings(sweep: SweepRecord, finals: Sequence[Final]) -> None:
    """Refuse settings that train.py would refuse; of another program nothing is known.

    Raises:
        UserError: with the setting.
    """
    if is_ours(str(sweep.content.get("program", ""))):
        for final in finals:
            validate(told_in_all(sweep.content, final.settings), {})


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


def place_of_finals(name: str, sweep: SweepRecord) -> dict[str, str]:
    """Return the environment that sends final runs to the W&B project of their sweep, where one is known.

    Args:
        name: of the sweep: entity/project/id on W&B, or that of its folder.
        sweep: its record.
    """
    if name.count("/") == 2:
        entity, project, _ = name.split("/")
        return place_on_wandb({"entity": entity, "project": project})
    file = read_yaml(Path(sweep.source) / run_folder.SWEEP_FILE)  # databases of 0.1.0 do not have it
    return place_on_wandb(place_of({**sweep.content, **(file if isinstance(file, dict) else {})}))


class Finals:
    """Runs final trainings, several at a time; a signal makes them save their state and end."""

    def __init__(
        self, folder: Path, sweep: SweepRecord, devices: Sequence[Mapping[str, str]], place: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.environment = {**unless_set({"WANDB_RUN_GROUP": folder.name, "WANDB_JOB_TYPE": "final"}), **place}
        self.command, self.program = command_and_program(sweep.content)
        self.pool: Pool[Run] = Pool(devices)
        self.waiting: list[Final] = []
        self.fault = ""  # what is wrong with this machine, so that no further run is started
        self.failed: set[str] = set()  # ids of runs

    def run(self, finals: Sequence[Final]) -> int:
        """Run them all; return the exit code."""
        self.waiting = list(finals)
        self.pool.work(self.fill_slots, self.note, lambda: bool(self.waiting), self.is_over)
        return self.pool.exit_code or int(bool(self.failed))

    def is_over(self) -> bool:
        """Return whether no further run is to be started."""
        return bool(self.pool.signals or self.fault)

    def fill_slots(self) -> None:
        """Start runs in the free slots, and take them from those that are waiting."""
        for slot in self.pool.free_slots():
            # Processes that a killed command has left behind may still be saving the state of their run.
            ready = next((final for final in self.waiting if not processes_of(final.run_id)), None)
            if ready is None:
                return
            self.waiting.remove(ready)
            self.start(ready, slot)

    def start(self, final: Final, slot: int) -> None:
        """Start a run, or go on with it from its checkpoint; one that has finished ends at once."""
        words = command_words(self.command, self.program, final.settings, self.folder / final.run_id / ARGUMENTS)
        environment = {**self.environment, **self.pool.devices[slot]}
        self.pool.add(Run(words, final.run_id, self.folder, final.settings, environment), slot)

    def note(self, run: Run) -> None:
        """Print how a run has ended; it has failed unless it has finished with figures.

        One that is refused may have finished before, with other settings.
        """
        state, figures = run.state(), figures_of(read_json(run.folder / run_folder.SUMMARY))
        if state == "finished" and figures and not run.process.returncode:
            say(f"{run.run_id}: {', '.join(f'{key} {shown(key, value)}' for key, value in figures.items())}")
            return
        self.failed.add(run.run_id)
        fault = run.fault()
        self.fault = self.fault or (fault.reason if fault else "")
        how = f"finished {'before' if figures else 'without figures'}" if state == "finished" else state
        warn(f"{run.run_id}: {how}, {run.exit()}; {run.folder / OUTPUT} ends with")
        warn(run.last_lines(NUM_SHOWN_LINES))


def result_of(folder: Path, finals: Sequence[Final], refused: Collection[str] = ()) -> dict[str, Any]:
    """Return the figures of one trial's settings over the runs that finished with any: means, deviations, values.

    Args:
        folder: of the runs.
        finals: the runs.
        refused: ids of those that have failed now, though they may have finished before, with other settings.
    """
    summaries = {
        final.seed: read_json(folder / final.run_id / run_folder.SUMMARY)
        for final in finals
        if final.run_id not in refused
    }
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
    runs = [folder / final.run_id for final in finals if final.seed in done]
    devices = [read_json(run / run_folder.ENVIRONMENT).get("device") for run in runs]
    first, *_ = done.values()
    keys = dict.fromkeys([*(key for summary in done.values() for key in figures_of(summary)), *COSTS])
    found = {key: over_seeds(done, key) for key in keys}
    return result | {
        "command": command_of(read_json(runs[0] / run_folder.SETTINGS)),
        "num_parameters": first.get("num_parameters"),
        "device": "; ".join(dict.fromkeys(filter(None, devices))) or None,
        **{key: figure for key, figure in found.items() if figure},
    }


def over_seeds(summaries: Mapping[int, Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Return a figure over the seeds that have a number of it, which are named where not all have; empty for none."""
    known = {seed: summary[key] for seed, summary in summaries.items() if is_finite(summary.get(key))}
    if not known:
        return {}
    return spread(list(known.values())) | ({"seeds": list(known)} if len(known) < len(summaries) else {})
