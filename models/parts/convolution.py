"""Convolutions whose weights get their gradient sooner on small maps, on a CPU with matrix tiles (AMX), in bf16.

That gradient is a sum over the columns of the maps. oneDNN, which computes it for torch, takes the columns of one row
of one image at a time, 32 of them in a tile: a map of 4 columns fills an eighth of it. Here the images of a batch are
laid side by side, with zeros between them, so that rows are long; the sum is the same.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.internals import has_matrix_tiles

WIDEST = 8  # columns of the smaller of the two maps; with 16, nothing is gained
FEWEST_WEIGHTS = 2**16  # with fewer, the copies take longer than they save
IMAGES_IN_A_ROW = 32


def use_matrix_tiles(net: nn.Module) -> None:
    """Let the larger convolutions of a network, in place, compute their weights' gradients as this file does.

    Their weights and names stay as they are; on a CPU without matrix tiles nothing changes.
    """
    if not has_matrix_tiles():
        return
    module: Any
    for module in net.modules():
        if type(module) in QUICK and module.weight.numel() >= FEWEST_WEIGHTS and is_suited(module):
            module.__class__ = QUICK[type(module)]


def is_suited(convolution: Any) -> bool:
    """Return whether images may lie side by side in a convolution: its windows reach over no gap between them."""
    kernel, stride, padding = convolution.kernel_size, convolution.stride, convolution.padding
    if convolution.groups > 1 or convolution.dilation != (1, 1) or convolution.padding_mode != "zeros":
        return False
    if isinstance(padding, str) or padding[1] > stride[1]:
        return False
    overhang = kernel[1] - 2 * padding[1]
    if convolution.transposed:
        return overhang + convolution.output_padding[1] == stride[1]
    return 1 <= overhang <= stride[1]


class Conv2d(nn.Conv2d):
    """A convolution for which images may lie side by side."""

    def forward(self, x: Tensor) -> Tensor:
        width, rest = divmod(x.shape[3], self.stride[1])
        return convolve(self, x) if gains(self, x, width) and rest == 0 else super().forward(x)


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution for which images may lie side by side."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return convolve(self, x) if gains(self, x, x.shape[3]) else super().forward(x, output_size)


QUICK: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: Conv2d, nn.ConvTranspose2d: ConvTranspose2d}


def gains(convolution: nn.Module, x: Tensor, width: int) -> bool:
    """Return whether the gradient for a batch [B, C, H, W] comes sooner with images side by side.

    Args:
        convolution: of the batch.
        x: the batch.
        width: of the smaller of the maps before and after the convolution, in columns.
    """
    trains = convolution.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    is_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return trains and is_bf16 and width <= WIDEST and math.gcd(len(x), IMAGES_IN_A_ROW) > 1


def convolve(convolution: Any, x: Tensor) -> Tensor:
    """Return a convolution of a batch, in bf16, whose gradient of the weights is taken with images side by side."""
    bias = convolution.bias if convolution.bias is None else convolution.bias.to(torch.bfloat16)
    geometry = convolution.stride, convolution.padding, convolution.transposed, convolution.output_padding
    return Convolution.apply(x.to(torch.bfloat16), convolution.weight.to(torch.bfloat16), bias, *geometry)


class Convolution(torch.autograd.Function):
    """`torch.convolution` without dilation and groups; its gradient can be differentiated once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        ctx.geometry = stride, padding, transposed, output_padding = geometry
        ctx.save_for_backward(x, weight)
        return torch.convolution(x, weight, bias, stride, padding, (1, 1), transposed, output_padding, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, transposed, output_padding = ctx.geometry
        rest = (weight, [grad.shape[1]], stride, padding, (1, 1), transposed, output_padding, 1)
        gradients = torch.ops.aten.convolution_backward
        needs_x, *needs = ctx.needs_input_grad[:3]
        of_x = gradients(grad, x, *rest, (True, False, False))[0] if needs_x else None
        of_weight = of_bias = None
        if any(needs):  # oneDNN finds both together
            gap, gap_of_x = (stride[1], 1) if transposed else (1, stride[1])
            _, of_weight, of_bias = gradients(lay_in_rows(grad, gap), lay_in_rows(x, gap_of_x), *rest, (False, *needs))
        return of_x, of_weight, of_bias, None, None, None, None


def lay_in_rows(maps: Tensor, gap: int) -> Tensor:
    """Lay the images of a batch into as few rows as IMAGES_IN_A_ROW allows, each followed by columns of zeros.

    Args:
        maps: [B, C, H, W].
        gap: number of columns of zeros.

    Returns:
        [B / N, C, H, N * (W + gap)], in the memory layout channels last.
    """
    num = math.gcd(len(maps), IMAGES_IN_A_ROW)
    rows = F.pad(maps, (0, gap)).unflatten(0, (-1, num))  # [B / N, N, C, H, W + gap]
    return rows.permute(0, 3, 1, 4, 2).flatten(2, 3).permute(0, 3, 1, 2)
