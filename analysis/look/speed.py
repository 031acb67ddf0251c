"""Training speed of train.py beside other programs' loops, each in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch

from analysis.look.speed_loops import BATCH_SIZE, Workload
from analysis.look.timing import median_and_range, ratios
from analysis.look.timm_script import can_train, find_script, measure_timm_train
from analysis.look.train_process import run_train_py
from analysis.look.trained_run import best_device
from analysis.read.recipe import flags
from analysis.record import run_folder
from analysis.record.environment import CHECKOUT, device_name
from data.errors import UserError
from data.files import scratch_folder
from data.metrics import is_epoch

NUM_TRAIN = 50_000  # training images of CIFAR-10
OURS = "train.py"


def compare_speeds(workloads: Sequence[Workload], num_rounds: int, timm_train: Path | None) -> Iterator[str]:
    """Measure every workload in turn, and yield the lines of a table as soon as they are known.

    Args:
        workloads: of one precision.
        num_rounds: times that each loop is measured; they take turns.
        timm_train: timm's own train.py, if it is to be measured too.

    Raises:
        UserError: an unknown model or network, a model without a plain loop, too many steps, or CIFAR-10 or timm's
            script is missing, or the script failed.
    """
    script = timm_train and find_script(timm_train)
    loops = {workload: loops_of(workload, script) for workload in workloads}  # or say at once what is wrong
    others = ["notebook", "bare", *(["timm"] if script else [])]
    precision = workloads[0].precision
    device = device_name(best_device())
    yield f"images/s of training on {device}, torch {torch.__version__}, batch {BATCH_SIZE}, {num_rounds} rounds;"
    yield f"all with --mixed_precision={precision}, but notebook in fp32;"
    yield "ratios: median (range) over the rounds"
    yield row("model", [*others, OURS], [f"x {name}" for name in others])
    for workload, own in loops.items():
        rates: dict[str, list[float]] = {name: [] for name in (*others, OURS)}
        for _ in range(num_rounds):
            for name, measure in own.items():
                rates[name].append(measure())
        medians = [f"{median(values):,.0f}" if values else "" for values in rates.values()]
        over = [median_and_range(ratios(rates[OURS], rates[name])) if rates[name] else "" for name in others]
        yield row(f"{workload.model} {workload.arch}", medians, over)
    start_up = median_and_range([measure_start_up() for _ in range(num_rounds)])
    yield f"start-up to the first step, on digits: {start_up} s"


def row(name: str, rates: Sequence[str], over: Sequence[str]) -> str:
    """Return a line of the table: a model, the rate of each loop, and ratios to those of the others."""
    return f"{name:<18}" + "".join(f"{rate:>10}" for rate in rates) + "  " + "".join(f"{ratio:<22}" for ratio in over)


def loops_of(workload: Workload, script: Path | None) -> Mapping[str, Callable[[], float]]:
    """Return by name what measures the images/s of each loop that can train a workload, in the order of their turns.

    Raises:
        UserError: as `Workload.load`, or there are fewer images than for so many steps.
    """
    num_images = workload.num_steps * BATCH_SIZE
    if num_images > NUM_TRAIN:
        raise UserError(
            f"--steps={workload.num_steps}: CIFAR-10 has images for {NUM_TRAIN // BATCH_SIZE} steps: lower it"
        )
    objective, train = workload.load()
    loops = {kind: partial(measure_in_own_process, kind, workload) for kind in ("notebook", "bare")}
    if script and can_train(objective):
        loops["timm"] = partial(measure_timm_train, script, objective, train, num_images, best_device())
    return {**loops, OURS: partial(measure_train_py, workload)}


def measure_in_own_process(kind: str, workload: Workload) -> float:
    """Return the images/s of one of the plain loops in a fresh process."""
    options = {
        "models": workload.model,
        "mixed_precision": workload.precision,
        "data_dir": workload.data_dir,
        "arch": workload.arch,
        "steps": workload.num_steps,
        "loop": kind,
    }
    command = [sys.executable, "-m", "analysis.benchmark", *flags(options)]
    done = subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure_train_py(workload: Workload) -> float:
    """Return the images/s of train.py in the second of two short epochs."""
    settings = {
        **workload.settings,
        "epochs": 2,
        "train_fraction": workload.num_steps * BATCH_SIZE / NUM_TRAIN,
        "panels_every": 100,
        "tracking": "offline",
    }
    with scratch_folder() as runs_dir:
        rows = run_folder.read_metrics(run_train_py(settings, runs_dir))
    return [row["images_per_second"] for row in rows if is_epoch(row)][-1]


def measure_start_up() -> float:
    """Return the seconds from starting train.py on digits, tracked offline, to its first step."""
    settings = {"dataset": "digits", "epochs": 2, "val_fraction": 0, "tracking": "offline", "panels_every": 100}
    with scratch_folder() as runs_dir:
        started = time.time()
        folder = run_train_py(settings, runs_dir)
        first, second = filter(is_epoch, run_folder.read_metrics(folder))
        # Between the first step and the last log lie the epochs, and a checkpoint and a panel, which are counted in.
        logged = (folder / run_folder.METRICS).stat().st_mtime
    return logged - started - first["epoch_seconds"] - second["epoch_seconds"]
