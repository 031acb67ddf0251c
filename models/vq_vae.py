"""Vector-quantised variational autoencoder, van den Oord et al. 2017, https://arxiv.org/abs/1711.00937."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo
from data.errors import UserError
from models.core.objective import Objective, Phase
from models.core.optimization import build_optimizer, parameter_groups
from models.core.panel import NUM_SAMPLES, Panel, side_by_side
from models.core.settings import Decay, Fraction, NonNegative, PositiveFloat, PositiveInt
from models.parts.layers import check_halvings
from models.parts.likelihoods import LIKELIHOODS, PixelSettings

SMOOTHING = 1e-5  # of the code counts, so that an unused code is not divided by 0


@dataclass(frozen=True, kw_only=True)
class VqVaeSettings(PixelSettings):
    """A grid of codes out of a learned code book for the latent, and an autoregressive prior over them."""

    lr: PositiveFloat = 3e-4
    width: PositiveInt = 128
    """Channels of encoder and decoder."""
    depth: PositiveInt = 2
    """Halvings of the side: 2 make a grid of 8x8 codes of 32-pixel images."""
    num_residual: PositiveInt = 2
    """Residual blocks of encoder and decoder, each."""
    codebook_size: PositiveInt = 512
    """Codes in the book."""
    code_size: PositiveInt = 64
    """Numbers of a code."""
    commitment: NonNegative = 0.25
    """Weight of the squared distance that draws the encoder's outputs to their codes."""
    codebook_update: Literal["ema", "gradient"] = "ema"
    """How codes move to the outputs they stand for: moving averages of those, or a loss of their own."""
    codebook_decay: Decay = 0.99
    """Decay per step of the moving averages of each code's use and, with ema, of its outputs."""
    revive_below: Fraction = 0.1
    """A code used less, as a share of an even use, becomes a random output of the batch; 0 for never."""
    prior_width: PositiveInt = 128
    """Dimension of a token of the prior, a causal transformer."""
    prior_depth: PositiveInt = 2
    """Layers of the prior."""
    prior_heads: PositiveInt = 4
    """Attention heads of each; they share `prior_width`."""


class ResidualBlock(nn.Module):
    """ReLU, conv3x3, ReLU, conv1x1, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:  # [B, C, h, w] -> [B, C, h, w]
        return x + self.branch(x)


def build_encoder(settings: VqVaeSettings) -> nn.Sequential:
    """Strided convolutions 4x4 and residual blocks: [B, 3, H, W] -> [B, code_size, H / 2^depth, W / 2^depth]."""
    width, layers = settings.width, list[nn.Module]()
    for inputs in [3] + [width] * (settings.depth - 1):
        layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(width, width, 3, padding=1), *(ResidualBlock(width) for _ in range(settings.num_residual))]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, settings.code_size, 1))


def build_decoder(settings: VqVaeSettings) -> nn.Sequential:
    """The encoder's mirror image: [B, code_size, h, w] -> [B, 3, h * 2^depth, w * 2^depth] before sigmoid or tanh."""
    width, layers = settings.width, list[nn.Module]()
    layers += [nn.Conv2d(settings.code_size, width, 3, padding=1)]
    layers += [ResidualBlock(width) for _ in range(settings.num_residual)]
    for outputs in [width] * (settings.depth - 1) + [3]:
        layers += [nn.ReLU(), nn.ConvTranspose2d(width, outputs, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)


class CodeBook(nn.Module):
    """Vectors that stand for the encoder's outputs near them.

    All processes keep the same book: counts and sums are added up over them, and the first one's choice of new codes
    goes to all. It begins as outputs of the first batch, since no code has been used before; with `revive_below` at 0
    as small random vectors.

    Args:
        settings: sizes and updates.
    """

    codes: Tensor
    uses: Tensor
    sums: Tensor

    def __init__(self, settings: VqVaeSettings) -> None:
        super().__init__()
        self.settings = settings
        shape = (settings.codebook_size, settings.code_size)
        codes = torch.randn(shape) / settings.code_size
        if settings.codebook_update == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
        self.register_buffer("uses", torch.zeros(settings.codebook_size))  # moving average of outputs a step
        self.register_buffer("sums", torch.zeros(shape))  # moving average of the sum of those outputs

    def forward(self, outputs: Tensor) -> Tensor:  # [..., D] float32 -> [...] indices of the nearest codes
        with torch.no_grad(), torch.autocast(outputs.device.type, enabled=False):  # bf16 would name wrong neighbours
            distances = self.codes.square().sum(dim=1) - 2 * outputs.float() @ self.codes.T
            return distances.argmin(dim=-1)

    def look_up(self, indices: Tensor) -> Tensor:  # [...] -> [..., D]
        return F.embedding(indices, self.codes)

    @torch.no_grad()
    def revive(self, outputs: Tensor) -> None:
        """Move codes that are hardly used to random outputs [N, D] of the batch."""
        num = torch.tensor(float(len(outputs)), device=outputs.device)
        candidates = outputs[torch.randint(len(outputs), (len(self.codes),), device=outputs.device)].float()
        if distributed.is_initialized():
            distributed.all_reduce(num)
            distributed.broadcast(candidates, 0)
        least = self.settings.revive_below * num / len(self.codes)
        dead = (self.uses < least).unsqueeze(1)
        # With a decay of 0.99, twice the least leaves a code 69 steps to find its outputs.
        self.codes.copy_(torch.where(dead, candidates, self.codes))
        self.sums.copy_(torch.where(dead, candidates * 2 * least, self.sums))
        self.uses.copy_(torch.where(dead.squeeze(1), 2 * least, self.uses))

    @torch.no_grad()
    def follow(self, outputs: Tensor, indices: Tensor) -> None:
        """Take the outputs [N, D] that the codes of these indices [N] stood for into the moving averages."""
        uses, sums = torch.zeros_like(self.uses), torch.zeros_like(self.sums)
        uses.index_add_(0, indices, torch.ones_like(indices, dtype=uses.dtype))
        sums.index_add_(0, indices, outputs.float())
        if distributed.is_initialized():
            distributed.all_reduce(uses)
            distributed.all_reduce(sums)
        self.uses.lerp_(uses, 1 - self.settings.codebook_decay)
        self.sums.lerp_(sums, 1 - self.settings.codebook_decay)
        if self.settings.codebook_update == "ema":
            total = self.uses.sum()
            smoothed = (self.uses + SMOOTHING) / (total + len(self.uses) * SMOOTHING) * total
            self.codes.copy_(self.sums / smoothed.unsqueeze(1))


class Prior(nn.Module):
    """A causal transformer over the codes of an image, row by row: logits of each code given those before it."""

    def __init__(self, settings: VqVaeSettings, num_positions: int) -> None:
        super().__init__()
        width, self.start = settings.prior_width, settings.codebook_size
        self.embed = nn.Embedding(settings.codebook_size + 1, width)  # the last one starts a sequence
        self.positions = nn.Parameter(torch.empty(num_positions, width).normal_(std=0.02))
        nn.init.normal_(self.embed.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, settings.prior_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, settings.prior_depth, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, settings.codebook_size)

    def forward(self, codes: Tensor) -> Tensor:  # [B, T] -> [B, T + 1, K], the last for the code after them
        x = self.embed(F.pad(codes, (1, 0), value=self.start)) + self.positions[: codes.shape[1] + 1]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.head(self.layers(x, mask, is_causal=True))

    def nll(self, codes: Tensor) -> Tensor:  # [B, T] -> [B] nats
        return F.cross_entropy(self(codes[:, :-1]).float().transpose(1, 2), codes, reduction="none").sum(dim=1)

    def sample(self, num: int, seed: int) -> Tensor:
        """Codes of images, [num, T], the noise a function of the seed."""
        device = self.positions.device
        generator = torch.Generator().manual_seed(seed)
        codes = torch.empty(num, 0, dtype=torch.long, device=device)
        for _ in range(len(self.positions)):
            noise = torch.empty(num, self.start).exponential_(generator=generator).to(device)
            # The largest p / noise is a draw from p, https://arxiv.org/abs/1611.01144, section 2.1
            chosen = (self(codes)[:, -1].float() - noise.log()).argmax(dim=1, keepdim=True)
            codes = torch.cat([codes, chosen], dim=1)
        return codes


class VqVae(Objective):
    """Autoencoder through a grid of codes in its first phase, prior over those codes in its second.

    Args:
        settings: sizes, code book, likelihood, prior and the optimizers.
        info: the dataset's size and normalisation.

    Raises:
        UserError: the images cannot be halved `depth` times, or the prior's heads do not divide its width.
    """

    settings: VqVaeSettings
    prefers_channels_last = True
    num_labels = 0

    def __init__(self, settings: VqVaeSettings, info: DatasetInfo) -> None:
        super().__init__()
        check_halvings(settings.depth, info.image_size)
        if settings.prior_width % settings.prior_heads:
            raise UserError(
                f"--prior_heads={settings.prior_heads} does not divide --prior_width={settings.prior_width}: "
                f"change either"
            )
        self.settings = settings
        self.info = info
        self.codebook_size = settings.codebook_size
        self.num_pixels = 3 * info.image_size**2
        self.side = info.image_size >> settings.depth
        self.encoder = build_encoder(settings)
        self.code_book = CodeBook(settings)
        self.decoder = build_decoder(settings)
        self.likelihood = LIKELIHOODS[settings.likelihood](settings)
        self.prior = Prior(settings, self.side**2)

    def phases(self) -> tuple[Phase, ...]:
        autoencoder = nn.ModuleList([self.encoder, self.code_book, self.decoder, self.likelihood])
        nets = {"autoencode": autoencoder, "prior": self.prior}
        groups = {name: parameter_groups(net, self.settings.weight_decay) for name, net in nets.items()}
        return tuple(Phase(name, build_optimizer(own, self.settings)) for name, own in groups.items())

    def encode_images(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, T, D] float32, row by row
        return self.encoder(images).float().flatten(2).transpose(1, 2)

    def decode_codes(self, vectors: Tensor) -> Tensor:  # [B, T, D] -> [B, 3, H, W], for `likelihood`
        return self.decoder(vectors.transpose(1, 2).unflatten(2, (self.side, self.side)))

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        return {"autoencode": self.autoencode, "prior": self.predict_codes}[phase](batch.images)

    def autoencode(self, images: Tensor) -> dict[str, Tensor]:
        """Loss terms of the first phase; the code book follows or is revived on the way, in training."""
        outputs = self.encode_images(images)
        flat = outputs.detach().flatten(0, 1)
        if self.training:
            self.code_book.revive(flat)
        indices = self.code_book(outputs)
        codes = self.code_book.look_up(indices)
        if self.training:
            self.code_book.follow(flat, indices.flatten())
        decoded = outputs + (codes - outputs).detach()  # its gradient goes straight through to the outputs
        reconstruction = self.likelihood(self.decode_codes(decoded), images).mean()
        commitment = (outputs - codes.detach()).square().sum(dim=(1, 2)).mean()
        loss = reconstruction + self.settings.commitment * commitment
        if self.settings.codebook_update == "gradient":
            loss = loss + (codes - outputs.detach()).square().sum(dim=(1, 2)).mean()
        uses = torch.bincount(indices.flatten(), minlength=self.settings.codebook_size)
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "perplexity": perplexity(uses),
        }

    def predict_codes(self, images: Tensor) -> dict[str, Tensor]:
        """Loss terms of the second phase."""
        return {"loss": self.prior.nll(self.codes_of(images)).mean()}

    @torch.no_grad()
    def codes_of(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, T]
        return self.code_book(self.encode_images(images))

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.encode_images(batch.images)
        indices = self.code_book(outputs)
        codes = self.code_book.look_up(indices)
        reconstruction = self.likelihood(self.decode_codes(codes), batch.images)
        commitment = (outputs - codes).square().sum(dim=(1, 2))
        prior = self.prior.nll(indices)
        terms = {
            "loss": reconstruction + self.settings.commitment * commitment,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "prior": prior,
        }
        level_nll = self.likelihood.level_nll(reconstruction, self.num_pixels)
        if level_nll is not None:
            terms["bits_per_dimension"] = (level_nll + prior) / (self.num_pixels * math.log(2))
        return terms

    def pictures_of(self, indices: Tensor) -> Tensor:
        """What the decoder makes of codes [B, T]: [B, 3, H, W] in [0, 1]."""
        return self.info.to_unit_range(self.likelihood.mean(self.decode_codes(self.code_book.look_up(indices))))

    @torch.no_grad()
    def sample(self, num: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Images [num, 3, H, W] in [0, 1] of codes drawn from the prior, see `models.core.objective.Samples`."""
        return self.pictures_of(self.prior.sample(num, seed))

    def panels(self, batch: Batch, pictures: Tensor) -> dict[str, Panel]:
        reconstructions = self.pictures_of(self.codes_of(batch.images))
        return {
            "samples": Panel(self.sample(NUM_SAMPLES, seed=0)),
            "reconstructions": side_by_side(pictures, reconstructions),
        }

    def compile_nets(self) -> None:
        for net in (self.encoder, self.decoder, self.prior):  # the code book's collectives would break its graph
            net.compile()


def perplexity(uses: Tensor) -> Tensor:
    """Exponential of the entropy of code counts [K]: how many codes, used evenly, would say as much; a scalar."""
    shares = uses / uses.sum()
    return torch.special.entr(shares).sum().exp()


def build(settings: VqVaeSettings, info: DatasetInfo) -> VqVae:
    """The autoencoder that `settings` describe.

    Raises:
        UserError: sizes or a likelihood that do not suit the images, or heads that do not suit the prior.
    """
    return VqVae(settings, info)
