"""The share of a device's matrix rate that training reaches, model by model.

What is counted are the floating-point operations of matrix products, convolutions, attention and LSTM layers, forward
and backward, an addition and a multiplication each: those that a device does at its matrix rate. All else is left out:
norms, activations, softmax, pooling, random numbers, augmentation, optimizers but for their matrix products.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from analysis.look.timing import seconds
from analysis.look.trained_run import best_device
from analysis.read.recipe import flags
from analysis.record.resume import resolve
from data.dataset import DatasetInfo, Split, pixel_statistics
from data.errors import UserError
from data.internals import cpu_attention_kernels, lstm_kernels
from models.core.checkpoint import Progress
from models.core.precision import DTYPES
from models.core.processes import StopRequest
from models.core.settings import Settings, kinds
from models.core.training import Trainer
from models.loading import build_objective, make_accelerator, put_on_device
from models.registry import find_model

NUM_CLASSES = 10
IMAGE_SIZE = 32  # pixels, where the settings say nothing else: CIFAR-10's
NUM_IMAGES = 8192
SIDES = {"cpu": 2048}  # of the matrices that are multiplied; elsewhere:
SIDE = 8192
NUM_PRODUCTS = 10  # the fastest counts
OF_MATRICES = {"no": torch.float32, **DTYPES}
MOST_SECONDS = 4.0  # of a step at the matrix rate; batches that would take longer are halved
EPOCH_SECONDS = 0.25  # at the matrix rate, after which an epoch of these images ends
MOST_STEPS = 64  # of such an epoch
LEAST_SECONDS = 0.5  # that are measured


@dataclass(frozen=True)
class Roofline:
    """How fast a model trains, and how much it computes.

    Attributes:
        batch_size: images of a step.
        flops: floating-point operations for each image, see above.
        rate: images/s.
    """

    batch_size: int
    flops: float
    rate: float


def compare_with_matrix_rate(models: Sequence[str], precision: str, words: Sequence[str]) -> Iterator[str]:
    """Measure every model in turn on random images, and yield the lines of a table as soon as they are known.

    Args:
        models: keys of MODELS.
        precision: "no", "bf16" or "fp16".
        words: further settings of all of them, as train.py is told them.

    Raises:
        UserError: an unknown model or setting, or the device cannot compute in that precision.
    """
    device = best_device()
    all_settings = [settings_of(model, precision, words) for model in models]
    make_accelerator(all_settings[0], device.type == "cpu")  # or say at once that the precision cannot be had
    limit, side = matrix_rate(device, OF_MATRICES[precision])
    name = str(OF_MATRICES[precision]).removeprefix("torch.")
    if device.type == "cuda" and precision == "no" and torch.backends.cudnn.allow_tf32:
        name += ", which may be rounded to TF32, as convolutions are"
    yield f"matrix rate of this {device.type}: {limit / 1e9:,.0f} GFLOP/s, two {side}x{side} matrices of {name}"
    yield f"{'model':<20}{'batch':>7}{'GFLOP/image':>14}{'images/s':>12}{'at that rate':>14}{'share':>10}"
    for settings in all_settings:
        try:
            own = measure_training(settings, device, limit)
        except UserError as error:
            yield f"{settings.model:<20} {error}"
            continue
        most = limit / own.flops
        speeds = f"{own.flops / 1e9:>14.4g}{own.rate:>12,.0f}{most:>14,.0f}{100 * own.rate / most:>8.3g} %"
        yield f"{settings.model:<20}{own.batch_size:>7}{speeds}"


def settings_of(model: str, precision: str, words: Sequence[str]) -> Settings:
    """Return the settings of a model as they are by default, but for random weights in place of downloaded ones."""
    told = {"model": model, "mixed_precision": precision}
    if "pretrained" in kinds(find_model(model).settings_class):
        told["pretrained"] = "False"
    return resolve([*flags(told), *words], {})


def matrix_rate(device: torch.device, dtype: torch.dtype) -> tuple[float, int]:
    """Return the floating-point operations a second of a product of two large matrices, and their side."""
    side = SIDES.get(device.type, SIDE)
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    with tf32_as_in_convolutions():
        times = [seconds(lambda: first @ second) for _ in range(1 + NUM_PRODUCTS)]
    return 2 * side**3 / min(times[1:]), side


@contextmanager
def tf32_as_in_convolutions() -> Iterator[None]:
    """Let products of fp32 matrices use TF32 where convolutions may, as training's do: else they exceed the rate."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def measure_training(settings: Settings, device: torch.device, limit: float) -> Roofline:
    """Train a model for some steps on random images, or features of the kind that it trains on.

    Args:
        settings: of the model.
        device: that it trains on.
        limit: the device's matrix rate, operations a second.
    """
    trainer, num_images = make_trainer(settings, device)
    batch_size, stop = trainer.batch_size, StopRequest()

    def train(num_steps: int, batch_size: int) -> None:
        trainer.progress, trainer.steps_per_epoch, trainer.batch_size = Progress(), num_steps, batch_size
        trainer.train_epoch(stop)

    def count(batch_size: int) -> float:
        num_steps = max(phase.every for phase in trainer.phases)
        return count_flops(lambda: train(num_steps, batch_size)) / (num_steps * batch_size)

    most = MOST_SECONDS * limit / count(2)
    while batch_size > max(2, most):
        batch_size = max(2, batch_size // 2)
    flops = count(batch_size)
    num_steps = int(EPOCH_SECONDS * limit / (flops * batch_size))
    num_steps = max(1, min(max(2, num_steps), MOST_STEPS, num_images // batch_size))
    train(num_steps, batch_size)
    epochs: list[float] = []
    while sum(epochs) < LEAST_SECONDS:
        epochs.append(seconds(lambda: train(num_steps, batch_size)))
    return Roofline(batch_size, flops, len(epochs) * num_steps * batch_size / sum(epochs))


def make_trainer(settings: Settings, device: torch.device) -> tuple[Trainer, int]:
    """Return what trains a model on random images with random labels, and the number of images."""
    num, size = max(NUM_IMAGES, settings.batch_size), settings.image_size or IMAGE_SIZE
    split = Split(torch.randint(256, (num, 3, size, size), dtype=torch.uint8), torch.arange(num) % NUM_CLASSES)
    classes = tuple(map(str, range(NUM_CLASSES)))
    counts = (num // NUM_CLASSES,) * NUM_CLASSES
    statistics = pixel_statistics(settings.normalisation, split)
    info = DatasetInfo("random images", size, classes, *statistics, {"train": num}, "", class_counts=counts)
    accelerator = make_accelerator(settings, device.type == "cpu")
    objective = build_objective(settings, info)
    shape = objective.input_shape()
    if len(shape) == 1:
        split = split._replace(features=torch.randn(num, 1, *shape))
        objective.prepare = lambda splits, *_: splits  # type: ignore[method-assign]  # features are there
    return Trainer(settings, accelerator, objective, put_on_device(objective, {"train": split}, accelerator)), num


def count_flops(work: Callable[[], object]) -> int:
    """Return the floating-point operations of some work: those that `FlopCounterMode` counts, and of `FORMULAS`."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the counter sees this thread alone
    try:
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            work()
    finally:
        torch.set_num_threads(num_threads)
    return counter.get_total_flops()


def lstm_flops(inputs: Sequence[int], *others: Any, **_: Any) -> int:
    """Return the operations of LSTM layers: every weight takes part in a product for every token of the sequence.

    Args:
        inputs: [T, B, D] or [B, T, D], a shape, as are the others.
        others: what the layers are told; of these, the weights [outputs, inputs] alone have two dimensions, be they
            given one by one, as on a CPU, or as a list.
    """
    weights = others[0] if isinstance(others[0], list) else others[:2]
    return 2 * inputs[0] * inputs[1] * sum(math.prod(shape) for shape in weights if len(shape) == 2)


def lstm_backward_flops(*shapes: Any, **_: Any) -> int:
    """Return the operations of the gradients of LSTM layers: of their inputs and of their weights."""
    return 2 * lstm_flops(*shapes)


def convolution_backward_flops(
    gradient: Sequence[int], images: Sequence[int], weight: Sequence[int], *others: Any, **_: Any
) -> int:
    """Return the operations of a convolution's gradients: for images and for weights each as many as forward.

    torch's own formula takes the groups of a grouped convolution for one.

    Args:
        gradient: [B, outputs, H', W'], a shape, as are the others.
        images: [B, inputs, H, W].
        weight: [outputs, inputs / groups, kernel, kernel]; of a transposed convolution [inputs, outputs / groups, ...].
        others: of `aten::convolution_backward`: fifth whether it is transposed, eighth which gradients to compute.
    """
    places = images if others[4] else gradient
    return 2 * sum(others[7][:2]) * places[0] * math.prod(places[2:]) * math.prod(weight)


# Of shapes [B, heads, T, D], forward and backward; the gradients compute the weights once more.
ATTENTION = (
    lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
    lambda gradient, query, key, value, *_, **__: sdpa_backward_flop_count(gradient, query, key, value),
)
# Beside those of FlopCounterMode, which knows neither LSTM layers nor the attention of CPUs.
FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.convolution_backward: convolution_backward_flops,
    **dict(zip(lstm_kernels(), 2 * (lstm_flops, lstm_backward_flops), strict=True)),
    **dict(zip(cpu_attention_kernels(), ATTENTION, strict=True)),
}
