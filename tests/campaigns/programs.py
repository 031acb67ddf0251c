"""The programs of a campaign: how each is started, and what must hold of its files whenever it has ended; train.py."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from analysis.look.reproduction import UNREPEATABLE
from analysis.record import run_folder
from data.files import read_json
from data.metrics import is_epoch
from tests.campaigns.processes import Start

NUM_EPOCHS = 16
SMALL = {"dataset": "digits", "image_size": 8, "batch_size": 64, "tracking": "off", "panels_every": 4}
MLP = {**SMALL, "model": "mlp", "width": 16, "lr": 0.01, "epochs": NUM_EPOCHS}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "mlp": MLP,
    "averaged": {**MLP, "ema_decay": 0.9, "augmentation": "crop_flip", "accumulation_steps": 2},
    "vae": {**SMALL, "model": "vae", "width": 4, "epochs": 3},
}
FOLDER = {**MLP, "dataset": "folder", "batch_size": 32, "epochs": 4}
FEATURES = {
    **SMALL, "model": "frozen", "arch": "test_efficientnet", "pretrained": False, "input_size": 32,
    "feature_precision": "fp32", "epochs": 4,
}  # fmt: skip
NUM_PICTURES = 240


class Problem(NamedTuple):
    """What is wrong after a fault: its kind, a column of the table, and what was seen."""

    kind: str  # "lost", "duplicated", "orphans", "wrong", "left over"
    text: str


def flags(settings: Mapping[str, Any]) -> list[str]:
    """A command line with these settings."""
    return [f"--{key}={value}" for key, value in settings.items()]


def rows_of(folder: Path) -> list[str]:
    """What a run has logged, without what never comes out the same."""
    rows = run_folder.read_metrics(folder)
    return [json.dumps({key: row[key] for key in row if key not in UNREPEATABLE}) for row in rows]


def compare_rows(folder: Path, whole: Path) -> list[Problem]:
    """Compare what a run that was disturbed has logged with what one has that was left in peace."""
    own, others = rows_of(folder), rows_of(whole)
    epochs = [row["epoch"] for row in run_folder.read_metrics(folder) if is_epoch(row)]
    if len(set(epochs)) < len(epochs):
        return [Problem("duplicated", f"{folder.name}: epochs {epochs}")]
    if len(own) < len(others):
        return [Problem("lost", f"{folder.name}: {len(own)} of {len(others)} rows")]
    return [] if own == others else [Problem("wrong", f"{folder.name}: its rows are not those of {whole}")]


def leftovers(*folders: Path) -> list[Problem]:
    """Temporary files and folders that lie about."""
    names = ("*.unfinished", "*-journal", "tmp*")
    found = [path for folder in folders if folder.exists() for name in names for path in folder.rglob(name)]
    return [Problem("left over", f"{path}") for path in found]


class Program:
    """A program with files of its own to work on, which `peaceful` has worked on undisturbed.

    Args:
        folder: an empty one for its files.
        number: of the episode, by which recipes take turns.
        peaceful: the same program after it was left in peace; None for that program itself.
    """

    module = "train"
    starts_runs = False  # in processes of their own

    def __init__(self, folder: Path, number: int, peaceful: "Mapping[str, Program]") -> None:
        self.folder = folder
        self.number = number
        self.peaceful = peaceful
        self.runs_dir = folder / "runs"
        self.log = folder / "log.txt"
        self.patches: Mapping[str, Any] = {}
        self.environment = {
            "VISION_SWEEPS_RUNS": str(self.runs_dir),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "TMPDIR": str(folder / "scratch"),
            "COLUMNS": "160",
        }
        (folder / "scratch").mkdir(parents=True)
        self.prepare()

    def prepare(self) -> None:
        """Lay down the files that it works on."""

    def arguments(self) -> list[str]:
        """Its command line at the next start."""
        raise NotImplementedError

    def start(self, strike: tuple[int, int] | None = None) -> Start:
        return Start(self.module, self.arguments(), self.environment, self.log, self.patches, strike)

    def own_codes(self) -> set[int]:
        """Exit codes with which it may end where only a run of its has been struck."""
        return set()

    def after_a_fault(self) -> Iterable[Problem]:
        """What is wrong with its files, whatever moment it was struck at."""
        if b"Traceback" in b"".join(path.read_bytes() for path in self.logs()):
            yield Problem("wrong", "a traceback")

    def at_the_end(self) -> Iterable[Problem]:
        """What is wrong after its last start, which nobody has disturbed."""
        raise NotImplementedError

    def logs(self) -> list[Path]:
        return [path for path in [self.log, *self.runs_dir.rglob("output.log")] if path.exists()]


class Train(Program):
    """train.py, which goes on by its --run_id."""

    def settings(self) -> Mapping[str, Any]:
        return list(RECIPES.values())[self.number % len(RECIPES)]

    def arguments(self) -> list[str]:
        return [*flags(self.settings()), "--run_id=a"]

    def after_a_fault(self) -> Iterable[Problem]:
        yield from super().after_a_fault()
        summary = read_json(self.runs_dir / "a" / run_folder.SUMMARY)
        is_whole = summary.get("state") == "finished" and ("test/loss" in summary or "val/loss" in summary)
        if summary and not is_whole and summary.get("state") != "stopped":
            yield Problem("wrong", f"the summary says {summary}")

    def at_the_end(self) -> Iterable[Problem]:
        folder = self.runs_dir / "a"
        if run_folder.state(folder) != "finished":
            yield Problem("wrong", f"the run is {run_folder.state(folder)}")
        yield from compare_rows(folder, self.peaceful[f"train {self.number % len(RECIPES)}"].runs_dir / "a")
        yield from leftovers(self.folder)


class TrainResumed(Train):
    """train.py, which goes on by --resume as soon as there is a run."""

    def arguments(self) -> list[str]:
        begun = (self.runs_dir / "a" / run_folder.SETTINGS).exists() and not self.is_finished()
        return ["--resume", f"--runs_dir={self.runs_dir}"] if begun else super().arguments()

    def is_finished(self) -> bool:
        return run_folder.state(self.runs_dir / "a") == "finished"


class OtherTrain(Train):
    """train.py on images that it prepares, and keeps prepared."""

    name = ""

    def at_the_end(self) -> Iterable[Problem]:
        yield from compare_rows(self.runs_dir / "a", self.peaceful[self.name].runs_dir / "a")
        yield from leftovers(self.folder)


class Decoding(OtherTrain):
    """train.py on pictures in a folder."""

    name = "decoding"

    def prepare(self) -> None:
        if self.name in self.peaceful:
            self.pictures = self.peaceful[self.name].folder / "pictures"
            return
        self.pictures = self.folder / "pictures"
        random = np.random.RandomState(0)
        for i in range(NUM_PICTURES):
            path = self.pictures / "ab"[i % 2] / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.randint(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)

    def settings(self) -> Mapping[str, Any]:
        return {**FOLDER, "data_dir": self.pictures}


class Features(OtherTrain):
    """train.py on the features of a frozen network."""

    name = "features"

    def prepare(self) -> None:
        self.patches = {"data.feature_cache.SECONDS_BETWEEN_WRITES": 0.02}

    def settings(self) -> Mapping[str, Any]:
        return {**FEATURES, "feature_dir": self.folder / "features"}
