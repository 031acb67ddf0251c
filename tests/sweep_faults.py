"""Kill trials and agents of a sweep at random moments, and count what is lost: python -m tests.sweep_faults (--help).

The trials only pretend to train, unless --train asks for train.py on digits.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from analysis.record import run_folder
from data.metrics import is_epoch
from tests.forks import ROOT, Fork
from tests.sweep_agents import Stage

PRETENDED = {"epochs": 8, "seconds": 0.1}
TRAINED = {"model": "mlp", "dataset": "digits", "width": 32, "val_fraction": 0.2, "tracking": "off", "epochs": 20}
HYPERBAND = {"type": "hyperband", "min_iter": 2, "eta": 2}
SECONDS_BETWEEN_LOOKS = 0.05
LONGEST_SECONDS = 1800.0


class Faults:
    """A sweep that is not left in peace.

    Args:
        folder: an empty one.
        num_trials: of the sweep.
        num_kills: of trials and agents together; half and half on average.
        num_workers: trials at once.
        seed: of the moments and of who is killed.
        num_agents: that share the workers out.
        with_training: run train.py.
    """

    def __init__(
        self,
        folder: Path,
        num_trials: int,
        num_kills: int,
        num_workers: int,
        seed: int,
        num_agents: int = 1,
        with_training: bool = False,
    ) -> None:
        self.stage = Stage(folder)
        self.num_trials = num_trials
        self.num_kills = num_kills
        self.random = random.Random(seed)
        self.with_training = with_training
        self.num_epochs = (TRAINED if with_training else PRETENDED)["epochs"]
        program = {"program": str(ROOT / "train.py")} if with_training else {}
        parameters = TRAINED if with_training else PRETENDED
        file = self.stage.write(parameters=parameters, early_terminate=HYPERBAND, **program)
        self.command = [file, f"--count={num_trials}", f"--workers={num_workers // num_agents}"]
        self.agents: list[Fork] = [self.stage.start(*self.command) for _ in range(num_agents)]
        self.at_once: set[str] = set()  # runs that were seen in two processes
        self.kills = {"trials": 0, "agents": 0}

    def run(self) -> dict[str, int]:
        """Kill, let the sweep finish, and return the counts."""
        try:
            # Each kill comes after a number of epochs of its own, wherever in the epoch: fewer than there will be.
            sure = self.num_trials * 2
            moments = sorted(self.random.sample(range(1, sure), self.num_kills))
            end = time.monotonic() + LONGEST_SECONDS
            while any(agent.is_alive() for agent in self.agents) and time.monotonic() < end:
                self.look_for_doubles()
                if moments and self.epochs_so_far() >= moments[0]:
                    time.sleep(self.random.random() * 0.5)
                    if self.kill():
                        moments.pop(0)
                time.sleep(SECONDS_BETWEEN_LOOKS)
            return self.count()
        finally:
            self.stage.close()

    def epochs_so_far(self) -> int:
        """Epochs that the trials have logged."""
        return sum(len(run_folder.read_metrics(folder)) for folder in self.stage.sweep().glob("0*"))

    def kill(self) -> bool:
        """Kill an agent or a trial; False where nothing was there to be killed."""
        if self.random.random() < 0.5:
            number = self.random.randrange(len(self.agents))
            if not self.agents[number].is_alive():
                return False
            self.agents[number].signal(signal.SIGKILL)
            self.agents[number] = self.stage.start(*self.command)
            self.kills["agents"] += 1
            return True
        processes = self.stage.processes()
        if not processes:
            return False
        try:
            self.random.choice(processes).kill()
        except psutil.NoSuchProcess:
            return False
        self.kills["trials"] += 1
        return True

    def look_for_doubles(self) -> None:
        """Note runs that have two processes; an orphan that still saves its state may not have a successor either."""
        seen: dict[str, list[psutil.Process]] = {}
        for process in self.stage.processes():
            try:
                seen.setdefault(process.environ()["WANDB_RUN_ID"], []).append(process)
            except (psutil.Error, KeyError):
                continue
        for run_id, processes in seen.items():
            pids = {process.pid for process in processes}
            with suppress(psutil.Error):  # one has ended meanwhile
                if sum(process.ppid() not in pids for process in processes) > 1:
                    self.at_once.add(run_id)

    def count(self) -> dict[str, int]:
        """What came of it, from the storage, the run folders and the program's journal."""
        trials = self.stage.trials()
        states = [trial.state.name for trial in trials]
        runs = [trial.user_attrs.get("run_id", "") for trial in trials]
        folders = {path.name for path in self.stage.sweep().glob("0*")}
        lost = max(0, self.num_trials - len(trials)) + states.count("RUNNING")
        for trial, run_id in zip(trials, runs, strict=True):
            rows = run_folder.read_metrics(self.stage.sweep() / run_id)
            epochs = [row["epoch"] for row in rows if not self.with_training or is_epoch(row)]
            whole = trial.state.name != "COMPLETE" or len(epochs) == self.num_epochs
            lost += not (whole and epochs == list(range(1, len(epochs) + 1)))
        twice = self.at_once | set(self.stage.disorder())
        return {
            "kills of trials": self.kills["trials"],
            "kills of agents": self.kills["agents"],
            "finished": states.count("COMPLETE"),
            "stopped early": states.count("PRUNED"),
            "failed": states.count("FAIL"),
            "lost": lost,
            "run twice": len(twice) + len(trials) - len(set(runs)) + len(folders ^ set(runs)),
            "processes left": len(self.stage.processes()),
        }


def main() -> int:
    """Print the counts; the exit code is 1 if anything was lost, run twice or left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--agents", type=int, default=1, help="which share the workers out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train", action="store_true", help="with train.py")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        numbers = (options.trials, options.kills, options.workers, options.seed, options.agents)
        counts = Faults(Path(folder), *numbers, options.train).run()
    program = "train.py on digits" if options.train else "a program that pretends to train"
    print(f"{options.trials} trials of {program}, seed {options.seed}, {time.monotonic() - started:.0f} s")
    table = Table("", "number")
    for name, number in counts.items():
        table.add_row(name, str(number))
    Console().print(table)
    ended = counts["finished"] + counts["stopped early"] + counts["failed"] == options.trials
    killed = counts["kills of trials"] + counts["kills of agents"] == options.kills
    return int(not (ended and killed) or any(counts[key] for key in ("lost", "run twice", "processes left")))


if __name__ == "__main__":
    sys.exit(main())
