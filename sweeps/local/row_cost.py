"""What the rows of the study will take on this machine: each is trained for a few batches first."""

import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from analysis.read.recipe import flags
from analysis.record import run_folder
from data.files import read_json, refusing_damage, write_json
from data.metrics import is_epoch
from data.paths import CHECKOUT
from data.visible import counted, say, visible
from models.resolve import validate
from sweeps.local.estimate import probe_trials
from sweeps.local.launch import Run
from sweeps.local.pool import Pool
from sweeps.local.rows import Row, Step
from sweeps.local.sweep import Sweep
from sweeps.local.sweep_file import read_sweep_file

COSTS = "costs.json"  # in the study's folder
NUM_BATCHES = 5  # of an epoch
LEAST_EPOCHS, MOST_EPOCHS = 2, 20
ENOUGH = 5.0  # seconds of training after the first epoch
LONGEST = 300.0  # seconds, after which a row counts as one that takes too long to be measured
BRIEF = {
    "epochs": MOST_EPOCHS,
    "limit_batches": NUM_BATCHES,
    "test": False,
    "tracking": "off",
    "panels_every": 1000,
}


@dataclass(frozen=True)
class Cost:
    """What was seen of a row.

    Attributes:
        beside: seconds of a run beside its training.
        images_per_second: speed of training, with as many runs at a time as there are workers.
        images: that an epoch trains on.
        fault: why it cannot be trained; "" where it can.
    """

    beside: float = 0.0
    images_per_second: float = math.inf
    images: int = 0
    fault: str = ""

    def __str__(self) -> str:
        speed = f"{self.images_per_second:,.0f} images/s" if math.isfinite(self.beside) else "too slow to be measured"
        return self.fault or speed

    def seconds(self, epochs: int, share: float = 1.0) -> float:
        """Return what a run of so many epochs takes, if it trains on so many times the images."""
        return self.beside + epochs * self.images * share / self.images_per_second


def seconds_of(step: Step, row: Row, cost: Cost) -> float:
    """Return the seconds that the runs of a row's step take one after the other; of a sweep's search, at most."""
    if row.sweep is None:
        return cost.seconds(validate(row.settings, {}).epochs) if step.trains else 0.0
    sweep, settings = with_dearest_trial(CHECKOUT / row.sweep)
    trial = validate(settings, {})
    if not step.seeds:
        return (sweep.run_cap or 1) * sweep.repeats * cost.seconds(trial.epochs)
    return step.seeds * cost.seconds(trial.epochs, 1 / trial.train_fraction / (1 - trial.val_fraction))


def settings_of(row: Row) -> Mapping[str, Any]:
    """Return the settings of a run of a row; of a sweep, those of its dearest trial."""
    return row.settings if row.sweep is None else with_dearest_trial(CHECKOUT / row.sweep)[1]


@cache
def with_dearest_trial(path: Path) -> tuple[Sweep, Mapping[str, Any]]:
    """Return the sweep of a file, and the settings of its dearest trial."""
    sweep = read_sweep_file(path)
    return sweep, probe_trials(sweep)[-1].settings


def find_costs(
    rows: Sequence[Row],
    folder: Path,
    machine: str,
    devices: Sequence[Mapping[str, str]],
    environment: Mapping[str, str],
) -> dict[str, Cost]:
    """Return what rows cost, as far as that is known; what is not is measured, and kept for the next time.

    Args:
        rows: to be trained.
        folder: where costs are kept.
        machine: its device, workers and precision; what was measured with others is not known.
        devices: for each worker, the environment variables of its runs.
        environment: of all runs.

    Raises:
        UserError: the file of costs is damaged.
        KeyboardInterrupt: a signal has come.
    """
    with refusing_damage(folder / COSTS, "remove it, and they are measured again"):
        content = read_json(folder / COSTS)
        known = {command: Cost(**cost) for command, cost in content.get(machine, {}).items()}
        if not all(cost.seconds(1) >= 0 for cost in known.values()):
            raise ValueError("a time below 0")
    commands = {row.name: " ".join(words_of(row)) for row in rows}
    costs = {name: known[command] for name, command in commands.items() if command in known}
    unknown = [row for row in rows if row.name not in costs and not row.after]
    if unknown:
        say(f"{counted(len(unknown), 'row')} to be measured on {machine}: each is trained for a few batches")
        for name, cost in measure(unknown, devices, environment):
            say(f"{name}: {visible(str(cost))}")
            costs[name] = known[commands[name]] = cost
            write_json(folder / COSTS, {**content, machine: saved(known)})
    return costs


def measure(
    rows: Sequence[Row], devices: Sequence[Mapping[str, str]], environment: Mapping[str, str]
) -> Iterator[tuple[str, Cost]]:
    """Train each of some rows for a few batches, as many at a time as there are workers.

    Yields:
        The name of each row and its cost, as soon as it is known.

    Raises:
        KeyboardInterrupt: a signal has come.
    """
    pool: Pool[Run] = Pool(devices)
    known = set()
    with tempfile.TemporaryDirectory(prefix="vision-sweeps-study-") as place:
        try:
            for run, has_ended in pool.watch(partial(start, row, Path(place), environment) for row in rows):
                if run.run_id in known:
                    run.stop("that is enough")
                elif cost := seen(run, has_ended):
                    known.add(run.run_id)
                    yield run.run_id, cost
        finally:
            pool.kill()


def start(row: Row, folder: Path, environment: Mapping[str, str], device: Mapping[str, str]) -> Run:
    """Start a short training of a row, under the row's name."""
    own = {**environment, **device, "VISION_SWEEPS_RUNS": str(folder)}
    return Run([sys.executable, *words_of(row)], row.name, folder, {}, own)


def words_of(row: Row) -> list[str]:
    """Return the command of a short training of a row."""
    return ["train.py", *sorted(flags({**settings_of(row), **BRIEF}))]


def seen(run: Run, has_ended: bool) -> Cost | None:
    """Return what a short training shows of its row; None as long as that is too little."""
    epochs = [row for rows in run_folder.LogReader(run.folder) for row in rows if is_epoch(row)]
    times = [row["epoch_seconds"] for row in epochs]
    if has_ended and (run.process.returncode or len(epochs) < LEAST_EPOCHS):
        return Cost(fault=run.last_lines(1) if run.process.returncode == 2 else f"{run.exit()}: {run.last_lines(1)}")
    is_enough = len(epochs) >= MOST_EPOCHS or sum(times[1:]) >= ENOUGH or has_ended
    if len(epochs) < LEAST_EPOCHS or not is_enough:
        return Cost(beside=math.inf) if run.seconds() > LONGEST else None
    images = read_json(run.folder / run_folder.DATA)["num_images"]["train"]
    speed = max(row["images_per_second"] for row in epochs[1:])  # of the epoch that others disturbed the least
    return Cost(max(0.0, run.seconds() - sum(times)), speed, images)


def saved(costs: Mapping[str, Cost]) -> dict[str, Any]:
    """Return costs by their commands, as JSON has them; those that nobody knows are left out, to be measured again."""
    return {command: asdict(cost) for command, cost in costs.items() if not cost.fault and math.isfinite(cost.beside)}
