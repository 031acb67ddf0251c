"""What the generative adversarial networks share: two phases, losses, regularisers, and a watch over collapse."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import ParametrizationList

from data.dataset import Batch, DatasetInfo
from data.errors import UserError
from models.core.objective import Objective, Phase
from models.core.optimization import build_optimizer, parameter_groups
from models.core.panel import NUM_SAMPLES, Panel
from models.core.settings import Decay, Fraction, NonNegative, PositiveFloat, PositiveInt
from models.parts.adversarial_losses import LOSSES, gradient_penalty
from models.parts.diff_augment import parse_policy
from models.parts.layers import one_hot
from models.parts.sampling import SamplingSettings, balanced_labels

FIRST_SIDE = 4  # pixels of the map that a generator begins with
LEAK = 0.2  # slope of the discriminator's leaky ReLU below 0
INITIAL_DEVIATION = 0.02  # of the weights; Radford et al. 2016
NUM_BETWEEN = 10  # images of an interpolation


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings(SamplingSettings):
    """What every generative adversarial network can be told."""

    epochs: PositiveInt = 50
    lr: PositiveFloat = 2e-4
    """Peak learning rate: of the generator, and of a discriminator that has none of its own."""
    discriminator_lr: NonNegative = 0.0
    """Peak learning rate of the discriminator; 0 for that of the generator."""
    beta1: Decay = 0.5
    normalisation: Literal["symmetric"] = "symmetric"
    """Pixel values, in [-1, 1] as a tanh gives them."""
    latent_size: PositiveInt = 100
    """Numbers, drawn from a normal distribution, that an image is made of."""
    width: PositiveInt = 128
    """Channels of the generator's last hidden layer; each layer before it has twice as many."""
    discriminator_width: PositiveInt = 128
    """Channels of the discriminator's first layer; each further one has twice as many."""
    initialisation: Literal["dcgan", "orthogonal"] = "dcgan"
    """Weights at first: normal with deviation 0.02, or orthogonal, https://arxiv.org/abs/1809.11096."""
    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    """Cross-entropy, of which the generator maximises log D, https://arxiv.org/abs/1406.2661, or the hinge loss,
    https://arxiv.org/abs/1705.02894."""
    real_smoothing: Fraction = 0.0
    """Share of the target for real images that goes to "generated": one-sided label smoothing, arXiv 1606.03498."""
    fake_smoothing: Fraction = 0.0
    """Share of the target for generated images that goes to "real": with the other, two-sided label smoothing."""
    spectral_norm: bool = False
    """Spectral normalisation of the discriminator's weights, for its batch norm; https://arxiv.org/abs/1802.05957."""
    r1: NonNegative = 0.0
    """Gamma of the penalty gamma / 2 |gradient|^2 on real images, https://arxiv.org/abs/1801.04406; 0 for none."""
    diffaugment: str = ""
    """Changes to all images that the discriminator sees, any of colour,translation,cutout; arXiv 2006.10738."""
    n_critic: PositiveInt = 1
    """Steps of the discriminator to one of the generator."""


class Adversarial(Objective):
    """A generator and a discriminator, Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661.

    A phase leaves the other's network as it is, running statistics and spectral-norm vectors included. Those of the
    discriminator follow real images alone, on which it is evaluated.

    Args:
        generator: latents and one-hot labels [B, Z + L] -> [B, 3, H, W] in [-1, 1].
        discriminator: [B, 3, H, W] -> [B, 1 + L], scores and class logits.
        settings: losses, regularisers and the optimizers.
        info: the dataset's classes and normalisation.
        num_labels: classes L that images are made of.

    Raises:
        UserError: a policy of DiffAugment is not known, or the loss has no labels to smooth.
    """

    settings: AdversarialSettings
    prefers_channels_last = True
    noise: Tensor

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        settings: AdversarialSettings,
        info: DatasetInfo,
        num_labels: int = 0,
    ) -> None:
        super().__init__()
        if settings.loss == "hinge" and (settings.real_smoothing or settings.fake_smoothing):
            raise UserError("--loss=hinge has no labels to smooth: leave out the smoothing, or give non_saturating")
        self.settings = settings
        self.info = info
        self.num_labels = num_labels
        self.loss = LOSSES[settings.loss]
        self.changes = parse_policy(settings.diffaugment)
        self.best_metric = f"fid_{settings.extractor}_{settings.fid_images}" if settings.fid_every else ""
        for net in (generator, discriminator):
            initialise(net, settings.initialisation)
        if settings.spectral_norm:
            for module in list(discriminator.modules()):
                if isinstance(module, nn.Conv2d | nn.Linear):
                    spectral_norm(module)
        self.generator = generator
        self.discriminator = discriminator
        noise = torch.randn(NUM_SAMPLES, settings.latent_size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)  # of the panels, whatever the run's seed

    def phases(self) -> tuple[Phase, ...]:
        settings = self.settings
        own = replace(settings, lr=settings.discriminator_lr or settings.lr)
        discriminator = build_optimizer(parameter_groups(self.discriminator, own.weight_decay), own)
        generator = build_optimizer(parameter_groups(self.generator, settings.weight_decay), settings)
        return Phase("discriminate", discriminator), Phase("generate", generator, every=settings.n_critic)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        return {"discriminate": self.discriminate, "generate": self.generate}[phase](batch)

    def discriminate(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of the discriminator."""
        gamma, images = self.settings.r1, batch.images
        with torch.no_grad(), fixed_statistics(self.generator):
            fakes = self.draw(batch.labels)
        if gamma:
            images = images.detach().requires_grad_()
        real = self.look(images)
        with fixed_statistics(self.discriminator):
            fake = self.look(fakes)
        terms = self.discriminator_terms(real, fake, batch.labels)
        if gamma:
            penalty = gradient_penalty(real[:, 0], images)
            terms = {**terms, "loss": terms["loss"] + gamma / 2 * penalty, "r1": penalty}
        return terms

    def discriminator_terms(self, real: Tensor, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss terms of the discriminator's outputs [B, 1 + L] for real and generated images of these labels [B]."""
        settings, real, fake = self.settings, real[:, 0], fake[:, 0]
        loss = self.loss.real(real, settings.real_smoothing) + self.loss.fake(fake, settings.fake_smoothing)
        return {
            "loss": loss.mean(),
            "real_score": real.mean(),
            "fake_score": fake.mean(),
            "told_apart": torch.cat([real > 0, fake < 0]).float().mean(),
        }

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of the generator."""
        fakes = self.draw(batch.labels)
        with fixed_statistics(self.discriminator):
            return self.generator_terms(self.look(fakes), batch.labels)

    def generator_terms(self, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss terms of the discriminator's outputs [B, 1 + L] for generated images of these labels [B]."""
        return {"loss": self.loss.generator(fake[:, 0]).mean()}

    def draw(self, labels: Tensor) -> Tensor:
        """Fresh images of labels [B]: [B, 3, H, W] in [-1, 1]."""
        latents = torch.randn(len(labels), self.settings.latent_size, device=labels.device)
        return self.make(latents, labels)

    def make(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images of latents [B, Z] and labels [B]: [B, 3, H, W] in [-1, 1]."""
        return self.generator(torch.cat([latents, one_hot(labels, self.num_labels)], dim=1))

    def look(self, images: Tensor) -> Tensor:
        """The discriminator's outputs for images [B, 3, H, W], changed by DiffAugment: [B, 1 + L] float32."""
        for change in self.changes:
            images = change(images)
        return self.discriminator(images).float()

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.discriminator(batch.images).float()[:, 0]
        return {"loss": self.loss.real(scores, 0.0), "real_score": scores}

    @torch.no_grad()
    def sample(self, num: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Images [num, 3, H, W] in [0, 1] of labels [num], by default in turn from the seed on."""
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(num, self.settings.latent_size, generator=generator).to(self.noise.device)
        labels = balanced_labels(num, self.num_labels, seed) if labels is None else labels
        return self.pictures_of(latents, labels.to(latents.device))

    def pictures_of(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images of latents [N, Z] and labels [N]: [N, 3, H, W] in [0, 1]."""
        return self.info.to_unit_range(self.make(latents, labels).float())

    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        return {"samples": Panel(self.pictures_of(self.noise, torch.zeros(NUM_SAMPLES, device=self.noise.device)))}

    def closing_panels(self) -> dict[str, Panel]:
        return {"interpolations": self.interpolations()}

    def interpolations(self) -> Panel:
        """Rows of images from one latent to another, by way of latents as long as those drawn."""
        num = max(8, min(self.num_labels, NUM_SAMPLES // 2))
        start, end = (latents.unsqueeze(1) for latents in self.noise[: 2 * num].unflatten(0, (num, 2)).unbind(1))
        angle = torch.linspace(0, torch.pi / 2, NUM_BETWEEN, device=start.device).view(1, -1, 1)
        latents = angle.cos() * start + angle.sin() * end  # [num, NUM_BETWEEN, Z]
        labels = torch.arange(num, device=start.device).remainder(max(1, self.num_labels))
        images = self.pictures_of(latents.flatten(0, 1), labels.repeat_interleave(NUM_BETWEEN))
        return Panel(images, columns=NUM_BETWEEN)


@contextmanager
def fixed_statistics(net: nn.Module) -> Iterator[None]:
    """Let a network normalise as in training, but leave its running statistics and spectral-norm vectors alone."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    spectral = [part for module in net.modules() if isinstance(module, ParametrizationList) for part in module]
    for norm in norms:
        norm.track_running_stats = False
    for part in spectral:
        part.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for part in spectral:
            part.training = net.training


def initialise(net: nn.Module, how: str) -> None:
    """Draw the weights of a network, see the setting `initialisation`; biases begin at 0, batch norms near 1."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, INITIAL_DEVIATION)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if how == "orthogonal":
                nn.init.orthogonal_(module.weight)
            else:
                nn.init.normal_(module.weight, 0.0, INITIAL_DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def count_doublings(image_size: int) -> int:
    """How often a map of 4x4 is doubled to the size of the images.

    Raises:
        UserError: no number of times gives that size.
    """
    doublings = (image_size // FIRST_SIDE).bit_length() - 1
    if doublings < 1 or FIRST_SIDE << doublings != image_size:
        raise UserError(f"{image_size}-pixel images cannot be made by doubling 4x4: give --image_size=32, 64 or 128")
    return doublings
