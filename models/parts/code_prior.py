"""An autoregressive prior over the codes of an image, from which new images are drawn."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.internals import traced_loop


class CodePrior(nn.Module):
    """A causal transformer over the codes of an image, row by row: it predicts each code from those before it.

    Args:
        num_codes: codes in the book, K.
        num_positions: codes of an image, T.
        width: dimension of a token.
        depth: layers.
        heads: attention heads in each layer.
    """

    def __init__(self, num_codes: int, num_positions: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.start = num_codes  # the token that starts a sequence, after those of the codes
        self.embed = nn.Embedding(num_codes + 1, width)
        self.positions = nn.Parameter(torch.empty(num_positions, width).normal_(std=0.02))
        nn.init.normal_(self.embed.weight, std=0.02)
        layers = [
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        ]
        self.layers = nn.TransformerEncoder(layers[0], 1, nn.LayerNorm(width), enable_nested_tensor=False)
        self.layers.layers = nn.ModuleList(layers)  # by itself, it would make all of them copies of the first
        self.head = nn.Linear(width, num_codes)

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
