"""Functions that build the model, the data and the loaders that a run's settings describe."""

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import nn

from data.dataset import Dataset, DatasetInfo, Split
from data.datasets import check_each_varies, check_label_column, describe_undecoded, facts_about, load_dataset
from data.errors import UserError
from data.loader import FeatureLoader, Loader, Shard, bytes_of
from data.residence import choose_residence
from data.seeding import seed_everything
from data.splitting import Splitting, class_counts, make_splits, stratified_order
from data.visible import say, warn
from models.core.objective import Objective, wants_channels_last
from models.core.precision import has_fast_bf16
from models.core.processes import check_launch
from models.core.settings import Settings
from models.parts.backbone import BackboneSettings
from models.parts.classification import ClassifierSettings
from models.parts.convolution import use_matrix_tiles
from models.parts.layers import check_classes
from models.registry import find_model


def read_data(settings: Settings) -> tuple[DatasetInfo, dict[str, Split]]:
    """Read the dataset that `settings` name; return the facts about it, and its splits.

    Raises:
        UserError: the dataset is not known, files are missing or damaged, or as `divide`.
    """
    dataset = load_dataset(
        settings.dataset,
        settings.data_dir,
        round(settings.image_size / settings.eval_crop),
        settings.max_corrupt_images,
        settings.decode,
        settings.label_column,
    )
    check_each_varies(dataset, settings.data_dir)
    return divide(dataset, settings)


def divide(dataset: Dataset, settings: Settings) -> tuple[DatasetInfo, dict[str, Split]]:
    """Return the facts about a dataset as a run of `settings` sees it, and its splits.

    Raises:
        UserError: a split would hold no image, a test was asked for without test images, or balanced sampling of
            images with several labels.
    """
    how = Splitting(
        settings.train_fraction, settings.val_fraction, settings.data_seed, settings.fold, settings.group_by
    )
    splits = make_splits(dataset, how)
    info = facts_about(dataset, splits, how, settings.normalisation, settings.image_size, settings.eval_crop)
    if settings.overfit_batches:
        num = settings.overfit_batches * settings.batch_size
        splits["train"] = first_images(splits["train"], num or len(splits["train"].labels))  # 0: one batch of all
    if settings.limit_batches:
        num = settings.limit_batches * settings.batch_size  # 0: one batch of all
        held_out = {name: split for name, split in splits.items() if name != "train"}
        splits |= {name: some_images(each, num, settings.data_seed) for name, each in held_out.items() if num}
    num_images = {name: len(split.labels) for name, split in splits.items()}
    info = replace(info, num_images=num_images, class_counts=class_counts([splits["train"]], len(info.classes)))
    if settings.sampling == "balanced" and info.several_labels:
        raise UserError(f"--sampling=balanced: an image of {info.name} has no one class: give --class_weights=balanced")
    if settings.test and "test" not in splits:
        raise UserError(f"--test=True: {info.name} has no test images: leave it out, or add some (data/README.md)")
    return info, splits


def first_images(split: Split, num: int) -> Split:
    """Return the first images of a split; all of it if there are no more."""
    return split.select(torch.arange(num)) if num < len(split.labels) else split


def some_images(split: Split, num: int, seed: int) -> Split:
    """Return so many images of a split, of all its classes in proportion; all of it if there are no more."""
    if num >= len(split.labels):
        return split
    return split.select(stratified_order(split.labels, seed)[:num].sort().values)


def build_objective(settings: Settings, info: DatasetInfo) -> Objective:
    """Build the model that `settings` name; the setting `seed` determines its random initial weights.

    Raises:
        UserError: the model is not known, or its settings do not go together or do not suit the images.
    """
    if isinstance(settings, ClassifierSettings):
        check_classes(info, "a classifier")
    seed_everything(settings.seed)
    return find_model(settings.model).build(settings, info)


def stand_in(settings: Settings, info: DatasetInfo) -> Objective:
    """Return the model that settings name without its pretrained weights, which need not be there yet."""
    if isinstance(settings, BackboneSettings):
        settings = replace(settings, pretrained=False, weights="")
    return build_objective(settings, info)


def check_model(settings: Settings) -> Objective | None:
    """Raise the errors that building the model would raise, before images are decoded, which may take hours.

    Return the model, with as many classes as are known of; None where images are not decoded.

    Raises:
        UserError: the model cannot be built for images of that size, or its optimizers cannot, or the dataset has no
            columns to choose from.
    """
    check_label_column(settings.dataset, settings.label_column)
    info = describe_undecoded(settings.dataset, settings.image_size, settings.eval_crop)
    if info is None:
        return None
    objective = stand_in(settings, info)
    objective.phases()
    return objective


def load_model(
    settings: Settings, info: DatasetInfo, splits: dict[str, Split], accelerator: Accelerator
) -> tuple[Objective, dict[str, Loader]]:
    """Return the model, on this process's device, and a loader for each split, by name."""
    objective = build_objective(settings, info)
    loaders = put_on_device(objective, splits, accelerator)
    device, train = accelerator.device, loaders["train"]
    is_slow = settings.mixed_precision == "no" and device.type == "cpu" and has_fast_bf16(device)
    if accelerator.is_main_process and settings.resident == "auto":
        say(f"images: {train.residence.reason}")
    if accelerator.is_main_process and is_slow and not isinstance(train, FeatureLoader):  # a head alone takes no time
        say("precision: fp32; this CPU trains faster in bf16 (--mixed_precision=bf16)")
    return objective, loaders


def put_on_device(
    objective: Objective, splits: dict[str, Split], accelerator: Accelerator, scratch: Path | None = None
) -> dict[str, Loader]:
    """Put a model onto this process's device, and return a loader for each split of images, by name.

    Args:
        objective: the model.
        splits: of images, by name.
        accelerator: of this process.
        scratch: folder for what is computed of the images, where it is not to be kept; see `Objective.prepare`.
    """
    settings, info = objective.settings, objective.info
    channels_last = wants_channels_last(settings, objective, accelerator.device)
    if channels_last:
        objective.to(memory_format=torch.channels_last)
    objective.to(accelerator.device)
    if accelerator.device.type == "cpu":
        use_matrix_tiles(objective)
    splits = objective.prepare(splits, accelerator, scratch)
    objective.train()
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    num_bytes = sum(map(bytes_of, splits.values()))
    residence = choose_residence(num_bytes, accelerator.device, settings.resident, shard.num_processes)
    return {
        name: (Loader if split.features is None else FeatureLoader)(
            split,
            info,
            accelerator.device,
            shard=shard,
            residence=residence,
            channels_last=channels_last,
            keep_whole=objective.draws_images,
            fewest=2 if has_batch_norm(objective) else objective.fewest_images,
        )
        for name, split in splits.items()
    }


def has_batch_norm(objective: nn.Module) -> bool:
    """Return whether a model normalises over the batch, in the mode that it is in; a frozen batch norm does not."""
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    return any(isinstance(module, kinds) and module.training for module in objective.modules())


def make_accelerator(settings: Settings, on_cpu: bool) -> Accelerator:
    """Return what handles precision and processes, by the settings alone and not by variables of accelerate.

    Raises:
        UserError: the device cannot compute in the precision that was asked for, or as `check_launch`.
    """
    check_launch()
    torch.backends.cudnn.benchmark = True
    torch.set_flush_denormal(True)  # a CPU takes 100 times as long for numbers this small, as the gradients of an LSTM
    try:
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=settings.accumulation_steps),
            dynamo_backend="no",  # --compile compiles the networks one by one
        )
    except ValueError as error:
        raise UserError(f"--mixed_precision={settings.mixed_precision}: {error}") from None
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("--mixed_precision=fp16 needs a GPU, whose gradients accelerate scales: give bf16")
    if settings.mixed_precision == "bf16" and not has_fast_bf16(accelerator.device):
        remedy = "give fp16" if accelerator.device.type == "cuda" else "leave it out"
        warn(f"--mixed_precision=bf16: this device emulates it, which takes far longer than fp32: {remedy}")
    return accelerator
