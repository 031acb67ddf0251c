"""The programs of a campaign that work on what others have left: a sweep, its final runs, a run that is done again."""

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import yaml

from analysis.record import run_folder
from data.files import read_json
from tests.campaigns.processes import TRAIN
from tests.campaigns.programs import (
    MLP,
    Decoding,
    Features,
    Problem,
    Program,
    Train,
    TrainResumed,
    compare_rows,
    leftovers,
)

LRS = [0.03, 0.01, 0.003, 0.001]
NUM_SEEDS = 3
SWEEP = "campaign"


class Agent(Program):
    """sweeps/agent.py, with one worker or two."""

    module = "sweeps.agent"
    starts_runs = True

    def prepare(self) -> None:
        self.runs_dir.mkdir(parents=True)
        content = {"program": TRAIN, "method": "grid", "metric": {"name": "val/loss"}}
        told = {key: {"value": value} for key, value in MLP.items()}
        content["parameters"] = {**told, "lr": {"values": LRS}}
        (self.folder / f"{SWEEP}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        self.storage: list[str] = []

    @property
    def sweep(self) -> Path:
        return self.runs_dir / "sweeps" / SWEEP

    def arguments(self) -> list[str]:
        return [str(self.folder / f"{SWEEP}.yaml"), f"--workers={1 + self.number % 2}", *self.storage]

    def trials(self) -> list[tuple[int, str, str]]:
        """Number, state and run of each trial that was begun."""
        path = self.sweep / run_folder.STUDY
        query = (
            "SELECT number, state, value_json FROM trials JOIN trial_user_attributes USING (trial_id) "
            "WHERE key = 'run_id' ORDER BY number"
        )
        if not path.exists():
            return []
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            try:
                return [(number, state, json.loads(text)) for number, state, text in connection.execute(query)]
            except sqlite3.OperationalError:  # its tables are not there yet
                return []

    def after_a_fault(self) -> Iterable[Problem]:
        yield from super().after_a_fault()
        for number, state, _ in self.trials():
            if state not in ("RUNNING", "COMPLETE"):
                yield Problem("wrong", f"trial {number} is {state}")

    def at_the_end(self) -> Iterable[Problem]:
        trials = self.trials()
        runs = {number: run for number, _, run in trials}
        for number in range(len(LRS)):
            if (number, "COMPLETE") not in [(trial[0], trial[1]) for trial in trials]:
                yield Problem("lost", f"trial {number} of {trials}")
        for number, count in Counter(trial[0] for trial in trials).items():
            if count > 1 or number >= len(LRS):
                yield Problem("duplicated", f"trial {number} of {trials}")
        for folder in {path.name for path in self.sweep.glob("0*")} - {*runs.values()}:
            yield Problem("duplicated", f"{folder} is of no trial")
        peaceful = self.peaceful["agent"]
        assert isinstance(peaceful, Agent)
        for number, _, run in peaceful.trials():
            yield from compare_rows(self.sweep / runs.get(number, "none"), peaceful.sweep / run)
        yield from leftovers(self.folder)


class Final(Program):
    """sweeps/final.py, with one worker or two."""

    module = "sweeps.final"
    starts_runs = True

    def prepare(self) -> None:
        searched = self.peaceful["agent"]
        shutil.copytree(searched.runs_dir, self.runs_dir)

    def arguments(self) -> list[str]:
        return [SWEEP, f"--seeds={NUM_SEEDS}", f"--workers={1 + self.number % 2}"]

    def own_codes(self) -> set[int]:
        return {1}  # a run that was killed is named, and the next command goes on with it

    def at_the_end(self) -> Iterable[Problem]:
        sweep = Path("sweeps") / SWEEP
        folder, whole = (program.runs_dir / sweep for program in (self, self.peaceful.get("final", self)))
        [result] = read_json(folder / run_folder.FINAL_RESULT).get("trials", [{}])
        if result.get("seeds") != list(range(1, NUM_SEEDS + 1)):
            yield Problem("lost", f"there are the seeds {result.get('seeds')}")
        names = [path.name for path in whole.glob("final-*")]
        if extra := {path.name for path in folder.glob("final-*")} - {*names}:
            yield Problem("duplicated", f"{extra}")
        for name in names:
            yield from compare_rows(folder / name, whole / name)
        yield from leftovers(self.folder)


class Reproduce(Program):
    """analysis.reproduce --check."""

    module = "analysis.reproduce"
    starts_runs = True

    def prepare(self) -> None:
        shutil.copytree(self.peaceful["train 0"].runs_dir, self.runs_dir)

    def arguments(self) -> list[str]:
        return [str(self.runs_dir / "a"), "--check"]

    def own_codes(self) -> set[int]:
        return {1, 2}  # the run that it compares with was struck

    def at_the_end(self) -> Iterable[Problem]:
        if "are equal bit for bit" not in self.log.read_text(encoding="utf-8"):
            yield Problem("wrong", "it does not come out the same")
        yield from compare_rows(self.runs_dir / "a", self.peaceful["train 0"].runs_dir / "a")
        yield from leftovers(self.folder)


class Report(Program):
    """analysis.report, which writes a page and the index of the runs."""

    module = "analysis.report"

    def prepare(self) -> None:
        shutil.copytree(self.peaceful["agent"].runs_dir, self.runs_dir)

    def arguments(self) -> list[str]:
        return ["--sweep", SWEEP]

    def after_a_fault(self) -> Iterable[Problem]:
        yield from super().after_a_fault()
        page = self.runs_dir / "sweeps" / SWEEP / "report.html"
        if page.exists() and not page.read_text(encoding="utf-8").rstrip().endswith("</html>"):
            yield Problem("wrong", f"{page} is cut short")

    def at_the_end(self) -> Iterable[Problem]:
        yield from self.after_a_fault()
        yield from leftovers(self.folder)


class Runs(Report):
    """analysis.runs, which writes the index of the runs."""

    module = "analysis.runs"

    def at_the_end(self) -> Iterable[Problem]:
        table = self.log.read_text(encoding="utf-8")
        if table.count("finished") < len(LRS):
            yield Problem("lost", "the table lacks runs")
        yield from leftovers(self.folder)


PROGRAMS: Mapping[str, type[Program]] = {
    "train.py": Train,
    "train.py --resume": TrainResumed,
    "decoding": Decoding,
    "features": Features,
    "agent.py": Agent,
    "final.py": Final,
    "reproduce --check": Reproduce,
    "report": Report,
    "runs": Runs,
}
