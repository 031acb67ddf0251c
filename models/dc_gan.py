"""Deep convolutional GAN, Radford et al. 2016, https://arxiv.org/abs/1511.06434.

Its authors' Torch code: https://github.com/soumith/dcgan.torch.
"""

from dataclasses import dataclass

from torch import nn

from data.dataset import DatasetInfo
from models.parts.adversarial import FIRST_SIDE, LEAK, Adversarial, AdversarialSettings, count_doublings


@dataclass(frozen=True, kw_only=True)
class DcGanSettings(AdversarialSettings):
    """DCGAN with the paper's widths; 4x4 kernels and normally distributed latents are those of its Torch code."""


def build_generator(inputs: int, width: int, image_size: int) -> nn.Sequential:
    """Build the generator: a linear layer to a 4x4 map, then 4x4 transposed convolutions, which double the side each.

    Batch norm and ReLU come before each convolution, a tanh after the last one.

    Args:
        inputs: size of the latent.
        width: channels of the last hidden layer.
        image_size: side of the images in pixels.
    """
    channels = [width << i for i in reversed(range(count_doublings(image_size)))]
    layers: list[nn.Module] = [
        nn.Linear(inputs, channels[0] * FIRST_SIDE**2, bias=False),
        nn.Unflatten(1, (channels[0], FIRST_SIDE, FIRST_SIDE)),
    ]
    for before, after in zip(channels, channels[1:], strict=False):
        convolution = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
        layers += [nn.BatchNorm2d(before), nn.ReLU(), convolution]
    last = nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1)
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), last, nn.Tanh())


def build_discriminator(width: int, image_size: int, has_batch_norm: bool) -> nn.Sequential:
    """Build the discriminator: 4x4 convolutions, each of which halves the side until it is 4, then a linear layer.

    Batch norm and leaky ReLU come after each convolution.

    Args:
        width: channels of the first layer, which never has batch norm.
        image_size: side of the images in pixels.
        has_batch_norm: whether the other layers have batch norm.
    """
    channels = [width << i for i in range(count_doublings(image_size))]
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]
    for before, after in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=not has_batch_norm)]
        layers += [nn.BatchNorm2d(after)] if has_batch_norm else []
        layers += [nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * FIRST_SIDE**2, 1))


def build(settings: DcGanSettings, info: DatasetInfo) -> Adversarial:
    """Build the GAN that `settings` describe.

    Raises:
        UserError: doubling a 4x4 map does not give the size of the images, or settings do not go together.
    """
    generator = build_generator(settings.latent_size, settings.width, info.image_size)
    discriminator = build_discriminator(settings.discriminator_width, info.image_size, not settings.spectral_norm)
    return Adversarial(generator, discriminator, settings, info)
