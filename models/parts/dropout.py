"""Dropout that is quick on a CPU, where torch takes longer for a random number than a network for what it drops.

Its random bits come from numpy's SFC64, seeded by torch's generator, 16 of them for a value: four values share the 64
bits that are drawn at a time. So a value is dropped with a probability that is rounded to a multiple of 2^-16, and a
seed of torch still decides which ones. On other devices and in compiled networks, torch's own kernels do the work.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.internals import softmax_gradient

STEPS = 2**16  # of a probability
WEIGHTS_AT_ONCE = 2**20  # of attention, so that they stay in the processor's caches


class Dropout(nn.Dropout):
    """Dropout as torch's, https://jmlr.org/papers/v15/srivastava14a.html, but for its random numbers on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and is_quick(x, self.p)):
            return super().forward(x)
        return DroppedValues.apply(x, draw_kept(x.shape, self.p), 1 / (1 - self.p))


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float, scale: float | None = None) -> Tensor:
    """Return the mean of the values by attention weights, of which some are dropped: softmax(scale q k^T) v.

    Args:
        q: queries, [B, heads, T, D].
        k: keys, of that shape and type, as are the values.
        v: values.
        dropout: of the weights; 0 in evaluation.
        scale: what products of queries and keys are multiplied by; None for one over the root of D.

    Returns:
        [B, heads, T, D].
    """
    if not is_quick(q, dropout):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    return DroppedAttention.apply(q, k, v, dropout, scale or q.shape[-1] ** -0.5)


def is_quick(x: Tensor, probability: float) -> bool:
    """Return whether values are dropped by random numbers of our own, and not by torch's."""
    return 0 < probability < 1 and x.device.type == "cpu" and not torch.compiler.is_compiling()


def draw_kept(shape: torch.Size, probability: float) -> Tensor:
    """Return 1 for each value that is kept and 0 for each that is dropped, int16.

    Args:
        shape: of the values.
        probability: with which a value is dropped.
    """
    num = shape.numel()
    bits = np.random.SFC64(int(torch.randint(2**63 - 1, ()))).random_raw(-(-num // 4))
    kept = torch.from_numpy(bits.view(np.int16))[:num].view(shape)
    return kept.ge_(round(probability * STEPS) - STEPS // 2)  # in place and as int16: to bool takes 20 times as long


def drop(x: Tensor, kept: Tensor) -> Tensor:
    """Return values with 0 in place of those where `kept` is 0. Numbers of 16 bits are taken for whole ones."""
    return (x.view(torch.int16) * kept).view(x.dtype) if x.element_size() == 2 else x * kept


class DroppedValues(torch.autograd.Function):
    """Values of which some are dropped and the others multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.factor = factor
        return drop(x * factor, kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return drop(gradients[0] * ctx.factor, kept), None, None


class DroppedAttention(torch.autograd.Function):
    """Attention with dropout of its weights, some images at a time; see `attend`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float, scale: float) -> Tensor:
        ctx.scale, ctx.factor = scale, 1 / (1 - dropout)
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()  # once, and not in each product
        out, saved = torch.empty_like(q), []
        with torch.autocast("cpu", enabled=False):
            for part in parts(q):
                weights = torch.softmax((q[part] @ k[part].transpose(-2, -1)).mul_(scale), -1)
                kept = draw_kept(weights.shape, dropout)
                out[part] = drop(weights, kept) @ v[part]
                saved += [weights, kept]
        ctx.save_for_backward(q, k, v, *saved)
        return out.mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        gradient = (gradients[0] * ctx.factor).contiguous()
        of_q, of_k, of_v = (torch.empty_like(x) for x in (q, k, v))
        with torch.autocast("cpu", enabled=False):
            for part, weights, kept in zip(parts(q), saved[::2], saved[1::2], strict=True):
                of_v[part] = drop(weights, kept).transpose(-2, -1) @ gradient[part]
                of_weights = drop(gradient[part] @ v[part].transpose(-2, -1), kept)
                of_scores = softmax_gradient(of_weights, weights)
                of_q[part] = of_scores @ k[part]
                of_k[part] = of_scores.transpose(-2, -1) @ q[part]
        return of_q.mul_(ctx.scale), of_k.mul_(ctx.scale), of_v, None, None


def parts(q: Tensor) -> list[slice]:
    """Return which images are gone through at a time, together all: those with about WEIGHTS_AT_ONCE weights."""
    num, heads, tokens, _ = q.shape
    step = max(1, WEIGHTS_AT_ONCE // (heads * tokens * tokens))
    return [slice(start, start + step) for start in range(0, num, step)]
