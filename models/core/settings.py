"""The settings of a run: the type, default, allowed values and help text of each.

Neither this module nor `models.resolve`, which reads settings from the command line, loads torch.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from data.errors import UserError


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a number may take: from `low` to `high`, including both, or without `low` if it is excluded."""

    low: float
    high: float = math.inf
    low_excluded: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.low_excluded and value == self.low)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.low_excluded else f"at least {self.low:g}"
        return f"{'above' if self.low_excluded else 'from'} {self.low:g} to {self.high:.10g}"


class Role(Enum):
    """What a setting is for. Settings without a role are the recipe: they say what is trained, on what data, and how.

    A circumstance may be changed when a run is resumed, and is ignored when the settings of runs are compared. An
    invocation is a circumstance that applies to one start of the program only: a resumed run does not take it over.
    """

    CIRCUMSTANCE = "says where and how a run is carried out and shown"
    INVOCATION = "says which run this is and what to do with it"


LONGEST_RUN_ID = 200  # bytes; file systems take names of 255

PositiveInt = Annotated[int, Range(1)]
Count = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, low_excluded=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Depth = Annotated[int, Range(1, 1000)]  # of layers, one by one in memory
Precision = Literal["no", "bf16", "fp16"]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # of numpy's generators
Decay = Annotated[float, Range(0, 0.99999)]  # of a moving average


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that every run has, whatever its model."""

    model: str = "cnn"
    """Model to train: a key of MODELS in models/registry.py."""
    dataset: str = "cifar10"
    """Images to train on: a key of DATASETS in data/datasets.py, or torchvision/NAME for one of torchvision's,
    or hf/NAME for one in HuggingFace's form; data/README.md has them all."""
    epochs: PositiveInt = 16
    """Passes over the training images; with `patience` there may be fewer. A run that has not finished may be resumed
    with more, unless its schedule or start_size takes a course over all of them."""
    batch_size: PositiveInt = 128
    """Images in one optimizer step, all processes and micro-batches together."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    seed: Seed = 3407
    """Seed of the initial weights, the order of the images, augmentation and dropout."""
    init_from: str = ""
    """Run of the same model, by its id or folder, from whose best weights training starts; layers whose shape depends
    on the classes start at random where there are others. If empty, all weights do, or are pretrained."""

    data_dir: Annotated[str, Role.CIRCUMSTANCE] = ""
    """Folder of the datasets; if empty, $VISION_SWEEPS_DATA, else vision-sweeps in the user's cache folder."""
    data_seed: Seed = 3407
    """Seed of the split into training and validation images; the same seed gives the same split on every machine."""
    train_fraction: Annotated[float, Range(0, 1, low_excluded=True)] = 1.0
    """Share of the training images that is used at all; the validation images are taken out of these."""
    val_fraction: Annotated[float, Range(0, 0.9)] = 0.1
    """Share of the used training images that is held out for validation; 0 for no validation, where images that the
    dataset has for it are trained on."""
    fold: str = ""
    """Fold that is held out to validate with in place of val_fraction, such as 2/5, the second of five, of all images
    that are not to test with; with val_fraction=0 nothing is held out."""
    group_by: str = ""
    """Regular expression that finds in the names of image files what they show, such as patient(\\d+): images of one
    group are never divided between training and validation. A CSV file's column group needs none."""
    label_column: str = ""
    """Column of the labels in a dataset in HuggingFace's form, hf/NAME; if empty, that called label or the only one."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """Images of an epoch. uniform: each once, in random order; balanced: as many, of all classes equally often."""
    test: bool = False
    """Evaluate on the test images too, once, at the end of the run."""
    image_size: Count = 0
    """Side in pixels to which images are resized, for datasets that allow it; 0 for the dataset's own."""
    normalisation: Literal["channel", "symmetric", "unit"] = "channel"
    """Scale of the pixel values. channel: mean 0 and standard deviation 1 in each channel over the training split;
    symmetric: from -1 to 1; unit: from 0 to 1."""
    resident: Annotated[Literal["auto", "device", "host"], Role.CIRCUMSTANCE] = "auto"
    """Where the uint8 images are kept: on the device, or where they are stored, in main memory or in a file, from where
    batches are gathered in the background (host). auto: on the device if they take at most half of its free memory; the
    run says which it is."""
    decode: Annotated[Literal["once", "each"], Role.CIRCUMSTANCE] = "once"
    """Image files are decoded once, and kept so in the cache folder, or, where that takes too much room, each time they
    are used."""
    max_corrupt_images: Annotated[Count, Role.CIRCUMSTANCE] = 10
    """Unreadable image files that are reported and skipped; if a folder has more, the run ends."""

    feature_dir: Annotated[str, Role.CIRCUMSTANCE] = ""
    """Folder in which features from frozen networks are kept, so that they are computed only once; if empty,
    vision-sweeps/features in the user's cache folder."""

    augmentation: Literal["none", "crop_flip", "randaugment", "trivialaugment"] = "none"
    """Random changes to training images. crop_flip: shift by up to 1/8 of the side, and mirror half of the images;
    randaugment, trivialaugment: the same, then operations of that policy, drawn anew for every image."""
    crop_scale: Fraction = 0.0
    """Least area of a random resized crop, as a share of the image, that each training image is replaced by, mirrored
    in half of the cases and antialiased; it takes the place of the shift. 0 for none; ImageNet's is 0.08."""
    crop_ratio: Annotated[float, Range(1, 10)] = 1.333
    """Greatest ratio of the longer to the shorter side of a random resized crop."""
    start_size: Annotated[int, Range(0, 4096)] = 0
    """Side in pixels of training images in the first epoch, for networks that take images of any size; it grows to
    image_size until two thirds of the epochs. 0 for no such progressive resizing."""
    eval_crop: Annotated[float, Range(0.5, 1)] = 1.0
    """Share of the side that is seen in validation, at the centre: images are kept at image_size / eval_crop pixels."""
    rotation: Annotated[float, Range(0, 180)] = 0.0
    """Degrees by which training images are turned at random, at most, to either side."""
    colour_jitter: Fraction = 0.0
    """Greatest random change of the brightness, contrast and saturation of training images: factors of 1 +- that."""
    erasing: Fraction = 0.0
    """Share of the training images in which a random box of 2 to 33 % of the area is blanked out,
    https://arxiv.org/abs/1708.04896. An autoencoder sees such images, but has to draw them whole."""
    cutout: Count = 0
    """Side in pixels of the square that is blanked out, at a random place, in every training image; 0 for none. As with
    `erasing`, an autoencoder has to draw the image whole."""

    optimizer: str = "adam"
    """sgd (with Nesterov momentum), adam, adamw, or the name of any optimizer in timm's factory."""
    momentum: Fraction = 0.9
    """Momentum of sgd, and of those optimizers of timm that have one."""
    beta1: Decay = 0.9
    """adam and adamw: decay of the moving average of the gradients."""
    beta2: Decay = 0.999
    """adam and adamw: decay of the moving average of the squared gradients."""
    weight_decay: NonNegative = 0.0
    """Weight decay: added to the gradient by sgd and adam, decoupled from it in adamw; norms, biases, class
    tokens, positions and codes have none."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """Course of the learning rate. constant: always lr; cosine: from lr down to 0; one_cycle: up to lr in the first
    30 % of the steps, or in warmup_epochs if there are any, then down to 0."""
    warmup_epochs: NonNegative = 0.0
    """Epochs at the start in which the learning rate rises linearly from 0."""
    grad_clip: NonNegative = 0.0
    """Norm to which larger gradients are scaled down; 0 for no clipping."""
    accumulation_steps: PositiveInt = 1
    """Micro-batches into which each step is divided to save memory; the step as a whole still has batch_size images.
    models/README.md tells what else differs."""
    ema_decay: Decay = 0.0
    """Decay per step of a moving average of the weights and running statistics, which is evaluated in place of the
    latest weights; 0 for none. In early steps the decay is lower: 1 - (1 + step)^(-2/3)."""
    best_by: str = ""
    """Loss or metric whose best epoch has its weights kept, tested and uploaded, such as val/accuracy; a goal that its
    name does not tell stands before it: "maximize train/autoencode/perplexity". If empty: the validation loss; for a
    GAN with fid_every the FID, for one without the newest weights."""
    patience: Count = 0
    """Stop if this many epochs in a row have not improved what best_by says; 0 for never."""

    mixed_precision: Precision = "no"
    """Number format of mixed-precision training; by default the one given to `accelerate launch`, if any."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Whether convolutions use the memory layout channels last. auto: for convolutional networks and all of
    timm's, on a GPU or with bf16 on a CPU."""
    compile: bool = False
    """Compile the networks with torch.compile; dropout then draws other values."""
    eval_batch_size: Annotated[PositiveInt, Role.CIRCUMSTANCE] = 500
    """Images that each process evaluates at once."""

    runs_dir: Annotated[str, Role.INVOCATION] = "runs"
    """Folder in which each run gets a folder of its own; by default $VISION_SWEEPS_RUNS, if that is set."""
    run_id: Annotated[str, Role.INVOCATION] = ""
    """Name of the run's folder and its id on W&B; if empty, a new one is made up. If the run exists, it is resumed."""
    resume: Annotated[bool, Role.INVOCATION] = False
    """Resume the run run_id or, if no run_id is given, the latest unfinished run in runs_dir."""
    tracking: Annotated[Literal["auto", "online", "offline", "off"], Role.CIRCUMSTANCE] = "auto"
    """Tracking with W&B. auto: online if there are credentials and a network, else offline; off where WANDB_DISABLED
    is true. The run folder is always written."""
    project: Annotated[str, Role.CIRCUMSTANCE] = "vision-sweeps"
    """W&B project; its default is $WANDB_PROJECT, if that is set."""
    tags: Annotated[str, Role.CIRCUMSTANCE] = ""
    """W&B tags, separated by commas."""
    log_model: Annotated[Literal["auto", "none", "best", "final"], Role.CIRCUMSTANCE] = "auto"
    """Weights that a finished run uploads to W&B as an artifact. best: those of its best epoch; final: those after its
    last epoch; auto: none from the trials of a sweep, best from all other runs."""
    checkpoint_artifact: Annotated[Literal["off", "on"], Role.CIRCUMSTANCE] = "off"
    """on: a run of a W&B sweep that is preempted uploads its checkpoint, and goes on from it on whatever machine W&B
    gives it to; for machines that share no runs_dir."""
    panels_every: Annotated[PositiveInt, Role.CIRCUMSTANCE] = 5
    """Epochs from one rendering of the image panels to the next; they are also rendered after the last epoch."""
    preview: Annotated[int, Range(0, 512), Role.CIRCUMSTANCE] = 32
    """Images of the first batch that are drawn with their labels into panels/training_images.png before the first step,
    as training sees them; 0 for none."""
    log_every: Annotated[Count, Role.CIRCUMSTANCE] = 0
    """Steps from one row about them to the next: step/PHASE/loss and other terms, step/lr, step/PHASE/gradient_norm,
    step/images_per_second; 0 for epochs alone."""
    profile: Annotated[Count, Role.CIRCUMSTANCE] = 0
    """Steps of which torch's profiler writes a trace, trace.json.gz in the run's folder, for ui.perfetto.dev: those
    after the first five, up to the end of the epoch; 0 for none."""
    save_minutes: Annotated[NonNegative, Role.CIRCUMSTANCE] = 30.0
    """Minutes after which the state is saved within an epoch, too, so that a crash or a loss of power costs no more of
    a long one; 0 for at the end of each epoch alone."""
    overfit_batches: Count = 0
    """Batches to which the training images are cut down, for a look at whether the network can learn them by heart; 0
    for all."""
    limit_batches: Count = 0
    """Greatest number of steps in an epoch, for a quick try, and of batches of batch_size images in an evaluation; 0
    for all."""
    stop_after: Annotated[Count, Role.INVOCATION] = 0
    """Epoch after which the run stops with its state saved, to be resumed later; the course of the learning rate still
    ends with `epochs`. 0 for none."""
    dry_run: Annotated[bool, Role.INVOCATION] = False
    """Print the settings, the network and its number of parameters, and do not train."""
    find_lr: Annotated[bool, Role.INVOCATION] = False
    """Find a learning rate by a test of its range, in place of a run: it rises from step to step, and is said and drawn
    where the loss falls steepest."""
    find_batch_size: Annotated[bool, Role.INVOCATION] = False
    """Find a batch size, in place of a run: say the speed and the peak memory of ever larger ones, and which is the
    smallest of almost the greatest speed."""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.runs_dir, self.run_id)

    def __post_init__(self) -> None:
        """Refuse texts that are not of the form that they must have.

        Raises:
            UserError: run_id cannot name a folder and a W&B run, or fold or group_by is not as its text says.
        """
        numbers = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", self.fold)
        if self.fold and not (numbers and int(numbers[1]) <= int(numbers[2]) > 1):
            raise UserError(f"--fold={self.fold} is no fold: write 2/5, for example, for the second of five")
        try:
            re.compile(self.group_by)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(f"--group_by={self.group_by} is no regular expression ({error}): correct it") from None
        if not self.runs_dir:
            raise UserError("--runs_dir is empty: name a folder, or leave it out")
        if self.run_id and not re.fullmatch(r"(?!sweeps$)\w[\w.-]*", self.run_id):
            raise UserError(f"--run_id={self.run_id} names a folder and a W&B run: use letters, digits, - _ and .")
        if len(self.run_id.encode(errors="replace")) > LONGEST_RUN_ID:
            raise UserError(f"--run_id={self.run_id} is longer than {LONGEST_RUN_ID} bytes: shorten it")


class Kind(NamedTuple):
    """The values that a setting may take, and its role."""

    type: Any  # bool, int, float or str
    allowed: Range | tuple[str, ...] | None  # the range of a number, the choices of a text, or None for no limit
    role: Role | None


KINDS: dict[type, Mapping[str, Kind]] = {}  # of the classes that were asked for: as often as there are values to read


def kinds(settings_class: type[Settings]) -> Mapping[str, Kind]:
    """Return the kind of every setting of a class, by name."""
    if settings_class not in KINDS:
        hints = get_type_hints(settings_class, include_extras=True)
        KINDS[settings_class] = {key: kind_of(hint) for key, hint in hints.items()}
    return KINDS[settings_class]


def kind_of(hint: object) -> Kind:
    """Return the kind that a field's type annotation describes."""
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
    """Return the names of the settings with one of these roles; all of them are settings that every run has."""
    return frozenset(key for key, kind in kinds(Settings).items() if kind.role in roles)


INVOCATION = names_of(Role.INVOCATION)
CIRCUMSTANCES = names_of(Role.CIRCUMSTANCE, Role.INVOCATION)
