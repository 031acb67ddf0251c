"""Settings of a run: flat, typed, frozen, with their defaults, ranges and what each is for.

This file and `models.resolve`, which reads settings from the command line, load no torch.
"""

import math
import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from data.errors import UserError


@dataclass(frozen=True, slots=True)
class Range:
    """Closed interval of the values a number may take; with `low_excluded` the lower end is left out."""

    low: float
    high: float = math.inf
    low_excluded: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.low_excluded and value == self.low)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.low_excluded else f"at least {self.low:g}"
        return f"{'above' if self.low_excluded else 'from'} {self.low:g} to {self.high:g}"


class Role(Enum):
    """What a setting is for. One without a role is part of the recipe: what is trained, on what, and how."""

    CIRCUMSTANCE = "says where and how a run is carried out and shown: it may change on resuming, and compares no runs"
    INVOCATION = "says which run this is and what to do with it: a circumstance that a saved run does not hand on"


PositiveInt = Annotated[int, Range(1)]
Count = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, low_excluded=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 0.99999)]  # of a moving average


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every run can be told, whatever its model."""

    model: str = "cnn"
    """Network to train: a key of MODELS in models/registry.py."""
    dataset: str = "cifar10"
    """Images to train on: a key of DATASETS in data/datasets.py."""
    epochs: PositiveInt = 16
    """Passes over the training images; with `patience`, the most there can be."""
    batch_size: PositiveInt = 128
    """Images of one optimizer step, over all processes and accumulated micro-batches."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    seed: Count = 3407
    """Seed of the weights, the order of the batches, augmentation and dropout."""

    data_dir: Annotated[str, Role.CIRCUMSTANCE] = ""
    """Folder of the images; empty: $VISION_SWEEPS_DATA, else vision-sweeps in the user's cache folder."""
    data_seed: Count = 3407
    """Seed of the splits, which are the same on every machine."""
    train_fraction: Annotated[float, Range(0, 1, low_excluded=True)] = 1.0
    """Share of the training images that is used at all, before the validation split."""
    val_fraction: Annotated[float, Range(0, 0.9)] = 0.1
    """Share of the used training images held out for validation; 0 for none."""
    test: bool = False
    """Evaluate the test images once, at the end."""
    image_size: Count = 0
    """Side of the images in pixels, for datasets that resize; 0 for the dataset's own."""
    normalisation: Literal["channel", "symmetric", "unit"] = "channel"
    """Pixel values: each channel to mean 0 and deviation 1 over the training split, [-1, 1], or [0, 1]."""
    resident: Annotated[Literal["auto", "device", "host"], Role.CIRCUMSTANCE] = "auto"
    """Where the uint8 images live; auto: on the device where they take at most half of its free memory."""
    max_corrupt_images: Annotated[Count, Role.CIRCUMSTANCE] = 10
    """Unreadable files of a folder that are named and skipped; one more ends the run."""

    feature_dir: Annotated[str, Role.CIRCUMSTANCE] = ""
    """Folder of the features that frozen networks have computed of images, and are not to compute again; empty:
    vision-sweeps/features in the user's cache folder."""

    augmentation: Literal["none", "crop_flip", "randaugment", "trivialaugment"] = "none"
    """Random changes to training images: crop_flip is a shift of up to 1/8 of the side and a mirror image;
    the other two add their policy to it, one draw for every 8 images."""
    cutout: Count = 0
    """Side in pixels of a square blanked out of every training image; 0 for none."""

    optimizer: str = "adam"
    """sgd (Nesterov), adam, adamw, or any name of timm's optimizer factory."""
    momentum: Fraction = 0.9
    """Momentum of sgd and of timm's optimizers that have one."""
    beta1: Decay = 0.9
    """Decay of the mean of the gradients that adam and adamw keep."""
    beta2: Decay = 0.999
    """Decay of the mean of their squares."""
    weight_decay: NonNegative = 0.0
    """Weight decay, added to the gradient by adam and sgd, decoupled by adamw; norms and biases have none."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """Course of the learning rate: flat, half a cosine down to 0, or up for 30 % of the steps and down."""
    warmup_epochs: NonNegative = 0.0
    """Epochs over which the learning rate first climbs in a straight line from 0."""
    grad_clip: NonNegative = 0.0
    """Largest norm of the gradient; 0 for no clipping."""
    accumulation_steps: PositiveInt = 1
    """Micro-batches a step is computed in, to save memory: the step still sees batch_size images."""
    ema_decay: Decay = 0.0
    """Decay per step of an exponential moving average of weights and running statistics, which is then evaluated;
    0 for none. It climbs to this value, as 1 - (1 + step)^(-2/3)."""
    patience: Count = 0
    """Stop after this many epochs without a better one, by validation loss or what else the model is judged by;
    0 for never."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Number format of the arithmetic; the default is what `accelerate launch` says, if it says so."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory layout of convolutions; auto: on for convolutional networks on a GPU, or with bf16 on a CPU."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    eval_batch_size: Annotated[PositiveInt, Role.CIRCUMSTANCE] = 500
    """Images a process evaluates at once."""

    runs_dir: Annotated[str, Role.INVOCATION] = "runs"
    """Folder that the run's own folder is made in; $VISION_SWEEPS_RUNS is its default."""
    run_id: Annotated[str, Role.INVOCATION] = ""
    """Name of the run's folder and its W&B id; empty: a fresh one. A name that exists is resumed."""
    resume: Annotated[bool, Role.INVOCATION] = False
    """Continue run_id, or without one the latest unfinished run of runs_dir."""
    tracking: Annotated[Literal["auto", "online", "offline", "off"], Role.CIRCUMSTANCE] = "auto"
    """W&B; auto: online with credentials and a network, else offline. The run folder is written anyway."""
    project: Annotated[str, Role.CIRCUMSTANCE] = "vision-sweeps"
    """W&B project; $WANDB_PROJECT wins."""
    tags: Annotated[str, Role.CIRCUMSTANCE] = ""
    """Comma-separated W&B tags."""
    panels_every: Annotated[PositiveInt, Role.CIRCUMSTANCE] = 5
    """Epochs between two image panels; the last epoch always draws them."""
    dry_run: Annotated[bool, Role.INVOCATION] = False
    """Print the settings, the network and its parameter count, and stop."""

    def __post_init__(self) -> None:
        """Refuse what no single setting's range can."""
        if self.run_id and not re.fullmatch(r"\w[\w.-]*", self.run_id):
            raise UserError(f"--run_id={self.run_id} names a folder and a W&B run: use letters, digits, - _ and .")


class Kind(NamedTuple):
    """What values a setting takes, and what it is for."""

    type: Any  # bool, int, float or str
    allowed: Range | tuple[str, ...] | None  # range of a number, choices of a text, or no limit
    role: Role | None


def kinds(settings_class: type[Settings]) -> dict[str, Kind]:
    """Return the kind of every setting of a class, by name."""
    return {key: kind_of(hint) for key, hint in get_type_hints(settings_class, include_extras=True).items()}


def kind_of(hint: object) -> Kind:
    """Return the kind that a field's annotation spells."""
    allowed: Range | tuple[str, ...] | None = None
    role = None
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        allowed = next((mark for mark in marks if isinstance(mark, Range)), None)
        role = next((mark for mark in marks if isinstance(mark, Role)), None)
    if get_origin(hint) is Literal:
        return Kind(str, get_args(hint), role)
    assert isinstance(hint, type)
    return Kind(hint, allowed, role)


def names_of(*roles: Role) -> frozenset[str]:
    """Return the names of the settings that have one of these roles; only the settings of every run have any."""
    return frozenset(key for key, kind in kinds(Settings).items() if kind.role in roles)


INVOCATION = names_of(Role.INVOCATION)
CIRCUMSTANCES = names_of(Role.CIRCUMSTANCE, Role.INVOCATION)
