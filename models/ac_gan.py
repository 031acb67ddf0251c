"""GAN of images and labels with an auxiliary classifier, Odena et al. 2017, https://arxiv.org/abs/1610.09585."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo
from models.core.panel import Panel, class_columns
from models.core.settings import NonNegative, PositiveInt, Range
from models.parts.adversarial import FIRST_SIDE, LEAK, Adversarial, AdversarialSettings, count_doublings
from models.parts.layers import check_classes

NUM_LAYERS = 6  # of the discriminator, the odd ones of which halve the side


@dataclass(frozen=True, kw_only=True)
class AcGanSettings(AdversarialSettings):
    """The generator is told the class; the discriminator tells it, too. Sizes are those of the paper for CIFAR-10."""

    batch_size: PositiveInt = 100
    width: PositiveInt = 96
    discriminator_width: PositiveInt = 16
    dropout: Annotated[float, Range(0, 0.95)] = 0.5
    """Dropout after each layer of the discriminator."""
    aux_weight: NonNegative = 1.0
    """Weight of the class's cross-entropy beside the adversarial loss, on real and on generated images."""


class AcGan(Adversarial):
    """A GAN whose discriminator has a head for the class of real and generated images."""

    settings: AcGanSettings

    def discriminator_terms(self, real: Tensor, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        terms = super().discriminator_terms(real, fake, labels)
        cross_entropy = F.cross_entropy(real[:, 1:], labels)
        loss = terms["loss"] + self.settings.aux_weight * (cross_entropy + F.cross_entropy(fake[:, 1:], labels))
        return {**terms, "loss": loss, "cross_entropy": cross_entropy, "accuracy": accuracy(real, labels).mean()}

    def generator_terms(self, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        terms = super().generator_terms(fake, labels)
        cross_entropy = F.cross_entropy(fake[:, 1:], labels)
        loss = terms["loss"] + self.settings.aux_weight * cross_entropy
        return {**terms, "loss": loss, "cross_entropy": cross_entropy}

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.discriminator(batch.images).float()
        adversarial = self.loss.real(outputs[:, 0], 0.0)
        cross_entropy = F.cross_entropy(outputs[:, 1:], batch.labels, reduction="none")
        return {
            "loss": adversarial + self.settings.aux_weight * cross_entropy,
            "real_score": outputs[:, 0],
            "cross_entropy": cross_entropy,
            "accuracy": accuracy(outputs, batch.labels),
        }

    def predict(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, L] float32 logits
        return self.discriminator(images).float()[:, 1:]

    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        return {"samples_by_class": class_columns(self.pictures_of, self.noise, self.info.classes)}


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether the class head of outputs [B, 1 + L] is right about labels [B]: [B] of 0 and 1."""
    return (outputs[:, 1:].argmax(dim=1) == labels).float()


def build_generator(inputs: int, width: int, image_size: int) -> nn.Sequential:
    """Linear and ReLU to a 4x4 map, then transposed convolutions 5x5, each of which doubles the side, BN and ReLU.

    Args:
        inputs: numbers that an image is made of, those of its label included.
        width: channels of the last hidden layer.
        image_size: pixels.
    """
    channels = [width << i for i in reversed(range(count_doublings(image_size)))]
    layers: list[nn.Module] = [
        nn.Linear(inputs, channels[0] * FIRST_SIDE**2),
        nn.Unflatten(1, (channels[0], FIRST_SIDE, FIRST_SIDE)),
        nn.ReLU(),
    ]
    for before, after in zip(channels, channels[1:], strict=False):
        convolution = nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 5, stride=2, padding=2, output_padding=1), nn.Tanh())


def build_discriminator(settings: AcGanSettings, image_size: int, num_labels: int) -> nn.Sequential:
    """Six convolutions 3x3 with BN, leaky ReLU and dropout, of which three halve the side, then linear."""
    layers: list[nn.Module] = []
    channels = [3, *(settings.discriminator_width << i for i in range(NUM_LAYERS))]
    for i, (before, after) in enumerate(zip(channels, channels[1:], strict=False)):
        has_batch_norm = i > 0 and not settings.spectral_norm
        layers += [nn.Conv2d(before, after, 3, stride=2 - i % 2, padding=1, bias=not has_batch_norm)]
        layers += [nn.BatchNorm2d(after)] if has_batch_norm else []
        layers += [nn.LeakyReLU(LEAK), nn.Dropout(settings.dropout)]
    side = -(-image_size // 8)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * side**2, 1 + num_labels))


def build(settings: AcGanSettings, info: DatasetInfo) -> AcGan:
    """The networks that `settings` describe.

    Raises:
        UserError: fewer than two classes, images of another size than a doubled 4x4, or settings that do not go
            together.
    """
    check_classes(info, "an ac_gan", otherwise=", or give --model=dc_gan")
    num_labels = len(info.classes)
    generator = build_generator(settings.latent_size + num_labels, settings.width, info.image_size)
    discriminator = build_discriminator(settings, info.image_size, num_labels)
    return AcGan(generator, discriminator, settings, info, num_labels)
