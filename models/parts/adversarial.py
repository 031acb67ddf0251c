"""What all generative adversarial networks (GANs) share: settings, two phases of training, regularisers and samples."""

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
from models.core.objective import Objective, Phase, compile_net
from models.core.optimization import optimizer_of
from models.core.panel import NUM_SAMPLES, Panel
from models.core.settings import Decay, Fraction, NonNegative, PositiveFloat, PositiveInt
from models.parts.adversarial_losses import LOSSES, gradient_penalty
from models.parts.diff_augment import parse_policy
from models.parts.layers import one_hot
from models.parts.sampling import SamplingSettings, balanced_labels

FIRST_SIDE = 4  # side of a generator's first map, in pixels
LEAK = 0.2  # slope of the discriminator's leaky ReLU below 0
INITIAL_DEVIATION = 0.02  # of the weights; Radford et al. 2016, https://arxiv.org/abs/1511.06434
POWER_ITERATIONS = 15  # that find the vectors of spectral norm for weights near those that they belong to
NUM_BETWEEN = 10  # images in each row of the panel of interpolations


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings(SamplingSettings):
    """The settings of all generative adversarial networks."""

    epochs: PositiveInt = 50
    lr: PositiveFloat = 2e-4
    """Peak learning rate of the generator and, unless discriminator_lr is set, of the discriminator."""
    discriminator_lr: NonNegative = 0.0
    """Peak learning rate of the discriminator; 0 for the generator's."""
    beta1: Decay = 0.5
    normalisation: Literal["symmetric"] = "symmetric"
    """Scale of the pixel values: from -1 to 1, because the generator ends in a tanh."""
    latent_size: PositiveInt = 100
    """Size of the latent vector, normally distributed, from which the generator makes an image."""
    width: PositiveInt = 128
    """Channels of the generator's last hidden layer; each layer before it has twice as many."""
    discriminator_width: PositiveInt = 128
    """Channels of the discriminator's first layer; each further one has twice as many."""
    initialisation: Literal["dcgan", "orthogonal"] = "dcgan"
    """Initial weights. dcgan: normally distributed with standard deviation 0.02; orthogonal: random orthogonal
    matrices, https://arxiv.org/abs/1809.11096."""
    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    """Adversarial loss. non_saturating: cross-entropy, with a generator that maximises log D,
    https://arxiv.org/abs/1406.2661; hinge: the hinge loss, https://arxiv.org/abs/1705.02894."""
    real_smoothing: Fraction = 0.0
    """Label smoothing of real images: share of their target that is moved to "generated",
    https://arxiv.org/abs/1606.03498."""
    fake_smoothing: Fraction = 0.0
    """Label smoothing of generated images: share of their target that is moved to "real"."""
    spectral_norm: bool = False
    """Use spectral normalisation of the discriminator's weights in place of its batch norm,
    https://arxiv.org/abs/1802.05957."""
    r1: NonNegative = 0.0
    """Gamma of the penalty gamma / 2 |gradient|^2 on real images, https://arxiv.org/abs/1801.04406; 0 for none."""
    diffaugment: str = ""
    """Random changes to all images that the discriminator sees: any of colour, translation and cutout, separated by
    commas; https://arxiv.org/abs/2006.10738."""
    n_critic: PositiveInt = 1
    """Steps of the discriminator for each step of the generator."""


class Adversarial(Objective):
    """A generative adversarial network, Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661.

    Training alternates between two phases: one for the discriminator, one for the generator. A phase changes nothing in
    the other network, not even its running statistics and spectral-norm vectors. The discriminator's own are computed
    from real images alone, because it is evaluated on real images.

    Args:
        generator: network from latents joined with one-hot labels, [B, Z + L], to images [B, 3, H, W] in [-1, 1].
        discriminator: network from images [B, 3, H, W] to [B, 1 + L]: a score and the logits of L classes.
        settings: losses, regularisers and the optimizers.
        info: the dataset's facts.
        num_labels: number L of classes that images can be asked for; 0 for a GAN without labels.

    Raises:
        UserError: a policy of DiffAugment is not known, or label smoothing is set with a loss that has no labels.
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
        super().__init__(settings, info)
        if settings.loss == "hinge" and (settings.real_smoothing or settings.fake_smoothing):
            raise UserError("--loss=hinge has no labels to smooth: leave out the smoothing, or give non_saturating")
        self.num_labels = num_labels
        self.latent_size = settings.latent_size
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
        self.register_buffer("noise", noise, persistent=False)  # for the panels, the same in all runs

    @torch.no_grad()
    def mend_average(self, live: Objective) -> None:
        """Compute the vectors of spectral norm for the averaged weights: their own averages are shorter than 1.

        By power iteration, from the live model's vectors on.
        """
        both = ([net for net in model.modules() if isinstance(net, ParametrizationList)] for model in (self, live))
        for own, other in zip(*both, strict=True):
            for vector, newest in zip(own.buffers(), other.buffers(), strict=True):
                vector.copy_(newest)
            own.train()
            for _ in range(POWER_ITERATIONS):
                own()
            own.train(self.training)

    def compile_nets(self) -> None:
        compile_net(self.generator)
        if not self.settings.r1:  # whose gradient of a gradient a compiled network has not
            compile_net(self.discriminator)

    def phases(self) -> tuple[Phase, ...]:
        settings = self.settings
        for name in ("cutout", "erasing"):
            if value := getattr(settings, name):
                fault = f"--{name}={value} would teach the generator to draw what is blanked out"
                raise UserError(f"{fault}: leave it out, or give --diffaugment=cutout")
        own = replace(settings, lr=settings.discriminator_lr or settings.lr)
        generator = Phase("generate", optimizer_of(self.generator, settings), every=settings.n_critic)
        return Phase("discriminate", optimizer_of(self.discriminator, own)), generator

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        return {"discriminate": self.discriminate, "generate": self.generate}[phase](batch)

    def discriminate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of the discriminator's phase."""
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
        """Return the discriminator's loss terms.

        Args:
            real: the discriminator's outputs for real images, [B, 1 + L].
            fake: its outputs for generated images, [B, 1 + L].
            labels: the labels of both, [B].
        """
        settings, real, fake = self.settings, real[:, 0], fake[:, 0]
        loss = self.loss.real(real, settings.real_smoothing) + self.loss.fake(fake, settings.fake_smoothing)
        return {
            "loss": loss.mean(),
            "real_score": real.mean(),
            "fake_score": fake.mean(),
            "told_apart": torch.cat([real > 0, fake < 0]).float().mean(),
        }

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of the generator's phase."""
        fakes = self.draw(batch.labels)
        with fixed_statistics(self.discriminator):
            return self.generator_terms(self.look(fakes), batch.labels)

    def generator_terms(self, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the generator's loss terms.

        Args:
            fake: the discriminator's outputs for generated images, [B, 1 + L].
            labels: the labels of these images, [B].
        """
        return {"loss": self.loss.generator(fake[:, 0]).mean()}

    def draw(self, labels: Tensor) -> Tensor:
        """Generate images of labels [B] from random latents: [B, 3, H, W] in [-1, 1]."""
        latents = torch.randn(len(labels), self.settings.latent_size, device=labels.device)
        return self.make(latents, labels)

    def make(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Generate images from latents [B, Z] and labels [B]: [B, 3, H, W] in [-1, 1]."""
        return self.generator(torch.cat([latents, one_hot(labels, self.num_labels)], dim=1))

    def look(self, images: Tensor) -> Tensor:
        """Return what the discriminator makes of images: a score and the logits of L classes for each.

        Real and generated images alike are first changed at random, if the setting `diffaugment` says so.

        Args:
            images: [B, 3, H, W] in [-1, 1].

        Returns:
            [B, 1 + L] float32.
        """
        for change in self.changes:
            images = change(images)
        return self.discriminator(images).float()

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.discriminator(batch.images).float()[:, 0]
        return {"loss": self.loss.real(scores, 0.0), "real_score": scores}

    @torch.no_grad()
    def sample(self, num: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Sample images [num, 3, H, W] in [0, 1]; see `models.core.abilities.Samples`."""
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(num, self.settings.latent_size, generator=generator).to(self.noise.device)
        labels = balanced_labels(num, self.num_labels, seed) if labels is None else labels
        return self.pictures_of(latents, labels.to(latents.device))

    def pictures_of(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Generate images from latents [N, Z] and labels [N]: [N, 3, H, W] in [0, 1]."""
        return self.info.to_unit_range(self.make(latents, labels).float())

    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        return {"samples": Panel(self.pictures_of(self.noise, torch.zeros(NUM_SAMPLES, device=self.noise.device)))}

    def closing_panels(self) -> dict[str, Panel]:
        """Return a panel whose rows go from one image to another, by interpolation between their latents.

        The latents between are combined with cosine and sine, so that they are about as long as random latents.
        """
        num = max(8, min(self.num_labels, NUM_SAMPLES // 2))
        start, end = (latents.unsqueeze(1) for latents in self.noise[: 2 * num].unflatten(0, (num, 2)).unbind(1))
        angle = torch.linspace(0, torch.pi / 2, NUM_BETWEEN, device=start.device).view(1, -1, 1)
        latents = angle.cos() * start + angle.sin() * end  # [num, NUM_BETWEEN, Z]
        labels = torch.arange(num, device=start.device).remainder(max(1, self.num_labels))
        images = self.pictures_of(latents.flatten(0, 1), labels.repeat_interleave(NUM_BETWEEN))
        return {"interpolations": Panel(images, columns=NUM_BETWEEN)}


@contextmanager
def fixed_statistics(net: nn.Module) -> Iterator[None]:
    """Keep a network's running statistics and spectral-norm vectors unchanged for as long as the context lasts.

    Batch norm still normalises with the statistics of the batch, as in training.
    """
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
    """Draw the initial weights of a network.

    Biases are set to 0, and the scales of batch norms are drawn from around 1.

    Args:
        net: the network.
        how: a value of the setting `initialisation`.
    """
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
    """Return how often the side of a 4x4 map must be doubled to give images of this size.

    Raises:
        UserError: doubling cannot give this size.
    """
    doublings = (image_size // FIRST_SIDE).bit_length() - 1
    if doublings < 1 or FIRST_SIDE << doublings != image_size:
        raise UserError(f"{image_size}-pixel images cannot be made by doubling 4x4: give --image_size=32, 64 or 128")
    return doublings
