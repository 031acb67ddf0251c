"""A training program that only pretends to train, for tests of what starts it: it is up in milliseconds.

It keeps train.py's contract with an agent, and a journal of what it did in $SWEEP_JOURNAL. What it is to do wrong, and
in which trials, is a setting: `--crashing=1,3 --crash_epoch=2`.
"""

import fcntl
import json
import math
import os
import re
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from fake_device import held

FOLDER = Path(os.environ["VISION_SWEEPS_RUNS"]) / os.environ["WANDB_RUN_ID"]
JOURNAL = Path(os.environ["SWEEP_JOURNAL"])
TRIAL = os.environ["WANDB_RUN_ID"].partition("-")[0].lstrip("0") or "0"
SWEEP_VALUES = Path(os.environ["WANDB_SWEEP_PARAM_PATH"]).read_text()
TOLD = ("WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_PROJECT", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
AGENT = int(os.environ.get("FORK", os.getppid()))

told = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
from_file = dict(re.findall(r"^(\w+):\n  value: (.*)$", SWEEP_VALUES, re.MULTILINE))
settings = {"lr": "0.01", "epochs": "3", "seconds": "0.02", "seed": "3407", **from_file, **told}
is_stopping = False


def journal(event: str, **details) -> None:
    line = json.dumps({"event": event, "run": FOLDER.name, "pid": os.getpid(), "time": time.monotonic(), **details})
    with (JOURNAL / "journal.jsonl").open("a") as file:
        file.write(line + "\n")


def write(name: str, content) -> None:
    unfinished = FOLDER / f".{name}.unfinished"
    unfinished.write_text(json.dumps(content))
    unfinished.replace(FOLDER / name)


def loss(lr: float, epoch: int) -> float:
    """The lower the nearer lr is to 0.001; the last epoch of four is the worst."""
    return abs(math.log10(lr) + 3) + 1 / epoch + (epoch % 4 == 0)


def does(fault: str) -> bool:
    """Whether this trial is told to do something wrong."""
    return settings.get(fault) == "all" or TRIAL in settings.get(fault, "").split(",")


def stop(number, frame) -> None:
    global is_stopping
    is_stopping = is_stopping or not does("ignoring")


def suffer(first_epoch: int, epoch: int) -> None:
    """End as a file says, as long as it is there, or once with an exit code, as if something had killed us."""
    if os.path.exists(settings.get("broken", "")) and epoch >= int(settings.get("broken_epoch", 1)):
        sys.exit(Path(settings["broken"]).read_text())
    if "cut_code" in settings and epoch == int(settings["cut_epoch"]) and first_epoch in (1, epoch):
        marker = FOLDER / "was-cut"
        if not marker.exists():
            marker.touch()
            print(settings.get("last_words", ""), flush=True)
            os._exit(int(settings["cut_code"]))


def is_to_crash(epoch: int) -> bool:
    """Whether this trial is told to crash now; with crash_times, so often and no more."""
    is_told = does("crashing") or settings.get("crashing_seed", "none") == settings.get("seed")
    marker = FOLDER / "crashes"
    num = marker.stat().st_size if marker.exists() else 0
    if not is_told or epoch < int(settings.get("crash_epoch", 1)) or num >= int(settings.get("crash_times", 1000)):
        return False
    marker.write_text("x" * (num + 1))
    return True


def is_sized() -> bool:
    return "sizes" in settings


def size() -> float:
    """GiB that this trial's model takes, such as 2 by sizes=small:2,large:8, with one micro-batch."""
    sizes = dict(each.split(":") for each in settings["sizes"].split(","))
    return float(sizes[settings["model"]]) / int(settings.get("accumulation_steps", 1))


def is_waiting() -> bool:
    """Whether fewer trials, or final runs, have begun than this one is told to wait for."""
    num = int(settings.get("final_company" if TRIAL == "final" else "company", 0))
    rows = map(json.loads, (JOURNAL / "journal.jsonl").read_text().splitlines()) if num else ()
    return sum(row["event"] == "start" and row["run"].startswith("final-") == (TRIAL == "final") for row in rows) < num


def train(first_epoch: int) -> str:
    last = 0 if does("deaf") else int(os.environ.get("VISION_SWEEPS_STOP_AFTER", 0))
    for epoch in range(first_epoch, int(settings["epochs"]) + 1):
        if 0 < last < epoch:
            return "stopped"
        journal("epoch", epoch=epoch)
        suffer(first_epoch, epoch)
        is_final = TRIAL == "final" and "final_seconds" in settings
        end = time.monotonic() + float(settings["final_seconds" if is_final else "seconds"])
        while time.monotonic() < end or does("hanging") or is_waiting():
            if is_stopping or (os.getppid() != AGENT and not does("ignoring")):
                time.sleep(float(settings.get("saving_seconds", 0)))
                return "stopped"
            time.sleep(0.005)
        if is_to_crash(epoch):
            write("summary.json", {"state": "failed", "diverged": does("exploding")})
            sys.exit(f"line 1\nCUDA out of luck in trial {TRIAL}")
        if not does("silent"):
            is_nan = does("diverging") or (does("jumping") and epoch == 1)
            noise = float(settings.get("noise", 0)) * (int(settings["seed"]) % 7)
            value = math.nan if is_nan else loss(float(settings["lr"]), epoch) + noise
            with (FOLDER / "metrics.jsonl").open("a") as file:
                peak = {"peak_memory_gib": size()} if is_sized() else {}
                file.write(json.dumps({"epoch": epoch, "lr": 0.1, "val/loss": value, **peak}) + "\n")
        if does("leaving") and epoch == 2:
            return "stopped"
        if does("dying"):
            os.kill(os.getpid(), signal.SIGKILL)
        write("checkpoint.pt", {"epoch": epoch})
    return "finished"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    lock = (JOURNAL / f"{FOLDER.name}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        journal("twice")
    if "held" in settings and not (marker := FOLDER / "was-held").exists():
        marker.touch()
        sys.exit(75)
    journal("start", told=told, sweep=from_file, environment={key: os.environ.get(key) for key in TOLD})
    checkpoint, metrics = FOLDER / "checkpoint.pt", FOLDER / "metrics.jsonl"
    done = json.loads(checkpoint.read_text())["epoch"] if checkpoint.exists() else 0
    lines = metrics.read_text().splitlines(keepends=True)[:done] if metrics.exists() else []
    metrics.write_text("".join(lines))
    seed = int(settings["seed"])
    typed = {"model": "mlp", "lr": float(settings["lr"]), "epochs": int(settings["epochs"]), "seed": seed}
    typed |= {"batch_size": 128, "accumulation_steps": int(settings.get("accumulation_steps", 1))}
    write("settings.json", typed)
    num_processes = int(settings.get("processes", 1))
    write("environment.json", {"device": "none", "wandb": settings.get("wandb"), "num_processes": num_processes})
    (FOLDER / "summary.json").unlink(missing_ok=True)
    try:
        with held(JOURNAL / "device.json", float(settings["device_gib"]), size()) if is_sized() else nullcontext():
            state = train(done + 1)
    except MemoryError as error:
        write("summary.json", {"state": "failed", "error": str(error)[:200]})
        sys.exit(str(error))
    result = {"num_parameters": 10, "train_seconds": 1.5 * seed, "images_per_second": 100.0}
    split = "val" if settings.get("dataset") == "faces" else "test"
    figures = {f"{split}/loss": 0.5 + seed**2, f"{split}/accuracy": 1 / seed}
    if settings.get("figureless_seed", "none") == settings["seed"]:  # its closing evaluation has failed
        figures = {}
    write("summary.json", {"state": state, **figures, **result})
    journal("end", state=state)
    sys.exit(int(settings.get("stop_code", 0)) if state == "stopped" else 0)
