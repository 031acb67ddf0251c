"""Vector-quantised variational autoencoder, van den Oord et al. 2017, https://arxiv.org/abs/1711.00937."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from data.dataset import Batch, DatasetInfo
from models.core.objective import Objective, Phase, compile_net
from models.core.optimization import optimizer_of
from models.core.panel import NUM_SAMPLES, Panel, side_by_side
from models.core.settings import Decay, Depth, Fraction, NonNegative, PositiveFloat, PositiveInt
from models.parts.code_book import CodeBook, count_uses, perplexity
from models.parts.code_prior import CodePrior
from models.parts.layers import check_halvings, check_heads
from models.parts.likelihoods import LIKELIHOODS, PixelSettings


@dataclass(frozen=True, kw_only=True)
class VqVaeSettings(PixelSettings):
    """An autoencoder with a grid of codes from a learned code book for its latent, and an autoregressive prior."""

    lr: PositiveFloat = 3e-4
    width: PositiveInt = 128
    """Channels of encoder and decoder."""
    depth: Depth = 2
    """How often the encoder halves the image's side; 2 turn an image of 32 pixels into a grid of 8x8 codes."""
    num_residual: Depth = 2
    """Residual blocks in the encoder, and also in the decoder."""
    codebook_size: PositiveInt = 512
    """Number of codes in the code book."""
    code_size: PositiveInt = 64
    """Dimension of a code."""
    commitment: NonNegative = 0.25
    """Weight of the commitment loss: the squared distance of the encoder's outputs from their codes."""
    codebook_update: Literal["ema", "gradient"] = "ema"
    """How codes are trained. ema: a code is the moving average of those encoder outputs to which it is the nearest;
    gradient: by a loss, the squared distance of the codes from these outputs."""
    codebook_decay: Decay = 0.99
    """Decay per step of the moving averages: of how often each code is used and, with ema, of its outputs."""
    revive_below: Fraction = 0.1
    """A code whose use falls below this share of the mean use of all codes is replaced by a random output of the
    encoder; 0 for never."""
    prior_width: PositiveInt = 128
    """Dimension of a token in the prior, a causal transformer."""
    prior_depth: Depth = 2
    """Number of layers of the prior."""
    prior_heads: PositiveInt = 4
    """Attention heads in each layer of the prior; `prior_width` is divided among them."""


class ResidualBlock(nn.Module):
    """A residual block: ReLU, 3x3 convolution, ReLU and 1x1 convolution, whose output is added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:  # [B, C, h, w] -> [B, C, h, w]
        return x + self.branch(x)


def build_encoder(settings: VqVaeSettings) -> nn.Sequential:
    """Build the encoder, of strided 4x4 convolutions and residual blocks.

    It turns images [B, 3, H, W] into [B, code_size, H / 2^depth, W / 2^depth].
    """
    width, layers = settings.width, list[nn.Module]()
    for inputs in [3] + [width] * (settings.depth - 1):
        layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(width, width, 3, padding=1), *(ResidualBlock(width) for _ in range(settings.num_residual))]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, settings.code_size, 1))


def build_decoder(settings: VqVaeSettings) -> nn.Sequential:
    """Build the decoder, the mirror image of the encoder.

    It turns [B, code_size, h, w] into [B, 3, h * 2^depth, w * 2^depth], to which a sigmoid or tanh is then applied.
    """
    width, layers = settings.width, list[nn.Module]()
    layers += [nn.Conv2d(settings.code_size, width, 3, padding=1)]
    layers += [ResidualBlock(width) for _ in range(settings.num_residual)]
    for outputs in [width] * (settings.depth - 1) + [3]:
        layers += [nn.ReLU(), nn.ConvTranspose2d(width, outputs, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)


class VqVae(Objective):
    """A vector-quantised autoencoder and a prior over its codes.

    Each training step has two phases: the first trains encoder, code book and decoder, the second the prior.

    Args:
        settings: sizes, code book, likelihood, prior and the optimizers.
        info: the dataset's facts.

    Raises:
        UserError: the side of the images cannot be halved `depth` times, the likelihood does not suit the pixels, or
            the number of the prior's heads does not divide its width.
    """

    settings: VqVaeSettings
    prefers_channels_last = True
    draws_images = True
    num_labels = 0

    def __init__(self, settings: VqVaeSettings, info: DatasetInfo) -> None:
        super().__init__(settings, info)
        check_halvings(settings.depth, info.image_size)
        check_heads(settings, "prior_heads", "prior_width")
        self.codebook_size = settings.codebook_size
        self.side = info.image_size >> settings.depth
        self.encoder = build_encoder(settings)
        self.code_book = CodeBook(
            settings.codebook_size,
            settings.code_size,
            update=settings.codebook_update,
            decay=settings.codebook_decay,
            revive_below=settings.revive_below,
            micro_batches=settings.accumulation_steps,
        )
        self.decoder = build_decoder(settings)
        self.likelihood = LIKELIHOODS[settings.likelihood](settings)
        self.prior = CodePrior(
            settings.codebook_size,
            self.side**2,
            width=settings.prior_width,
            depth=settings.prior_depth,
            heads=settings.prior_heads,
        )
        self.noise_shape = (self.side**2, settings.codebook_size)

    def phases(self) -> tuple[Phase, ...]:
        autoencoder = nn.ModuleList([self.encoder, self.code_book, self.decoder, self.likelihood])
        nets = {"autoencode": autoencoder, "prior": self.prior}
        return tuple(Phase(name, optimizer_of(net, self.settings)) for name, net in nets.items())

    def encode_images(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, T, D] float32, row by row
        return self.encoder(images).float().flatten(2).transpose(1, 2)

    def decode_codes(self, vectors: Tensor) -> Tensor:  # [B, T, D] -> [B, 3, H, W], for `likelihood`
        return self.decoder(vectors.transpose(1, 2).unflatten(2, (self.side, self.side)))

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        return {"autoencode": self.autoencode, "prior": self.predict_codes}[phase](batch)

    def autoencode(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of the first phase; in training, also update the code book."""
        outputs = self.encode_images(batch.images)
        flat = outputs.detach().flatten(0, 1)
        if self.training:
            self.code_book.revive(flat)
        indices = self.code_book(outputs)
        codes = self.code_book.look_up(indices)
        if self.training:
            self.code_book.follow(flat, indices.flatten())
        decoded = outputs + (codes - outputs).detach()  # straight-through gradient to the outputs
        reconstruction = self.likelihood(self.decode_codes(decoded), batch.targets).mean()
        commitment = squared_distance(outputs, codes.detach()).mean()
        return {
            "loss": self.loss_of(reconstruction, commitment, squared_distance(codes, outputs.detach()).mean()),
            "reconstruction": reconstruction,
            "commitment": commitment,
            "perplexity": perplexity(count_uses(indices.flatten(), self.settings.codebook_size)),
        }

    def loss_of(self, reconstruction: Tensor, commitment: Tensor, book: Tensor) -> Tensor:
        """Return the loss of the first phase, of each image or the mean of several.

        Args:
            reconstruction: as `likelihood` returns it.
            commitment: the squared distance of the outputs from their codes, for the gradient of the outputs.
            book: the same for the gradient of the codes, which have one only with codebook_update=gradient.
        """
        loss = reconstruction + self.settings.commitment * commitment
        return loss + book if self.settings.codebook_update == "gradient" else loss

    def predict_codes(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of the second phase."""
        return {"loss": self.prior.nll(self.codes_of(batch.targets)).mean()}

    @torch.no_grad()
    def codes_of(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, T]
        return self.code_book(self.encode_images(images))

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.encode_images(batch.images)
        indices = self.code_book(outputs)
        codes = self.code_book.look_up(indices)
        reconstruction = self.likelihood(self.decode_codes(codes), batch.images)
        commitment = squared_distance(outputs, codes)
        prior = self.prior.nll(indices)
        return {
            "loss": self.loss_of(reconstruction, commitment, commitment),
            "reconstruction": reconstruction,
            "commitment": commitment,
            "prior": prior,
            **self.likelihood.bits_per_dimension(reconstruction, prior, batch.images),
        }

    def pictures_of(self, indices: Tensor) -> Tensor:
        """Decode code indices [B, T] into images [B, 3, H, W] in [0, 1]."""
        return self.info.to_unit_range(self.likelihood.mean(self.decode_codes(self.code_book.look_up(indices))))

    def pictures_drawn_by(self, noise: Tensor) -> Tensor:
        """Draw images [B, 3, H, W] in [0, 1] by noise [B, T, K], see `models.core.abilities.DrawsFromPrior`."""
        return self.pictures_of(self.prior.draw(noise))

    @torch.no_grad()
    def sample(self, num: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Sample images [num, 3, H, W] in [0, 1] by way of the prior; see `models.core.abilities.Samples`."""
        return self.pictures_of(self.prior.sample(num, seed))

    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        reconstructions = self.pictures_of(self.codes_of(batch.images))
        return {
            "samples": Panel(self.sample(NUM_SAMPLES, seed=0)),
            "reconstructions": side_by_side(pictures, reconstructions),
        }

    def compile_nets(self) -> None:
        for net in (self.encoder, self.decoder, self.prior):  # not the code book, in which processes communicate
            compile_net(net)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:  # [B, T, D] twice -> [B]
    """Return the squared distance of the vectors of each image, summed over its places."""
    return (a - b).square().sum(dim=(1, 2))
