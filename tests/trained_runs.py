"""Run folders with weights, as train.py leaves them, but untrained: they stand without any images."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from analysis.record import run_folder
from analysis.record.data_file import keep_info
from data.dataset import DatasetInfo
from data.files import write_json
from models.core import checkpoint
from models.loading import build_objective
from models.registry import MODELS
from tests.models.test_objectives import SMALL, info_of

CLASSES = ("cat", "dog", "frog")


def info_for(model: str) -> DatasetInfo:
    """Facts about images of three classes, normalised as a model asks for by default."""
    return replace(info_of(model), name="pets", classes=CLASSES, num_images={"train": 9}, fingerprint="f00")


def save_run(folder: Path, model: str, **settings: Any) -> Path:
    """Write a run of a small model with random weights, whose images are nowhere."""
    folder.mkdir(parents=True)
    own = {"dataset": "folder", "data_dir": "gone", "run_id": folder.name, "runs_dir": str(folder.parent)}
    chosen = MODELS[model].settings_class(model=model, **{**SMALL[model], **own, **settings})
    write_json(folder / run_folder.SETTINGS, asdict(chosen))
    keep_info(folder, info_for(model))
    checkpoint.save(folder / run_folder.BEST, build_objective(chosen, info_for(model)).state_dict())
    return folder


def save_pictures(folder: Path, num: int = 9, seed: int = 0) -> list[Path]:
    """Write pictures of random pixels and sizes into folders of their classes, in turn; return their paths, sorted."""
    random = np.random.RandomState(seed)
    for i in range(num):
        path = folder / CLASSES[i % len(CLASSES)] / f"{i}.{('png', 'jpg')[i % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 256, (*random.randint(20, 90, 2), 3), dtype=np.uint8)).save(path)
    return sorted(folder.rglob("*.*"))
