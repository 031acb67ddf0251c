"""Take machines away from a W&B sweep again and again: python -m tests.preemptions --preemptions 50 --folder F.

Two machines without a common runs folder work off one sweep, with the real `wandb agent` and a double of the server. At
random moments one of them is preempted, as a scheduler does it: a signal to some or all of its processes. It comes back
as an empty machine or as it was. At the end each trial must be as if nothing had happened.
"""

import argparse
import random
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.wandb_server import WandbServer
from tests.wandb_site import Site, command_of

RATES = (0.001, 0.003, 0.01, 0.03)
SECONDS_BETWEEN = (4.0, 24.0)  # two preemptions of one machine
SECONDS_AT_HOME = 5.0  # of an agent that had nothing to do, before it asks again
SECONDS_OF_NOTICE = 30.0


class Box:
    """A machine with an agent that is preempted and comes back."""

    def __init__(self, name: str, folder: Path, server: WandbServer, sweep: str, dice: random.Random) -> None:
        self.folder, self.server, self.sweep, self.dice = folder / name, server, sweep, dice
        self.site = Site(self.folder, server)
        self.outputs: list[str] = []
        self.kinds: list[str] = []
        self.start()

    def start(self) -> None:
        self.agent = self.site.agent(self.sweep)
        self.home_since = 0.0
        self.due = time.monotonic() + self.dice.uniform(*SECONDS_BETWEEN)

    def preempt(self) -> None:
        """Take the machine away, in one of the ways in which it happens."""
        family = self.family()
        trainings = [process for process in family if "train.py" in command_of(process)][:1]
        agent = [process for process in family if process.pid == self.agent.pid]
        kind, number, struck = self.dice.choice(
            [
                ("SIGTERM to all", signal.SIGTERM, family),
                ("SIGTERM to agent and training", signal.SIGTERM, [*agent, *trainings]),
                ("SIGUSR1 to the training", signal.SIGUSR1, trainings),
                ("SIGKILL to the agent", signal.SIGKILL, agent),
            ]
        )
        for process in struck:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        self.kinds.append(kind if trainings else f"{kind}, between trials")
        psutil.wait_procs(trainings, SECONDS_OF_NOTICE)
        for process in {*family, *self.family()}:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.agent.wait()
        self.go_down()
        self.start()

    def family(self) -> list[psutil.Process]:
        """Return the agent and all that it has started, whether it still lives or not."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("VISION_SWEEPS_RUNS") == str(self.site.runs):
                    found.append(process)
        return found

    def go_down(self) -> None:
        """Keep what was printed; a machine may come back empty."""
        self.agent.wait(60)
        self.outputs.append(self.site.output(self.agent))
        if self.dice.random() < 0.5:
            shutil.rmtree(self.site.runs, ignore_errors=True)

    def step(self, may_preempt: bool) -> bool:
        """Preempt it if that is due, and start an agent that went home while trials may still come back."""
        if self.agent.poll() is not None:
            self.home_since = self.home_since or time.monotonic()
            if time.monotonic() > self.home_since + SECONDS_AT_HOME:
                self.go_down()
                self.start()
        elif may_preempt and time.monotonic() > self.due:
            self.preempt()
            return True
        return False


def campaign(options: argparse.Namespace) -> int:
    options.folder.mkdir(parents=True)
    dice, server = random.Random(options.seed), WandbServer()
    peace = Site(options.folder / "peace", server)
    sweep = peace.sweep(
        [{"lr": RATES[i % len(RATES)], "epochs": options.epochs} for i in range(options.trials)],
        arguments=("${args}", "--checkpoint_artifact=on"),
    )
    boxes = [Box(name, options.folder, server, sweep, dice) for name in ("one", "two")]
    num, start = 0, time.monotonic()
    try:
        while not is_done(server, options.trials) and time.monotonic() - start < options.minutes * 60:
            num += sum(box.step(num < options.preemptions) for box in boxes)
            time.sleep(0.2)
        for box in boxes:
            box.agent.terminate()
            box.go_down()
        return report(server, boxes, peace, options)
    finally:
        for site in (peace, *(box.site for box in boxes)):
            site.end()
        server.close()


def is_done(server: WandbServer, num_trials: int) -> bool:
    with server.lock:
        return sum(run.state == "finished" for run in server.runs.values()) >= num_trials


def report(server: WandbServer, boxes: list[Box], peace: Site, options: argparse.Namespace) -> int:
    """Compare each trial with the same training in peace; print the counts, and return the exit code."""
    expected = [*range(1, options.epochs + 1), options.epochs]
    losses = {rate: losses_in_peace(peace, server, rate, options.epochs) for rate in RATES}
    trials = [run for run in server.runs.values() if run.sweep]
    counts = {"preemptions": sum(len(box.kinds) for box in boxes), "trials": len(trials)}
    counts["given back"] = sum(run.num_preempted for run in trials)
    counts["lost"] = options.trials - sum(run.state == "finished" for run in trials)
    counts["with a gap or a double in W&B's history"] = sum(
        [row["epoch"] for row in run.history] != expected for run in trials
    )
    counts["with other losses than in peace"] = sum(
        [row["val/loss"] for row in run.history[:-1]] != losses[run.config["lr"]] for run in trials if run.history
    )
    printed = sum(len(re.findall(r"^epoch \d+/", text, re.MULTILINE)) for box in boxes for text in box.outputs)
    counts["epochs trained twice"] = printed - options.trials * options.epochs
    artifacts = [each for run in trials for each in run.artifacts if each["artifactTypeName"] == "checkpoint"]
    counts["checkpoints left on W&B"] = len(artifacts)
    brought = sum(text.count("another machine has left there") for box in boxes for text in box.outputs)
    counts["continued from a checkpoint that W&B had"] = brought
    for name, count in counts.items():
        print(f"{count:6}  {name}")
    for kind in sorted({kind for box in boxes for kind in box.kinds}):
        print(f"{sum(box.kinds.count(kind) for box in boxes):6}  {kind}")
    print(*server.faults, sep="\n")
    bad = ("lost", "with a gap or a double in W&B's history", "with other losses than in peace")
    return int(any(counts[name] for name in bad) or bool(server.faults))


def losses_in_peace(site: Site, server: WandbServer, rate: float, epochs: int) -> list[float]:
    name = f"peace-{rate}"
    site.finish(site.train(f"--run_id={name}", f"--lr={rate}", f"--epochs={epochs}"))
    return [row["val/loss"] for row in server.runs[name].history[:-1]]


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.preemptions", description=__doc__)
    parser.add_argument("--preemptions", type=int, default=50, help="over both machines; default: 50")
    parser.add_argument("--trials", type=int, default=20, help="of the sweep; default: 20")
    parser.add_argument("--epochs", type=int, default=60, help="of each trial; default: 60")
    parser.add_argument("--minutes", type=float, default=40, help="after which it gives up; default: 40")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    parser.add_argument("--folder", type=Path, required=True, help="for all files; it is made")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(campaign(options_of()))
