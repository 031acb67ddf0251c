"""Dropout that is quick on a CPU, where torch takes longer for a random number than a network for what it drops.

Its random bits come from numpy's SFC64, seeded by torch's generator, 16 of them for a value: four values share the 64
bits that are drawn at a time. So a value is dropped with a probability that is rounded to a multiple of 2^-16, and a
seed of torch still decides which ones. Attention goes through some images at a time, each time in one thread and with a
seed of its own: so all cores draw, and how many there are changes nothing. On other devices and in compiled networks,
torch's own kernels do the work.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.internals import softmax_gradient
from models.parts.threads import do_each

STEPS = 2**16  # of a probability
WEIGHTS_AT_ONCE = 2**20  # of attention, so that they stay in the processor's caches


class Dropout(nn.Dropout):
    """Dropout as torch's, https://jmlr.org/papers/v15/srivastava14a.html, but for its random numbers on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and is_quick(x, self.p)):
            return super().forward(x)
        return DroppedValues.apply(x, draw_kept(x.shape, self.p), 1 / (1 - self.p))


def attend(qkv: Tensor, dropout: float, scale: float | None = None) -> Tensor:
    """Return the mean of the values by attention weights, of which some are dropped: softmax(scale q k^T) v.

    Args:
        qkv: queries, keys and values, [3, B, heads, T, D].
        dropout: of the weights; 0 in evaluation.
        scale: what products of queries and keys are multiplied by; None for one over the root of D.

    Returns:
        [B, heads, T, D].
    """
    if not is_quick(qkv, dropout):
        q, k, v = qkv
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    return DroppedAttention.apply(qkv, dropout, scale or qkv.shape[-1] ** -0.5)


def is_quick(x: Tensor, probability: float) -> bool:
    """Return whether values are dropped by random numbers of our own, and not by torch's."""
    is_partly_dropped = 0 < round(probability * STEPS) < STEPS
    return is_partly_dropped and x.device.type == "cpu" and not torch.compiler.is_compiling()


def draw_seeds(num: int) -> list[int]:
    """Return seeds for `draw_kept`, by torch's generator."""
    return torch.randint(2**63 - 1, (num,)).tolist()


def draw_kept(shape: torch.Size, probability: float, seed: int | None = None) -> Tensor:
    """Return 1 for each value that is kept and 0 for each that is dropped, int16.

    Args:
        shape: of the values.
        probability: with which a value is dropped.
        seed: which decides what is kept; None for the next one of torch's generator.
    """
    num, seed = shape.numel(), draw_seeds(1)[0] if seed is None else seed
    bits = np.random.SFC64(seed).random_raw(-(-num // 4))
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
    def forward(ctx: Any, qkv: Tensor, dropout: float, scale: float) -> Tensor:
        ctx.scale, ctx.factor, images = scale, 1 / (1 - dropout), images_at_once(qkv)
        out = qkv.new_empty(qkv[0].transpose(1, 2).shape).transpose(1, 2)  # laid out as the next layer reads it
        seeds, saved = draw_seeds(len(images)), [qkv] * 2 * len(images)

        def work(part: int) -> None:
            q, k, v = qkv[:, images[part]].contiguous()  # once, and not in each product
            weights = torch.softmax((q @ k.transpose(-2, -1)).mul_(scale), -1)
            kept = draw_kept(weights.shape, dropout, seeds[part])
            out[images[part]] = (drop(weights, kept) @ v).mul_(ctx.factor)
            saved[2 * part : 2 * part + 2] = weights, kept

        do_each(work, len(images))
        ctx.save_for_backward(qkv, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        qkv, *saved = ctx.saved_tensors
        images, of_qkv = images_at_once(qkv), torch.empty_like(qkv)

        def work(part: int) -> None:
            weights, kept = saved[2 * part : 2 * part + 2]
            q, k, v = qkv[:, images[part]].contiguous()
            of_q, of_k, of_v = of_qkv[:, images[part]]
            gradient = gradients[0][images[part]].contiguous() * ctx.factor
            of_v.copy_(drop(weights, kept).transpose(-2, -1) @ gradient)
            of_weights = drop(gradient @ v.transpose(-2, -1), kept)
            of_scores = softmax_gradient(of_weights, weights)
            of_q.copy_((of_scores @ k).mul_(ctx.scale))
            of_k.copy_((of_scores.transpose(-2, -1) @ q).mul_(ctx.scale))

        do_each(work, len(images))
        return of_qkv, None, None


def images_at_once(qkv: Tensor) -> list[slice]:
    """Return which images are gone through at a time, together all: those with about WEIGHTS_AT_ONCE weights."""
    _, num, heads, tokens, _ = qkv.shape
    step = max(1, WEIGHTS_AT_ONCE // (heads * tokens * tokens))
    return [slice(start, start + step) for start in range(0, num, step)]
