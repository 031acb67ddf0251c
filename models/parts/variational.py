"""What all variational autoencoders (VAEs) share: settings, convolutional encoder and decoder, the ELBO and panels."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo
from data.loader import Loader, Shard
from models.core.objective import Objective, Phase
from models.core.optimization import optimizer_of
from models.core.panel import NUM_SAMPLES, Panel, class_columns, side_by_side
from models.core.settings import Depth, NonNegative, PositiveInt
from models.parts.layers import check_halvings, check_one_class, conv_blocks, one_hot
from models.parts.likelihoods import LIKELIHOODS, PixelSettings, gaussian_kl
from models.parts.sampling import balanced_labels

NUM_NOISES = 1024  # fixed noise vectors, from which each image has one in evaluation
# Variance over images above which a unit's posterior mean counts as active; Burda et al. 2016,
# https://arxiv.org/abs/1509.00519.
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class VariationalSettings(PixelSettings):
    """The settings of all variational autoencoders."""

    width: PositiveInt = 64
    """Channels of the encoder's first block; each further block has twice as many, and the decoder mirrors them."""
    depth: Depth = 3
    """Blocks of the encoder, each of which halves the image's side; the decoder has as many, which double it."""
    latent_size: PositiveInt = 128
    """Number of latent units."""
    beta: NonNegative = 1.0
    """Weight of the KL in the loss, https://openreview.net/forum?id=Sy2fzU9gl. The KL and the reconstruction are summed
    over an image, not averaged."""
    kl_warmup_epochs: NonNegative = 0.0
    """Epochs at the start in which the weight of the KL rises linearly from 0 to beta."""
    free_bits: NonNegative = 0.0
    """Nats below which training does not reduce the KL of a latent unit, averaged over the images of a micro-batch in
    each process, https://arxiv.org/abs/1606.04934."""


class Decoder(nn.Module):
    """The decoder: a linear layer, then `depth` transposed convolutions, each of which doubles the side.

    Between two convolutions there are batch norm and ReLU.

    Args:
        inputs: size of the input: the latent units, and the one-hot label if the model is conditional.
        width, depth: the same as for the encoder.
        image_size: side of the images in pixels.
    """

    def __init__(self, inputs: int, width: int, depth: int, image_size: int) -> None:
        super().__init__()
        self.inputs = inputs
        channels = [*(width << block for block in reversed(range(depth))), 3]
        side = image_size >> depth
        self.affine = nn.Sequential(
            nn.Linear(inputs, channels[0] * side**2),
            nn.Unflatten(1, (channels[0], side, side)),
            nn.ConvTranspose2d(channels[0], channels[1], 4, stride=2, padding=1),
        )
        layers: list[nn.Module] = []
        for before, after in zip(channels[1:], channels[2:], strict=False):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.rest = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:  # [B, inputs] -> [B, 3, H, W] before sigmoid or tanh
        return self.rest(self.affine(latents))

    def affine_as_one_product(self) -> Callable[[Tensor], Tensor]:
        """Return `affine` as the one matrix product that it amounts to, [N, inputs] -> [N, C, h, w].

        For thousands of latents it takes a fraction of the time. The matrix is found in fp32: each row is what one
        input adds to the value for zeros.
        """
        device = next(self.parameters()).device
        with torch.autocast(device.type, enabled=False):
            values = self.affine(torch.cat([torch.zeros(1, self.inputs), torch.eye(self.inputs)]).to(device))
        values = values.permute(0, 2, 3, 1)  # [1 + inputs, h, w, C], the layout in which the rest is fastest
        bias = values[0]
        weight = (values[1:] - bias).flatten(1).T
        return lambda latents: F.linear(latents, weight, bias.flatten()).unflatten(1, bias.shape).permute(0, 3, 1, 2)


class Variational(Objective):
    """A variational autoencoder, Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, with or without labels.

    With labels, encoder and decoder are conditional on the label: its one-hot vector is appended to the encoder's
    features and to the latent.

    In training the noise is random. In evaluation and in panels it is the same in every run and epoch: each image has a
    fixed noise vector, chosen by its pixels. So no metric depends on the batch or on a random state, and over a whole
    split the noise averages out.

    Args:
        settings: sizes, likelihood, beta and the optimizer.
        info: the dataset's facts.
        num_labels: number of classes on which the model is conditional; 0 for a model without labels.

    Raises:
        UserError: the side of the images cannot be halved `depth` times, or the likelihood does not suit the pixels.
    """

    settings: VariationalSettings
    prefers_channels_last = True
    draws_images = True
    noise: Tensor

    def __init__(self, settings: VariationalSettings, info: DatasetInfo, num_labels: int = 0) -> None:
        super().__init__(settings, info)
        check_halvings(settings.depth, info.image_size)
        self.num_labels = num_labels
        self.latent_size = settings.latent_size
        self.num_features = (settings.width << settings.depth - 1) * (info.image_size >> settings.depth) ** 2
        blocks = nn.Sequential(*conv_blocks(settings.width, settings.depth))
        self.encoder = nn.Sequential(OrderedDict(features=blocks, flatten=nn.Flatten()))
        self.posterior = nn.Linear(self.num_features + num_labels, 2 * settings.latent_size)
        self.decoder = Decoder(settings.latent_size + num_labels, settings.width, settings.depth, info.image_size)
        self.likelihood = LIKELIHOODS[settings.likelihood](settings)
        noise = torch.randn(NUM_NOISES, settings.latent_size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)  # [NUM_NOISES, Z], the same in all runs

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("autoencode", optimizer_of(self, self.settings)),)

    def encode_features(self, features: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's mean and log-variance, both [B, Z] float32.

        Args:
            features: the encoder's output, [B, F].
            condition: one-hot labels, [B, num_labels].
        """
        mean, log_variance = self.posterior(torch.cat([features, condition], dim=1)).float().chunk(2, dim=1)
        return mean, log_variance

    def decode_latents(self, latents: Tensor, condition: Tensor) -> Tensor:  # [B, Z] -> [B, 3, H, W], for `likelihood`
        return self.decoder(torch.cat([latents, condition], dim=1))

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        return self.training_terms(self.encoder(batch.images), batch)

    def training_terms(self, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of a batch, averaged over its images, with random noise.

        Args:
            features: the encoder's output for the batch, [B, F].
            batch: images and labels.
        """
        settings, condition = self.settings, one_hot(batch.labels, self.num_labels)
        mean, log_variance = self.encode_features(features, condition)
        latents = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        reconstruction = self.likelihood(self.decode_latents(latents, condition), batch.targets).mean()
        kl = gaussian_kl(mean, log_variance).mean(dim=0)  # [Z]
        warmup = min(1.0, self.epoch / settings.kl_warmup_epochs) if settings.kl_warmup_epochs else 1.0
        return {
            "loss": reconstruction + warmup * settings.beta * kl.clamp(min=settings.free_bits).sum(),
            "reconstruction": reconstruction,
            "kl": kl.sum(),
            "active_units": count_active_units(mean.detach()),
        }

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        return self.evaluation_terms(self.encoder(batch.images), batch)

    def evaluation_terms(self, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the metrics of each image, each [B]; the loss is that with the full beta and without free bits.

        Args:
            features: the encoder's output for the batch, [B, F].
            batch: images and labels.
        """
        condition = one_hot(batch.labels, self.num_labels)
        mean, log_variance = self.encode_features(features, condition)
        latents = mean + (log_variance / 2).exp() * self.noise_of(batch.images)
        reconstruction = self.likelihood(self.decode_latents(latents, condition), batch.images)
        kl = gaussian_kl(mean, log_variance).sum(dim=1)
        bits = self.likelihood.bits_per_dimension(reconstruction, kl, batch.images)
        return {"loss": reconstruction + self.settings.beta * kl, "reconstruction": reconstruction, "kl": kl, **bits}

    def noise_of(self, images: Tensor, draw: int = 0) -> Tensor:
        """Return the fixed noise vector of each image, drawn from N(0, 1): [B, 3, H, W] -> [B, Z].

        Args:
            images: normalised as in training.
            draw: number of the noise vector, if several are needed for each image.
        """
        levels = (self.info.to_unit_range(images) * 255).round().long()  # whole numbers, whose sum is exact
        return self.noise[(levels.sum(dim=(1, 2, 3)) + draw) % NUM_NOISES]

    def importance_weighted_loss(
        self, images: Tensor, mean: Tensor, log_variance: Tensor, condition: Tensor, num_draws: int
    ) -> Tensor:
        """Return the loss of each image with the importance-weighted bound in place of the ELBO.

        Burda et al. 2016, https://arxiv.org/abs/1509.00519. To account for beta, the nats of `likelihood` are divided
        by beta inside the bound, and the bound is multiplied by beta. So with a single draw the loss is on average
        reconstruction + beta * KL, as in training.

        Args:
            images: [B, 3, H, W].
            mean: [B, L, Z], the means of L posteriors for each image; all of them get the same noise.
            log_variance: [B, L, Z], their log-variances.
            condition: [B, L, num_labels], the one-hot label that belongs to each posterior.
            num_draws: latents drawn from each posterior.

        Returns:
            [B, L].
        """
        beta, deviation = self.settings.beta, (log_variance / 2).exp()
        begin_decoding, log_weights = self.decoder.affine_as_one_product(), []
        for draw in range(num_draws):
            noise = self.noise_of(images, draw).unsqueeze(1)  # [B, 1, Z]
            latents = mean + deviation * noise
            hidden = begin_decoding(torch.cat([latents, condition], dim=2).flatten(0, 1))
            output = self.decoder.rest(hidden).unflatten(0, mean.shape[:2])
            log_ratio = ((latents.square() - noise.square() - log_variance) / 2).sum(dim=2)  # log(posterior / prior)
            log_weights.append(-self.likelihood(output, images.unsqueeze(1)) / beta - log_ratio)
        return -beta * (torch.stack(log_weights).logsumexp(dim=0) - math.log(num_draws))

    def posterior_means(self, batch: Batch) -> Tensor:  # -> [B, Z]
        return self.encode_features(self.encoder(batch.images), one_hot(batch.labels, self.num_labels))[0]

    def pictures_of(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Decode latents [B, Z] and labels [B] into images [B, 3, H, W] in [0, 1]."""
        decoded = self.decode_latents(latents, one_hot(labels, self.num_labels))
        return self.info.to_unit_range(self.likelihood.mean(decoded))

    @torch.no_grad()
    def sample(self, num: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Sample images [num, 3, H, W] in [0, 1] by way of the prior; see `models.core.abilities.Samples`."""
        labels = balanced_labels(num, self.num_labels, seed) if labels is None else labels
        latents = torch.randn(num, self.settings.latent_size, generator=torch.Generator().manual_seed(seed))
        return self.pictures_of(latents.to(self.noise.device), labels.to(self.noise.device))

    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        reconstructions = self.pictures_of(self.posterior_means(batch), batch.labels)
        return {**self.samples_panels(), "reconstructions": side_by_side(pictures, reconstructions)}

    def samples_panels(self) -> dict[str, Panel]:
        """Return the panels of samples, which are decoded from the first of the fixed noise vectors."""
        latents = self.noise[:NUM_SAMPLES]
        return {"samples": Panel(self.pictures_of(latents, torch.zeros(len(latents), device=latents.device)))}

    def closing_metrics(self, loader: Loader) -> dict[str, float]:
        batches = loader.evaluation_batches(self.settings.eval_batch_size, Shard())
        num_active = count_active_units(torch.cat([self.posterior_means(batch) for batch in batches])).item()
        return {"active_units": num_active, "posterior_collapse": float(num_active == 0)}


class Conditional(Variational):
    """A variational autoencoder that is conditional on the class of an image.

    Raises:
        UserError: there are fewer than two classes, or the side of the images cannot be halved `depth` times.
    """

    def __init__(self, settings: VariationalSettings, info: DatasetInfo) -> None:
        check_one_class(info, "a conditional model", otherwise=", or give --model=vae")
        super().__init__(settings, info, num_labels=len(info.classes))

    def samples_panels(self) -> dict[str, Panel]:
        """Return the panel of samples, with a column for each class and a row for each noise vector."""
        return {"samples_by_class": class_columns(self.pictures_of, self.noise, self.info.classes)}


def count_active_units(means: Tensor) -> Tensor:
    """Return the number of active latent units, those whose posterior means [N, Z] vary from image to image: a scalar.

    The other units ignore the image.
    """
    return (means.var(dim=0, correction=0) > ACTIVE_VARIANCE).sum().float()
