"""A code book: vectors that take the place of a network's outputs, https://arxiv.org/abs/1711.00937."""

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

MOST_SHARES = 4.0  # above the sum of the shares of all codes, however many were just replaced
LEAST_USE = 1e-12  # share of all outputs; a code of which the average has forgotten all stays where it is


class CodeBook(nn.Module):
    """The code book: vectors (codes), the nearest of which takes the place of each of the encoder's outputs.

    At first the codes are small random vectors. Unless `revive_below` is 0, all of them are replaced by outputs of the
    first batch, because no code has been used before.

    The book changes once in each optimizer step: before the first micro-batch codes are replaced, by outputs of it, and
    after the last one the averages follow the outputs of all. All processes keep the same code book: they add up their
    counts and sums of outputs, and all take the replacements that the first process has chosen.

    Args:
        num_codes: codes in the book, K.
        code_size: dimension of a code, D.
        update: how codes are trained, "ema" or "gradient".
        decay: of the moving averages, per step.
        revive_below: share of the mean use of all codes below which a code is replaced; 0 for never.
        micro_batches: of a step.
    """

    codes: Tensor  # [K, D]
    uses: Tensor  # [K]
    sums: Tensor  # [K, D]

    def __init__(
        self, num_codes: int, code_size: int, *, update: str, decay: float, revive_below: float, micro_batches: int
    ) -> None:
        super().__init__()
        self.update, self.decay, self.micro_batches = update, decay, micro_batches
        self.least_share = revive_below / num_codes  # of all outputs
        codes = torch.randn(num_codes, code_size) / code_size
        if update == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
        # For each code, moving averages over the steps: of its share of all outputs, and of the sum of its outputs
        # divided by the number of all. They mean the same whatever the batch, which a run that goes on may change.
        self.register_buffer("uses", torch.zeros(num_codes))
        self.register_buffer("sums", torch.zeros(num_codes, code_size))
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
        dead = (self.uses < self.least_share).unsqueeze(1)
        # A new code starts with twice the least share. With a decay of 0.99, an unused one is replaced after 69 steps.
        self.codes.copy_(torch.where(dead, candidates, self.codes))
        self.sums.copy_(torch.where(dead, candidates * 2 * self.least_share, self.sums))
        self.uses.copy_(torch.where(dead.squeeze(1), 2 * self.least_share, self.uses))

    @torch.no_grad()
    def follow(self, outputs: Tensor, indices: Tensor) -> None:
        """Count the outputs of a micro-batch; after a step's last one, update the averages and, with "ema", the codes.

        Args:
            outputs: the encoder's, [N, D].
            indices: the code that is nearest to each output, [N].
        """
        sums = torch.zeros_like(self.sums).index_add_(0, indices, outputs.float())
        self.counted.append((count_uses(indices, len(self.codes)), sums))
        if len(self.counted) < self.micro_batches:
            return
        uses, sums = (torch.stack(parts).sum(dim=0) for parts in zip(*self.counted, strict=True))
        self.counted.clear()
        if distributed.is_initialized():
            distributed.all_reduce(uses)
            distributed.all_reduce(sums)
        num = uses.sum()
        self.uses.lerp_(uses / num, 1 - self.decay)
        self.sums.lerp_(sums / num, 1 - self.decay)
        if self.update == "ema":
            is_known = (self.uses > LEAST_USE).unsqueeze(1)
            self.codes.copy_(torch.where(is_known, self.sums / self.uses.unsqueeze(1), self.codes))


def turn_numbers_into_shares(book: CodeBook, state: dict[str, Tensor], prefix: str, *others: object) -> None:
    """Divide the averages of a book of 0.1.0, which were of numbers of outputs, by the number of all."""
    uses, sums = f"{prefix}uses", f"{prefix}sums"
    if uses in state and (num := state[uses].sum()) > MOST_SHARES:
        state |= {uses: state[uses] / num, sums: state[sums] / num}


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
