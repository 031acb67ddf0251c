"""Conditional GAN with an auxiliary classifier (AC-GAN), Odena et al. 2017, https://arxiv.org/abs/1610.09585."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo
from models.core.objective import LOGITS
from models.core.panel import Panel, class_columns
from models.core.settings import NonNegative, PositiveInt, Range
from models.parts.adversarial import FIRST_SIDE, LEAK, Adversarial, AdversarialSettings, count_doublings
from models.parts.layers import check_one_class

NUM_LAYERS = 6  # convolutions of the discriminator; the first, third and fifth halve the side


@dataclass(frozen=True, kw_only=True)
class AcGanSettings(AdversarialSettings):
    """A GAN whose generator gets the class as an input, and whose discriminator predicts it. Sizes as in the paper."""

    batch_size: PositiveInt = 100
    width: PositiveInt = 96
    discriminator_width: PositiveInt = 16
    dropout: Annotated[float, Range(0, 0.95)] = 0.5
    """Dropout after each layer of the discriminator."""
    aux_weight: NonNegative = 1.0
    """Weight of the class predictions' cross-entropy, on real and generated images, which is added to the adversarial
    loss."""


class AcGan(Adversarial):
    """A GAN whose discriminator also predicts the class of real and generated images."""

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
            LOGITS: outputs[:, 1:],
        }

    def predict(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, L] float32 logits
        return self.discriminator(images).float()[:, 1:]

    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        return {"samples_by_class": class_columns(self.pictures_of, self.noise, self.info.classes)}


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return for each image 1 if the discriminator predicts its label and 0 if not, [B].

    Args:
        outputs: the discriminator's, [B, 1 + L]: a score and the logits of the classes.
        labels: [B].
    """
    return (outputs[:, 1:].argmax(dim=1) == labels).float()


def build_generator(inputs: int, width: int, image_size: int) -> nn.Sequential:
    """Build the generator: a linear layer to a 4x4 map, then 5x5 transposed convolutions, which double the side each.

    Batch norm and ReLU come after each convolution but the last, which has a tanh.

    Args:
        inputs: size of the latent and the one-hot label together.
        width: channels of the last hidden layer.
        image_size: side of the images in pixels.
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
    """Build the discriminator: six 3x3 convolutions, three of which halve the side, then a linear layer.

    Leaky ReLU and dropout come after each convolution; all but the first also have batch norm, unless spectral
    normalisation takes its place.
    """
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
    """Build the GAN that `settings` describe.

    Raises:
        UserError: there are fewer than two classes, doubling a 4x4 map does not give the size of the images, or
            settings do not go together.
    """
    check_one_class(info, "an ac_gan", otherwise=", or give --model=dc_gan")
    num_labels = len(info.classes)
    generator = build_generator(settings.latent_size + num_labels, settings.width, info.image_size)
    discriminator = build_discriminator(settings, info.image_size, num_labels)
    return AcGan(generator, discriminator, settings, info, num_labels)
