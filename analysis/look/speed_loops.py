"""Two plain training loops that train.py is compared with: a notebook's, and a bare one that is as fast as it gets."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from analysis.look.timing import seconds
from analysis.look.trained_run import best_device
from analysis.read.recipe import flags
from analysis.record.resume import resolve
from data.dataset import DatasetInfo, Split
from data.errors import UserError
from models.core.objective import Objective, wants_channels_last
from models.core.precision import DTYPES
from models.frozen_backbone import FrozenBackbone
from models.loading import read_data
from models.parts.adversarial import Adversarial
from models.parts.classification import Classification
from models.parts.layers import one_hot
from models.registry import find_model

BATCH_SIZE = 128
LR = 1e-3
# Steps that are timed: a few seconds' worth on two cores.
STEPS = {"mlp": 300, "cnn": 60, "resnet18": 8, "timm": 40}
DEFAULT_STEPS = 20
# Settings that make a model small enough for these, or spare it a download.
OWN: dict[str, dict[str, Any]] = {
    "timm": {"pretrained": False},
    "resnet18_pretrained": {"pretrained": False},
    "vit_b16_finetune": {"pretrained": False},
    "dc_gan": {"width": 32, "discriminator_width": 32},
    "ac_gan": {"width": 48, "discriminator_width": 8},
}

Step = Callable[[Tensor, Tensor], Tensor]  # one step on images and labels; returns its loss


@dataclass(frozen=True)
class Workload:
    """What all loops of a comparison train.

    Attributes:
        model: a key of MODELS.
        precision: of all loops but the notebook's: "no", "bf16" or "fp16".
        data_dir: as for train.py.
        arch: network of a model of timm; "" for the model's own.
        steps: that are timed; None for a few seconds' worth on two cores.
    """

    model: str
    precision: str
    data_dir: str = ""
    arch: str = ""
    steps: int | None = None

    @property
    def num_steps(self) -> int:
        """The number of steps that are timed."""
        return self.steps or STEPS.get(self.model, DEFAULT_STEPS)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that train.py is told, by name."""
        shared = {"mixed_precision": self.precision, "data_dir": self.data_dir, "batch_size": BATCH_SIZE, "lr": LR}
        arch = {"arch": self.arch} if self.arch else {}
        return {"model": self.model, **shared, "val_fraction": 0.0, **OWN.get(self.model, {}), **arch}

    def load(self) -> tuple[Objective, Split]:
        """Return the model, with random weights, and the training images of CIFAR-10.

        Raises:
            UserError: an unknown model or network, CIFAR-10 is missing, or there is no plain loop for such a model.
        """
        settings = resolve(flags(self.settings), {})
        info, splits = read_data(settings)
        objective = find_model(self.model).build(settings, info)
        if isinstance(objective, FrozenBackbone) or not isinstance(objective, (Classification, Adversarial)):
            raise UserError(f"--models={self.model}: the plain loops train classifiers on images and GANs: omit it")
        return objective, splits["train"]


class NotebookImages(torch.utils.data.Dataset):
    """Images as torchvision's CIFAR10 gives them: one PIL image at a time, through its transforms."""

    def __init__(self, split: Split, info: DatasetInfo) -> None:
        from torchvision import transforms

        self.images = split.images.permute(0, 2, 3, 1).numpy()
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(info.mean, info.std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def notebook_batches(split: Split, info: DatasetInfo, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end, as a notebook makes them."""
    loader = torch.utils.data.DataLoader(NotebookImages(split, info), BATCH_SIZE, shuffle=True)
    while True:
        for images, labels in loader:
            yield images.to(device), labels.to(device)


def resident_batches(
    split: Split, info: DatasetInfo, device: torch.device, channels_last: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end, out of images that lie on the device."""
    images = split.images.permute(0, 2, 3, 1) if channels_last else split.images
    images, labels = images.contiguous().to(device), split.labels.to(device)
    mean, std = (255 * torch.tensor(values, device=device).view(3, 1, 1) for values in (info.mean, info.std))
    while True:
        for index in torch.randperm(len(labels), device=device).split(BATCH_SIZE):
            batch = images[index].permute(0, 3, 1, 2) if channels_last else images[index]
            yield batch.float().sub_(mean).div_(std), labels[index]


def classifier_step(objective: Objective, autocast: Callable, is_fused: bool) -> Step:
    """Return the training step of a classifier as a notebook writes it."""
    net = objective.get_submodule("net")
    optimizer = torch.optim.Adam(objective.parameters(), LR, fused=is_fused)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with autocast():
            loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def adversarial_step(gan: Adversarial, autocast: Callable, is_fused: bool) -> Step:
    """Return the training step of a GAN as a notebook writes it that computes no gradients it does not need."""
    generator, discriminator = gan.generator, gan.discriminator
    optimizers = [
        torch.optim.Adam(net.parameters(), LR, (0.5, 0.999), fused=is_fused) for net in (discriminator, generator)
    ]
    score_loss, class_loss = nn.BCEWithLogitsLoss(), nn.CrossEntropyLoss()

    def fakes(labels: Tensor) -> Tensor:
        noise = torch.randn(len(labels), gan.settings.latent_size, device=labels.device)
        return generator(torch.cat([noise, one_hot(labels, gan.num_labels)], dim=1))

    def loss_of(images: Tensor, labels: Tensor, target: float) -> Tensor:
        outputs = discriminator(images).float()
        loss = score_loss(outputs[:, 0], torch.full((len(images),), target, device=images.device))
        return loss + class_loss(outputs[:, 1:], labels) if gan.num_labels else loss

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with autocast():
            with torch.no_grad():
                fake = fakes(labels)
            loss = loss_of(images, labels, 1.0) + loss_of(fake, labels, 0.0)
        loss.backward()
        optimizers[0].step()
        optimizers[0].zero_grad(set_to_none=True)
        discriminator.requires_grad_(False)
        with autocast():
            loss = loss_of(fakes(labels), labels, 1.0)
        loss.backward()
        discriminator.requires_grad_(True)
        optimizers[1].step()
        optimizers[1].zero_grad(set_to_none=True)
        return loss

    return step


def measure_loop(kind: Literal["notebook", "bare"], workload: Workload) -> float:
    """Return the images/s of one of the loops on CIFAR-10, in this process."""
    device = best_device()
    objective, train_split = workload.load()
    objective.to(device)
    autocast: Callable = nullcontext
    if kind == "notebook":
        batches = notebook_batches(train_split, objective.info, device)
    else:
        torch.backends.cudnn.benchmark = True
        channels_last = wants_channels_last(objective.settings, objective, device)
        if channels_last:
            objective.to(memory_format=torch.channels_last)
        if workload.precision != "no":
            autocast = partial(torch.autocast, device.type, DTYPES[workload.precision])
        batches = resident_batches(train_split, objective.info, device, channels_last)
    make_step: Callable = adversarial_step if isinstance(objective, Adversarial) else classifier_step
    step = make_step(objective, autocast, is_fused=kind == "bare")

    def train() -> None:
        for _ in range(workload.num_steps):
            step(*next(batches))

    train()  # the same warm-up as an epoch of train.py
    return workload.num_steps * BATCH_SIZE / seconds(train)
