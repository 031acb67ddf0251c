"""Predictions of image files by one trained classifier or the mean of several, which need their folders alone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from analysis.look.calibration import TEMPERATURES, UNCHANGED, calibration_of
from analysis.look.picture_files import PictureFile
from analysis.look.split_predictions import Predictions, predict_split
from analysis.look.trained_run import TrainedRun, load_network, load_run
from analysis.record import run_folder
from data.dataset import DatasetInfo, Split
from data.errors import UserError, in_one_line
from data.files import read_json
from data.loader import Loader
from data.metrics import is_finite
from data.photographs import centre_crop
from data.pixels import decode_image, is_nearly_black
from data.prefetch import prefetched
from data.progress import progress_bar
from data.visible import counted, visible, warn
from models.core.abilities import Classifies
from models.core.precision import autocast_on
from models.loading import put_on_device
from models.parts.labelling import Labelling, labelling_of

DECODED_AT_ONCE = 1024  # images, at least
NUM_NAMED = 20  # files that cannot be read which are named one by one
NUM_KEPT = 256  # pictures that are kept for a sheet of them
CALIBRATION = ("temperature", "ece", "ece_calibrated", "num_images")  # what is kept of one


@dataclass(frozen=True)
class Member:
    """A classifier, on its device.

    Attributes:
        name: of its run's folder.
        run: without images.
        accelerator: of this process.
        calibration: as its run's folder keeps it; nothing for none.
    """

    name: str
    run: TrainedRun
    accelerator: Accelerator
    calibration: Mapping[str, float]

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return self.calibration.get("temperature", UNCHANGED)

    def logits(self, images: Tensor, scratch: Path) -> Tensor:
        """Return the logits of images, computed as at the end of the run.

        Args:
            images: [N, 3, H, W] uint8.
            scratch: folder for their features, if the network is frozen; members of one network share them.

        Returns:
            [N, C] float32.
        """
        split = Split(images, self.run.info.blank_labels(len(images)))
        return self.predict(put_on_device(self.run.objective, {"new": split}, self.accelerator, scratch)["new"]).logits

    def predict(self, loader: Loader) -> Predictions:
        """Return what the network predicts of all images of a split, computed as at the end of the run."""
        self.run.objective.eval()
        with autocast_on(loader.device, self.run.settings.mixed_precision):
            return predict_split(self.run.objective, loader)


@dataclass(frozen=True)
class Predicted:
    """What was predicted of image files.

    Attributes:
        files: those that could be read.
        info: of the images that the members were trained on.
        logits: [N, C], of the mean of the members' probabilities.
        uncalibrated: [N, C], the same without temperatures.
        votes: [M, N], the class that each member would have named alone; [M, N, C] of several labels.
        pictures: [P, 3, H, W] uint8, the first ones as the network has seen them.
    """

    files: list[PictureFile]
    info: DatasetInfo
    logits: Tensor
    uncalibrated: Tensor
    votes: Tensor
    pictures: Tensor

    @cached_property
    def labelling(self) -> Labelling:
        """What the labels are."""
        return labelling_of(self.info)

    @cached_property
    def probabilities(self) -> Tensor:
        """[N, C] the mean over the members."""
        return self.labelling.probabilities(self.logits)

    @cached_property
    def guessed(self) -> Tensor:
        """[N] the classes that are predicted, or [N, C] the labels."""
        return self.labelling.decide(self.probabilities)

    @cached_property
    def known(self) -> Tensor:
        """[L] the places of the images whose true class or labels are known."""
        return torch.tensor([i for i, file in enumerate(self.files) if file.true is not None], dtype=torch.long)

    @cached_property
    def true(self) -> Tensor:
        """[L] the true classes of these images, or [L, C] their labels."""
        known = [file.true for file in self.files if file.true is not None]
        blank = self.info.blank_labels(len(known))
        return torch.tensor(known, dtype=blank.dtype).view_as(blank)

    @cached_property
    def losses(self) -> Tensor:
        """[L] the cross-entropy of these images in nats."""
        return self.labelling.losses(self.logits[self.known], self.true)

    @cached_property
    def rightness(self) -> Tensor:
        """[L] how right the predictions of these images are, in [0, 1]."""
        return self.labelling.rightness(self.guessed[self.known], self.true)

    @cached_property
    def agreed(self) -> Tensor:
        """[N] how many members predict what their mean predicts."""
        return torch.stack([self.labelling.rightness(votes, self.guessed) == 1 for votes in self.votes]).sum(0)


def load_members(folders: Sequence[Path], data_dir: str, is_calibrated: bool) -> list[Member]:
    """Load the classifiers of some runs.

    Args:
        folders: of the runs.
        data_dir: where the images of a run are that keeps too little in its folder.
        is_calibrated: whether to divide logits by the temperature of the run's validation images.

    Raises:
        UserError: as `load_network`; a model does not classify; two have other classes; or a run has no validation
            images to calibrate by.
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    members: list[Member] = []
    for folder in folders:
        run = load_network(folder, data_dir)
        if not isinstance(run.objective, Classifies):
            raise UserError(f"{folder} is a {run.settings.model}, which predicts no classes: name a classifier's run")
        if members and classes_of(run) != classes_of(members[0].run):
            names = [", ".join(each.info.classes[:5]) for each in (members[0].run, run)]
            raise UserError(f"{folder} has the classes {names[1]}, but {folders[0]} {names[0]}: name runs of the same")
        member = Member(str(folder), run, accelerator, {})
        calibration = calibrate_member(member, folder, data_dir) if is_calibrated else {}
        members.append(Member(member.name, run, accelerator, calibration))
    return members


def classes_of(run: TrainedRun) -> tuple[bool, tuple[str, ...]]:
    """Return what two runs must have in common to predict together: whether labels may be several, and which."""
    return run.info.several_labels, run.info.classes


def calibrate_member(member: Member, folder: Path, data_dir: str) -> Mapping[str, float]:
    """Return the temperature and calibration errors of a run that its folder keeps, else of its validation images.

    Those kept of other weights, before the run has gone on, do not count; of 0.1.0 they do not say of which they are.

    Raises:
        UserError: it has no validation images, or they are missing.
    """
    kept = read_json(folder / run_folder.CALIBRATION)
    lowest, highest = TEMPERATURES
    is_whole = all(is_finite(kept.get(name)) for name in CALIBRATION) and lowest <= kept["temperature"] <= highest
    weights = run_folder.weights_fingerprint(folder)
    if is_whole and kept.get(run_folder.MEASURED, weights) == weights:
        return kept
    if not member.run.settings.val_fraction:
        raise UserError(f"--temperature=val: {folder} has held out no images to validate with: leave it out")
    split = load_run(folder, data_dir).split("val")
    loader = put_on_device(member.run.objective, {"val": split}, member.accelerator)["val"]
    return calibration_of(member.predict(loader))


def predict_files(members: Sequence[Member], files: Sequence[PictureFile], flip: bool = False) -> Predicted:
    """Predict the classes of image files; those that cannot be read are named and left out.

    The images go through the network in batches of the run's own `eval_batch_size`, in order.

    Args:
        members: one or more classifiers of the same classes.
        files: the images.
        flip: whether to take the mean over each image and its mirror image.

    Raises:
        UserError: none of the files can be read.
    """
    batch_size, first = members[0].run.settings.eval_batch_size, members[0].run.info
    num_at_once = batch_size * ceil(DECODED_AT_ONCE / batch_size)
    sizes = {member.run.info.kept_size for member in members}
    kept: list[PictureFile] = []
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    pictures: list[Tensor] = []
    unread: dict[Path, str] = {}
    deepest = 0
    with progress_bar("predicting", len(files), "images") as bar:
        for start in range(0, len(files), num_at_once):
            chunk = files[start : start + num_at_once]
            whole, images, greatest = read_pictures(chunk, sizes, unread)
            if whole:
                parts.append(predict_images(members, images, flip))
                some = images[first.kept_size][: max(0, NUM_KEPT - len(kept))]
                pictures.append(centre_crop(some, first.image_size))
                kept += whole
            deepest = max(deepest, greatest)
            bar.update(len(chunk))
    tell_unread(unread, is_nothing_left=not kept)
    if is_nearly_black(deepest):
        warn(f"the 16-bit images hold no value above {deepest:,} of 65,535 and look nearly black: scale them first")
    calibrated, plain, votes = zip(*parts, strict=True)
    return Predicted(kept, first, torch.cat(calibrated), torch.cat(plain), torch.cat(votes, dim=1), torch.cat(pictures))


def read_pictures(
    files: Sequence[PictureFile], sizes: Collection[int], unread: dict[Path, str]
) -> tuple[list[PictureFile], dict[int, Tensor], int]:
    """Read image files as those of a dataset are read.

    Args:
        files: the images.
        sizes: sides in pixels.
        unread: file -> reason; those that cannot be read are added.

    Returns:
        The files that could be read, their pixels by side [N, 3, side, side] uint8, and the greatest value in a grey
        image of 16 bits, 0 without one.
    """
    paths = [file.path for file in files]  # Pillow decodes outside the interpreter lock
    read = {size: list(prefetched(partial(decode_image, image_size=size), paths, len(paths))) for size in sizes}
    kept: list[PictureFile] = []
    pixels: dict[int, list[np.ndarray]] = {size: [] for size in sizes}
    deepest = 0
    for file, *pictures in zip(files, *read.values(), strict=True):
        if error := next((it for it in pictures if isinstance(it, Exception)), None):
            unread[file.path] = getattr(error, "strerror", None) or in_one_line(error)
            continue
        kept.append(file)
        for size, picture in zip(sizes, pictures, strict=True):
            pixels[size].append(picture.pixels)
            deepest = max(deepest, picture.largest_of_16_bits)
    return kept, {size: torch.from_numpy(np.stack(each)) for size, each in pixels.items() if each}, deepest


def tell_unread(unread: Mapping[Path, str], is_nothing_left: bool) -> None:
    """Name the files that cannot be read, and why.

    Raises:
        UserError: there is no other file.
    """
    if is_nothing_left:
        path, reason = next(iter(unread.items()))
        others = f", nor can {counted(len(unread) - 1, 'other')}" if len(unread) > 1 else ""
        raise UserError(f"{path} cannot be read as an image ({reason}){others}: name image files")
    for path, reason in list(unread.items())[:NUM_NAMED]:
        warn(f"{visible(path)} cannot be read and is left out: {visible(reason)}")
    if len(unread) > NUM_NAMED:
        warn(f"{counted(len(unread) - NUM_NAMED, 'more file')} cannot be read: left out, too")


def predict_images(
    members: Sequence[Member], images: Mapping[int, Tensor], flip: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, uncalibrated ones, and the members' votes, see `Predicted`.

    Args:
        members: one or more classifiers.
        images: side in pixels -> [N, 3, side, side] uint8.
        flip: whether to take the mean over each image and its mirror image.
    """
    labelling, calibrated, plain = labelling_of(members[0].run.info), list[Tensor](), list[Tensor]()
    with TemporaryDirectory(prefix="vision-sweeps-predict-") as scratch:
        for member in members:
            info = member.run.info
            own = centre_crop(images[info.kept_size], info.image_size)
            views = [own, own.flip(-1)] if flip else [own]
            logits = torch.stack([member.logits(view, Path(scratch)) for view in views])
            plain.append(labelling.pooled(logits))
            calibrated.append(labelling.pooled(logits / member.temperature))
    votes = torch.stack([labelling.decide(labelling.probabilities(each)) for each in calibrated])
    return labelling.pooled(torch.stack(calibrated)), labelling.pooled(torch.stack(plain)), votes
