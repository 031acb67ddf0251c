"""Network layers that two or more models share, and checks that images suit them."""

import torch
from torch import Tensor, nn

from data.dataset import DatasetInfo
from data.errors import UserError
from data.visible import counted
from models.core.settings import Settings
from models.parts.dropout import attend


def conv_blocks(width: int, depth: int, convolutions: int = 1) -> list[nn.Module]:
    """Return the layers of `depth` blocks, each of 3x3 convolutions with batch norm and ReLU, and max pooling.

    Each block halves the side of the maps and has twice the channels of the block before. Together they turn
    [B, 3, H, W] into [B, width * 2^(depth - 1), H / 2^depth, W / 2^depth].

    Args:
        width: channels of the first block.
        depth: number of blocks.
        convolutions: of each block; the first one changes the number of channels.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for block in range(depth):
        outputs = width << block
        for _ in range(convolutions):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        layers.insert(-1, nn.MaxPool2d(2))  # before the last ReLU, which then has a quarter to do, of the same result
    return layers


def check_classes(info: DatasetInfo, what: str, otherwise: str = "") -> None:
    """Refuse a dataset with fewer than two classes.

    Args:
        info: the dataset's facts.
        what: the model that needs classes, such as "a classifier", for the message.
        otherwise: another remedy, for the end of the message.

    Raises:
        UserError: there are fewer than two classes.
    """
    if len(info.classes) < 2:
        raise UserError(
            f"{info.name} has {counted(len(info.classes), 'labelled class', 'labelled classes')}, {what} needs 2: "
            f"put the images of each class into a folder of its own{otherwise}"
        )


def check_one_class(info: DatasetInfo, what: str, otherwise: str = "") -> None:
    """Refuse a dataset with fewer than two classes, as `check_classes` does, or with several labels an image.

    Raises:
        UserError: there are too few, or several.
    """
    check_classes(info, what, otherwise)
    if info.several_labels:
        raise UserError(f"{info.name} has several labels an image, {what} needs one class: give --model=cnn{otherwise}")


def check_halvings(depth: int, image_size: int) -> None:
    """Refuse images whose side cannot be halved `depth` times.

    Raises:
        UserError: the side in pixels is not divisible by 2^depth.
    """
    if image_size % (1 << depth):
        raise UserError(
            f"--depth={depth} halves {image_size}-pixel images to a fraction: "
            f"lower it, or give an --image_size that {1 << depth} divides"
        )


def one_hot(labels: Tensor, num_labels: int) -> Tensor:
    """Return labels [B] as one-hot vectors [B, num_labels]; for a model without labels, vectors of length 0."""
    if not num_labels:  # there may be several labels an image then
        return labels.new_zeros(labels.shape[0], 0, dtype=torch.float32)  # len() would be a constant to an export
    return (labels.unsqueeze(1) == torch.arange(num_labels, device=labels.device)).float()


class PatchEmbedding(nn.Module):
    """A layer that divides images into patches, row by row, and embeds each patch linearly."""

    def __init__(self, image_size: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        self.num_patches = (image_size // patch_size) ** 2

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, N, D]
        return self.project(images).flatten(2).transpose(1, 2)


class ConvolutionalEmbedding(nn.Module):
    """A layer that embeds patches by 3x3 convolutions and max pooling, so that neighbouring patches overlap.

    The tokenizer of https://arxiv.org/abs/2104.05704: each stage halves the side of the maps, and the last one has
    `dim` channels, the others an eighth of them.

    Raises:
        UserError: the side of a patch is no power of two from 2 on.
    """

    def __init__(self, image_size: int, patch_size: int, dim: int) -> None:
        super().__init__()
        stages = patch_size.bit_length() - 1
        if patch_size != 1 << stages or not stages:
            raise UserError(f"--patch_size={patch_size} is not reached by halving: give 2, 4, 8, ... or --stem=patches")
        channels = [3, *[max(1, dim // 8)] * (stages - 1), dim]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1), nn.ReLU()]
        self.stages = nn.Sequential(*layers)
        self.num_patches = (image_size // patch_size) ** 2

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, N, D]
        return self.stages(images).flatten(2).transpose(1, 2)


def check_patch_size(patch_size: int, image_size: int) -> None:
    """Refuse patches that do not tile the image.

    Raises:
        UserError: the patch's side does not divide the image's side.
    """
    if image_size % patch_size:
        fitting = near_divisors(patch_size, image_size)
        raise UserError(f"--patch_size={patch_size} does not divide the {image_size}-pixel images: give {fitting}")


def check_heads(settings: Settings, heads: str, width: str) -> None:
    """Refuse attention heads of no whole width.

    Args:
        settings: of a model.
        heads: name of the setting with their number.
        width: name of that with the width they share.

    Raises:
        UserError: their number does not divide the width.
    """
    number, shared = getattr(settings, heads), getattr(settings, width)
    if shared % number:
        fitting = near_divisors(number, shared)
        raise UserError(f"--{heads}={number} does not divide --{width}={shared}: give {fitting}, or another --{width}")


def near_divisors(number: int, whole: int) -> str:
    """Return in words which divisors of `whole` come next below and above a number that is none."""
    below = max(it for it in range(1, min(number, whole + 1)) if whole % it == 0)
    above = next((f" or {it}" for it in range(number, whole + 1) if whole % it == 0), "")
    return f"{below}{above}"


class SelfAttention(nn.Module):
    """Multi-head self-attention, https://arxiv.org/abs/1706.03762, whose attention weights can be read out.

    `forward` uses a fused kernel, or on a CPU with dropout one that keeps the weights for the backward pass alone;
    `weights` computes them.

    Args:
        dim: of a token.
        num_heads: heads, among which it is divided.
        dropout: of the attention weights.
        scale: what products of queries and keys are multiplied by; None for one over the root of the width of a head.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, scale: float | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.scale = scale
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def split_heads(self, x: Tensor) -> Tensor:  # [B, T, D] -> [3, B, heads, T, D / heads]
        return self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        mixed = attend(self.split_heads(x), self.dropout if self.training else 0.0, self.scale)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def scores(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, heads, T, T] float32
        q, k, _ = self.split_heads(x)
        with torch.autocast(x.device.type, enabled=False):  # the fused kernel does not round the scores, either
            return q.float() @ k.float().transpose(-2, -1) * (self.scale or q.shape[-1] ** -0.5)

    def weights(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, heads, T, T] float32, rows sum to 1
        return torch.softmax(self.scores(x), dim=-1)


def is_exported() -> bool:
    """Return whether the network is being traced for an export, in which the batch may have any size."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()
