"""Training speed of train.py beside a notebook's loop and a bare loop, each in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median

from analysis.look.speed_loops import BATCH_SIZE, DEFAULT_STEPS, LR, NARROW, STEPS
from analysis.look.timing import ratios, spread
from analysis.look.train_process import run_train_py
from analysis.record import run_folder
from analysis.record.environment import CHECKOUT
from data.datasets import find_data_dir, find_dataset
from data.files import scratch_folder
from data.metrics import is_epoch
from models.registry import find_model

NUM_TRAIN = 50_000  # training images of CIFAR-10


def compare_speeds(models: Sequence[str], precision: str, num_rounds: int, data_dir: str) -> Iterator[str]:
    """Measure every model in turn, and yield the lines of a table as soon as they are known.

    Args:
        models: keys of MODELS.
        precision: of train.py and of the bare loop: "no", "bf16" or "fp16".
        num_rounds: times that each loop is measured; they take turns.
        data_dir: as for train.py.

    Raises:
        UserError: an unknown model, or CIFAR-10 is missing.
    """
    for model in models:
        find_model(model)  # or say at once that there is none
    find_dataset("cifar10").load(find_data_dir(data_dir), 0, 0)  # or say at once that it is missing
    yield f"images/s of training, batch {BATCH_SIZE}, train.py with --mixed_precision={precision}, {num_rounds} rounds;"
    yield "ratios: median (range) over the rounds"
    yield f"{'model':<10}{'notebook':>10}{'bare':>10}{'train.py':>10}  {'x notebook':<22}{'x bare':<22}"
    for model in models:
        rates: dict[str, list[float]] = {"notebook": [], "bare": [], "train.py": []}
        for _ in range(num_rounds):
            for kind in ("notebook", "bare"):
                rates[kind].append(measure_in_own_process(kind, model, precision, data_dir))
            rates["train.py"].append(measure_train_py(model, precision, data_dir))
        medians = "".join(f"{median(values):>10,.0f}" for values in rates.values())
        over = {kind: spread(ratios(rates["train.py"], rates[kind])) for kind in ("notebook", "bare")}
        yield f"{model:<10}{medians}  {over['notebook']:<22}{over['bare']:<22}"
    yield f"start-up to the first step, on digits: {spread([measure_start_up() for _ in range(num_rounds)])} s"


def measure_in_own_process(kind: str, model: str, precision: str, data_dir: str) -> float:
    """Return the images/s of one of the plain loops in a fresh process."""
    command = [sys.executable, "-m", "analysis.benchmark", f"--models={model}", f"--mixed_precision={precision}"]
    command += [f"--data_dir={data_dir}", f"--loop={kind}"]
    done = subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure_train_py(model: str, precision: str, data_dir: str) -> float:
    """Return the images/s of train.py in the second of two short epochs."""
    settings = {
        "model": model,
        "mixed_precision": precision,
        "data_dir": data_dir,
        "batch_size": BATCH_SIZE,
        "lr": LR,
        "epochs": 2,
        "train_fraction": STEPS.get(model, DEFAULT_STEPS) * BATCH_SIZE / NUM_TRAIN,
        "val_fraction": 0,
        "panels_every": 100,
        "tracking": "offline",
        **NARROW.get(model, {}),
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
