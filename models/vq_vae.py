"""Vector-quantised variational autoencoder, van den Oord et al. 2017, https://arxiv.org/abs/1711.00937."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo
from data.internals import traced_loop
from models.core.objective import Objective, Phase, compile_net
from models.core.optimization import optimizer_of
from models.core.panel import NUM_SAMPLES, Panel, side_by_side
from models.core.settings import Decay, Depth, Fraction, NonNegative, PositiveFloat, PositiveInt
from models.parts.layers import check_halvings, check_heads
from models.parts.likelihoods import LIKELIHOODS, PixelSettings

MOST_SHARES = 4.0  # above the sum of the shares of all codes, however many were just replaced
LEAST_USE = 1e-12  # share of all outputs; a code of which the average has forgotten all stays where it is


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


class CodeBook(nn.Module):
    """The code book: vectors (codes), the nearest of which takes the place of each of the encoder's outputs.

    At first the codes are small random vectors. Unless `revive_below` is 0, all of them are replaced by outputs of the
    first batch, because no code has been used before.

    The book changes once in each optimizer step: before the first micro-batch codes are replaced, by outputs of it, and
    after the last one the averages follow the outputs of all. All processes keep the same code book: they add up their
    counts and sums of outputs, and all take the replacements that the first process has chosen.

    Args:
        settings: sizes, and how the codes are trained.
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
        # For each code, moving averages over the steps: of its share of all outputs, and of the sum of its outputs
        # divided by the number of all. They mean the same whatever the batch, which a run that goes on may change.
        self.register_buffer("uses", torch.zeros(settings.codebook_size))
        self.register_buffer("sums", torch.zeros(shape))
        # Counts and sums of the current step's micro-batches; no buffers, which processes copy from the first of them.
        self.counted: list[tuple[Tensor, Tensor]] = []
        self.register_load_state_dict_pre_hook(turn_numbers_into_shares)

    def forward(self, outputs: Tensor) -> Tensor:  # [..., D] float32 -> [...] indices of the nearest codes
        with torch.no_grad(), torch.autocast(outputs.device.type, enabled=False):  # bf16 would find wrong codes
            distances = self.codes.square().sum(dim=1) - 2 * outputs.float() @ self.codes.T
            return distances.argmin(dim=-1)

    def look_up(self, indices: Tensor) -> Tensor:  # [...] -> [..., D]
        return F.embedding(indices, self.codes)

    @torch.no_grad()
    def revive(self, outputs: Tensor) -> None:
        """Replace codes that are hardly used by random ones of the encoder's outputs [N, D] of a first micro-batch."""
        if self.counted:
            return
        candidates = outputs[torch.randint(len(outputs), (len(self.codes),), device=outputs.device)].float()
        if distributed.is_initialized():
            distributed.broadcast(candidates, 0)
        least = self.settings.revive_below / len(self.codes)
        dead = (self.uses < least).unsqueeze(1)
        # A new code starts with twice the least use. With a decay of 0.99, an unused one is replaced after 69 steps.
        self.codes.copy_(torch.where(dead, candidates, self.codes))
        self.sums.copy_(torch.where(dead, candidates * 2 * least, self.sums))
        self.uses.copy_(torch.where(dead.squeeze(1), 2 * least, self.uses))

    @torch.no_grad()
    def follow(self, outputs: Tensor, indices: Tensor) -> None:
        """Count the outputs of a micro-batch; after a step's last one, update the averages and, with "ema", the codes.

        Args:
            outputs: the encoder's, [N, D].
            indices: the code that is nearest to each output, [N].
        """
        sums = torch.zeros_like(self.sums).index_add_(0, indices, outputs.float())
        self.counted.append((count_uses(indices, len(self.codes)), sums))
        if len(self.counted) < self.settings.accumulation_steps:
            return
        uses, sums = (torch.stack(parts).sum(dim=0) for parts in zip(*self.counted, strict=True))
        self.counted.clear()
        if distributed.is_initialized():
            distributed.all_reduce(uses)
            distributed.all_reduce(sums)
        num = uses.sum()
        self.uses.lerp_(uses / num, 1 - self.settings.codebook_decay)
        self.sums.lerp_(sums / num, 1 - self.settings.codebook_decay)
        if self.settings.codebook_update == "ema":
            is_known = (self.uses > LEAST_USE).unsqueeze(1)
            self.codes.copy_(torch.where(is_known, self.sums / self.uses.unsqueeze(1), self.codes))


def turn_numbers_into_shares(book: CodeBook, state: dict[str, Tensor], prefix: str, *others: object) -> None:
    """Divide the averages of a book of 0.1.0, which were of numbers of outputs, by the number of all."""
    uses, sums = f"{prefix}uses", f"{prefix}sums"
    if uses in state and (num := state[uses].sum()) > MOST_SHARES:
        state |= {uses: state[uses] / num, sums: state[sums] / num}


class Prior(nn.Module):
    """A causal transformer over the codes of an image, row by row: it predicts each code from those before it."""

    def __init__(self, settings: VqVaeSettings, num_positions: int) -> None:
        super().__init__()
        width, self.start = settings.prior_width, settings.codebook_size
        self.embed = nn.Embedding(settings.codebook_size + 1, width)  # the last token starts a sequence
        self.positions = nn.Parameter(torch.empty(num_positions, width).normal_(std=0.02))
        nn.init.normal_(self.embed.weight, std=0.02)
        layers = [
            nn.TransformerEncoderLayer(
                width, settings.prior_heads, 4 * width, dropout=0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(settings.prior_depth)
        ]
        self.layers = nn.TransformerEncoder(layers[0], 1, nn.LayerNorm(width), enable_nested_tensor=False)
        self.layers.layers = nn.ModuleList(layers)  # by itself, it would make all of them copies of the first
        self.head = nn.Linear(width, settings.codebook_size)

    def forward(self, codes: Tensor) -> Tensor:  # [B, T] -> logits [B, T + 1, K], the last for the code after these
        x = self.embed(F.pad(codes, (1, 0), value=self.start)) + self.positions[: codes.shape[1] + 1]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.head(self.layers(x, mask, is_causal=True))

    def nll(self, codes: Tensor) -> Tensor:  # [B, T] -> [B] nats
        return F.cross_entropy(self(codes[:, :-1]).float().transpose(1, 2), codes, reduction="none").sum(dim=1)

    def sample(self, num: int, seed: int) -> Tensor:
        """Sample the codes of images, [num, T]; the same seed gives the same codes."""
        generator = torch.Generator().manual_seed(seed)
        noise = (torch.empty(num, self.start).exponential_(generator=generator) for _ in range(len(self.positions)))
        return self.draw(torch.stack([each.to(self.positions.device) for each in noise], dim=1))

    def draw(self, noise: Tensor) -> Tensor:
        """Draw codes [B, T], one after another, by noise [B, T, K] from the exponential distribution.

        The index of the largest p / noise is a draw from p, https://arxiv.org/abs/1611.01144, section 2.1.
        """
        if torch.compiler.is_exporting():  # where a loop in Python would become T networks in a row
            return self.draw_in_loop(noise)
        codes = noise.new_zeros(noise.shape[0], 0, dtype=torch.long)  # len() would be a constant to a trace
        for each in noise.unbind(1):
            chosen = (self(codes)[:, -1].float() - each.log()).argmax(dim=1, keepdim=True)
            codes = torch.cat([codes, chosen], dim=1)
        return codes

    def draw_in_loop(self, noise: Tensor) -> Tensor:
        """Draw the same codes, all places anew in each round, of which one is kept."""
        places = torch.arange(noise.shape[1], device=noise.device)
        shift = noise.log()

        def goes_on(place: Tensor, codes: Tensor) -> Tensor:
            return place.sum() < len(places)

        def next_code(place: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
            chosen = (self(codes[:, :-1]).float() - shift).argmax(dim=2)
            return place + 1, torch.where(places == place, chosen, codes)

        start = torch.zeros_like(places[:1]), torch.zeros_like(noise[:, :, 0], dtype=torch.long)
        return traced_loop(goes_on, next_code, start)[1]


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
        self.code_book = CodeBook(settings)
        self.decoder = build_decoder(settings)
        self.likelihood = LIKELIHOODS[settings.likelihood](settings)
        self.prior = Prior(settings, self.side**2)
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


def count_uses(indices: Tensor, num_codes: int) -> Tensor:  # [N] -> [K] float32
    """Return how often each code is among `indices`; a GPU goes on meanwhile, which waits for `torch.bincount`."""
    ones = torch.ones_like(indices, dtype=torch.float32)
    return torch.zeros(num_codes, device=indices.device).index_add_(0, indices, ones)


def perplexity(uses: Tensor) -> Tensor:
    """Return the perplexity of code counts [K], a scalar: the exponential of their entropy.

    It says how many codes would carry as much information if all were used equally often.
    """
    shares = uses / uses.sum()
    return torch.special.entr(shares).sum().exp()
