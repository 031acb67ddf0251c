"""The metrics of a trained run on other images, kept in its folder apart from its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analysis.look.calibration import calibration_on
from analysis.look.split_predictions import Predictions
from analysis.look.trained_run import TrainedRun, best_device
from analysis.record import run_folder
from analysis.record.evaluation import evaluate
from data.csv_table import LABEL
from data.dataset import Dataset, DatasetInfo, Split
from data.datasets import find_data_dir, find_dataset, load_dataset
from data.errors import UserError
from data.files import read_json, write_json
from data.visible import warn
from models.core.precision import precision_on
from models.loading import divide, make_accelerator, put_on_device

ALL = "all"  # what images are called that no folder divides


class OtherData(NamedTuple):
    """Images that a run is evaluated on.

    Attributes:
        dataset: the setting of that name.
        data_dir: where they are.
        fingerprint: of all of them.
        is_own: whether the run was trained on these.
        has_changed: whether they lie where the run's own did, and are others now.
        splits: by name, labelled as the run labels its classes.
    """

    dataset: str
    data_dir: Path
    fingerprint: str
    is_own: bool
    has_changed: bool
    splits: dict[str, Split]

    def choose(self, name: str) -> str:
        """Return the name of the split that is meant: that which is asked for, else the images to be measured on.

        Raises:
            UserError: there is no such split, or training images alone.
        """
        wanted = name or next((it for it in ("test", "val", ALL) if it in self.splits), "")
        if wanted not in self.splits:
            there = f"{self.data_dir} has {', '.join(self.splits)}"
            raise UserError(f"--split={name}: {there}" if name else f"{there}: name one with --split")
        if self.has_changed and wanted != "test":
            warn(f"{self.data_dir} has changed since: the run was trained on some of these images, as on their like")
        return wanted


def read_other_data(run: TrainedRun, dataset: str, data_dir: str, label_column: str) -> OtherData:
    """Read images to evaluate a run on, at the size of its own.

    They are divided as their folders are; without such folders they are called "all". The run's own images are divided
    as they were for it.

    Args:
        run: without images.
        dataset: as the setting of that name.
        data_dir: as the setting of that name.
        label_column: as the setting of that name.

    Raises:
        UserError: as `load_dataset` and `divide`, the images have another size that cannot be changed, or a class that
            the run does not know.
    """
    info, settings, place = run.info, run.settings, find_data_dir(data_dir)
    is_decoded = find_dataset(dataset).is_decoded
    size, decode = (info.kept_size, settings.decode) if is_decoded else (0, "once")
    found = load_dataset(dataset, data_dir, size, settings.max_corrupt_images, decode, label_column)
    side = found.train.image_shape[-1]
    if side != info.kept_size:
        sizes = f"{side} pixels alone, and the run has seen {info.kept_size}"
        raise UserError(f"--dataset={dataset} has images of {sizes}: name a run on images of {side} pixels")
    if found.fingerprint == info.fingerprint:
        _, splits = divide(found, settings)
        return OtherData(dataset, place, found.fingerprint, True, False, splits)
    parts = found.splits
    if len(parts) == 1:
        parts = {ALL: found.train}
    translate = labels_in(found, info)
    splits = {name: it._replace(labels=translate(it.labels)) for name, it in parts.items()}
    has_changed = (dataset, place) == (settings.dataset, find_data_dir(settings.data_dir))
    return OtherData(dataset, place, found.fingerprint, False, has_changed, splits)


def labels_in(found: Dataset, info: DatasetInfo) -> Callable[[Tensor], Tensor]:
    """Return what turns labels of other images into the run's, by name; it does nothing where the run knows no classes.

    Raises:
        UserError: the images have no classes, labels of the other kind, a class that the run does not know, or not all
            of its several labels.
    """
    if not info.classes:
        return lambda labels: labels
    if not found.classes:
        raise UserError(
            f"{found.name} has no classes, but the run has {len(info.classes)}: sort the images into folders"
        )
    kinds = {False: "one class an image", True: "several labels an image"}
    is_several = found.train.labels.ndim > 1
    if is_several != info.several_labels:
        raise UserError(f"{found.name} has {kinds[is_several]}, but the run {kinds[info.several_labels]}: name others")
    if is_several:
        if lacking := [name for name in info.classes if name not in found.classes]:
            raise UserError(f"{found.name} lacks the column {LABEL}{lacking[0]}, a label of the run: add it")
        order = torch.tensor([found.classes.index(name) for name in info.classes])
        return lambda labels: labels[:, order]
    for name in found.classes:
        if name not in info.classes:
            raise UserError(
                f"{found.name} has the class {name}, which the run does not know: it knows {', '.join(info.classes)}"
            )
    places = torch.tensor([info.classes.index(name) for name in found.classes])
    return lambda labels: places[labels]


def evaluate_on(run: TrainedRun, split: Split) -> dict[str, float]:
    """Return a run's metrics on images, as those that it logs of its own; of a classifier also its ece."""
    settings, model = run.settings, run.objective
    device = best_device()
    settings = replace(settings, mixed_precision=precision_on(device, settings.mixed_precision))
    accelerator = make_accelerator(settings, device.type == "cpu")
    loader = put_on_device(model, {"other": split}, accelerator)["other"]
    metrics, logits = evaluate(accelerator, model, loader, settings.eval_batch_size, keep_logits=True)
    if logits is not None:
        them = Predictions.of(logits, loader)
        metrics["ece"] = calibration_on(them.probabilities, them.labels, them.labelling).error
    return metrics


def keep(folder: Path, data: OtherData, split: str, metrics: Mapping[str, float]) -> Path:
    """Write metrics into a run's folder, under the images' fingerprint and the split's name; return the file."""
    path = folder / run_folder.EVALUATIONS
    entry: dict[str, Any] = {
        "dataset": data.dataset,
        "data_dir": str(data.data_dir),
        "split": split,
        "num_images": len(data.splits[split].labels),
        "are_the_runs_own": data.is_own,
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": dict(metrics),
    }
    write_json(path, {**read_json(path), f"{data.fingerprint}/{split}": entry})
    return path
