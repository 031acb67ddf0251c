"""Deep convolutional GAN, Radford et al. 2016, https://arxiv.org/abs/1511.06434.

Its authors' Torch code: https://github.com/soumith/dcgan.torch.
"""

from dataclasses import dataclass

from torch import nn

from data.dataset import DatasetInfo
from models.parts.adversarial import FIRST_SIDE, LEAK, Adversarial, AdversarialSettings, count_doublings


@dataclass(frozen=True, kw_only=True)
class DcGanSettings(AdversarialSettings):
    """Strided convolutions and batch norm of the paper's widths; 4x4 kernels, normal latents as in its Torch code."""


def build_generator(inputs: int, width: int, image_size: int) -> nn.Sequential:
    """Linear to a 4x4 map, then transposed convolutions 4x4, each of which doubles the side; BN and ReLU between.

    Args:
        inputs: numbers that an image is made of.
        width: channels of the last hidden layer.
        image_size: pixels.
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
    """Convolutions 4x4, each of which halves the side down to 4, BN and leaky ReLU between, then linear.

    Args:
        width: channels of the first layer, which has no batch norm.
        image_size: pixels.
        has_batch_norm: whether the others have.
    """
    channels = [width << i for i in range(count_doublings(image_size))]
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]
    for before, after in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=not has_batch_norm)]
        layers += [nn.BatchNorm2d(after)] if has_batch_norm else []
        layers += [nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * FIRST_SIDE**2, 1))


def build(settings: DcGanSettings, info: DatasetInfo) -> Adversarial:
    """The networks that `settings` describe.

    Raises:
        UserError: images of another size than a doubled 4x4, or settings that do not go together.
    """
    generator = build_generator(settings.latent_size, settings.width, info.image_size)
    has_batch_norm = not settings.spectral_norm
    discriminator = build_discriminator(settings.discriminator_width, info.image_size, has_batch_norm)
    return Adversarial(generator, discriminator, settings, info)
