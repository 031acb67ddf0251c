"""timm's own train.py, out of a checkout of its repository, as a loop that train.py is compared with.

It trains the same network of timm on the same images, and is told the precision, memory layout, batch size, optimizer
and learning rate of train.py; it has a worker a core, and all else is as by default. Its images are files in a folder,
as its users have them: PNG without compression, which of the formats that it finds is the quickest to decode.
"""

import re
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from analysis.look.train_process import signals_exit
from data.cores import num_cores
from data.dataset import Split
from data.errors import UserError
from data.files import scratch_folder
from models.core.objective import Objective, wants_channels_last
from models.parts.backbone import network_size, size_options
from models.parts.pretrained_weights import pretrained_config
from models.timm_classifier import TimmSettings

PRECISIONS = {"no": (), "bf16": ("--amp", "--amp-dtype=bfloat16"), "fp16": ("--amp", "--amp-dtype=float16")}
NUM_EPOCHS = 2  # the first one is to warm up
# The last line of an epoch: figures of its last step and, in brackets behind them, the means of all its steps.
RATE = re.compile(rf"Train: {NUM_EPOCHS - 1} \[.*\(100%\)\].*\([\d.]+s, +(\d+\.?\d*)/s\)")
REMEDY = "name train.py in a checkout of timm's repository"


def find_script(path: Path) -> Path:
    """Return the path of timm's script from wherever it is started.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"--timm_train={path}: there is no such file: {REMEDY}")
    return path.absolute()


def can_train(objective: Objective) -> bool:
    """Return whether timm's script can train the same network: one as timm builds it, and all of it."""
    settings = objective.settings
    return isinstance(settings, TimmSettings) and settings.stem == "own" and not settings.frozen_stages


def measure_timm_train(
    script: Path, objective: Objective, train: Split, num_images: int, device: torch.device
) -> float:
    """Return the images/s of timm's script in its second epoch, as it says them itself.

    Args:
        script: timm's train.py.
        objective: a model that it can train.
        train: training images, of which it takes the first ones.
        num_images: of an epoch, in whole batches.
        device: to train on.

    Raises:
        UserError: it failed, or said no such figure.
    """
    with scratch_folder() as folder:
        write_images(train, num_images, folder / "train")
        words = [sys.executable, str(script), *words_of(objective, device, folder)]
        with signals_exit():
            done = subprocess.run(
                words, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
    return rate_of(script, done.stdout.decode(errors="replace"), done.returncode)


def write_images(train: Split, num_images: int, folder: Path) -> None:
    """Write the first training images [N, 3, H, W], each into the folder of its class."""
    images = train.images[:num_images].permute(0, 2, 3, 1).numpy()
    for i, (image, label) in enumerate(zip(images, train.labels.tolist(), strict=False)):
        path = folder / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=0)


def words_of(objective: Objective, device: torch.device, folder: Path) -> list[str]:
    """Return the command line by which timm's script trains as train.py does.

    Args:
        objective: a model that it can train.
        device: to train on.
        folder: where its images are, and where it writes.
    """
    settings = objective.settings
    assert isinstance(settings, TimmSettings)
    size = network_size(settings, objective.info)
    options = {
        "data-dir": folder,
        "output": folder / "output",
        "val-split": "",
        "model": settings.arch,
        "num-classes": len(objective.info.classes),
        "device": device.type,
        "workers": num_cores(),
        "batch-size": settings.batch_size,
        "epochs": NUM_EPOCHS,
        "warmup-epochs": 0,
        "opt": settings.optimizer,
        "lr": settings.lr,
        "weight-decay": settings.weight_decay,
        "layer-decay": settings.layer_decay if settings.layer_decay < 1 else None,
        "clip-grad": settings.grad_clip or None,
        "smoothing": settings.label_smoothing,
        "drop": settings.drop_rate or None,
        "drop-path": settings.drop_path_rate or None,
    }
    fixed = size_options(pretrained_config(settings.arch), size)
    return [
        *(f"--{name}={value}" for name, value in options.items() if value is not None),
        *("--no-aug", "--input-size", "3", str(size), str(size)),
        *PRECISIONS[settings.mixed_precision],
        *(["--channels-last"] if wants_channels_last(settings, objective, device) else []),
        *(f"--model-kwargs={name}={value}" for name, value in fixed.items()),
    ]


def rate_of(script: Path, output: str, code: int) -> float:
    """Return the images/s that timm's script gives for its second epoch.

    Args:
        script: timm's train.py.
        output: all that it said.
        code: its exit code.

    Raises:
        UserError: it failed, or gives none.
    """
    last = ([line.strip() for line in output.splitlines() if line.strip()] or ["nothing"])[-1]
    if code:
        raise UserError(f"--timm_train={script} failed, exit code {code}, and last said: {last}: {REMEDY}")
    found = RATE.search(output)
    if not found or not float(found[1]):
        raise UserError(f"--timm_train={script} gave no images/s of its second epoch, and last said: {last}: {REMEDY}")
    return float(found[1])
