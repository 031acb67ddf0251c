"""What a vision transformer's class token looks at, by `python -m analysis.attention RUN --images 3 7 cat.jpg`.

A picture with a row for each image and columns for the layers, the mean of each one's heads, and for attention
rollout; with --heads also a picture for each image with a row for each head. The colours of each map run from
its least weight, dark, to its greatest, bright; the peak below it is its greatest weight over its mean, 1.0x
where the class token looks everywhere alike.
"""

import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from math import ceil, isqrt
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from analysis.command_line import Parser, run_program
from analysis.look.panels import Panel, draw_table
from analysis.look.trained_run import TrainedRun, find_run, load_run
from analysis.record import run_folder
from data.errors import UserError
from data.folder import decode_image
from data.loader import Loader

MIN_SIDE = 192  # pixels; smaller pictures are enlarged without smoothing, so that the maps on them can be smooth
OPACITY = 0.6  # of the colours over the grey picture
NUM_PANEL_IMAGES = 8
BATCH_SIZE = 8  # a ViT-B/16 of 224 pixels has 22 MB of weights an image


@runtime_checkable
class HasAttention(Protocol):
    """A network whose class token's attention can be had."""

    num_prefix_tokens: int  # the class token, which comes first, and registers and the like; then come the patches

    def attention_weights(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> one [B, heads, T, T] a layer, lowest first; patches stand row by row in a square."""


class AttentionMaps(NamedTuple):
    """Where the class token looks."""

    heads: Tensor  # [L, B, heads, h, w] weights of each layer, lowest first
    rollout: Tensor  # [B, h, w]

    def columns(self) -> Tensor:
        """Mean of each layer's heads, then rollout: [B, L + 1, h, w]."""
        return torch.cat([self.heads.mean(dim=2).transpose(0, 1), self.rollout[:, None]], dim=1)


def class_attention(weights: Sequence[Tensor], num_prefix_tokens: int) -> Tensor:
    """What the class token looks at in every layer and head.

    Args:
        weights: one [B, heads, T, T] a layer, row 0 the class token's.
        num_prefix_tokens: tokens before the patches, the class token included.

    Returns:
        [L, B, heads, h, w] weights of the patches; with the prefix tokens' they would sum to 1.
    """
    return as_map(torch.stack([layer[:, :, 0, num_prefix_tokens:] for layer in weights]))


def rollout(weights: Sequence[Tensor], num_prefix_tokens: int) -> Tensor:
    """How much of each patch reaches the class token through all layers, were attention all there is to them.

    The mean of a layer's heads and the identity, for its residual branch, each make half of what a token is
    mixed from; the layers' matrices are multiplied.

    Args:
        weights: one [B, heads, T, T] a layer, lowest first.
        num_prefix_tokens: tokens before the patches, the class token included.

    Returns:
        [B, h, w] shares of the patches; with the prefix tokens' they would sum to 1.

    Source: Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928
    """
    num, _, num_tokens, _ = weights[0].shape
    share = torch.zeros(num, 1, num_tokens, device=weights[0].device)
    share[:, :, 0] = 1
    with torch.autocast(share.device.type, enabled=False):
        for layer in reversed(weights):  # from the top, since the class token's row is all that is wanted
            share = (share + share @ layer.mean(dim=1)) / 2
    return as_map(share[:, 0, num_prefix_tokens:])


def as_map(patches: Tensor) -> Tensor:  # [..., h * w] -> [..., h, w]
    """Patches, row by row, as the square they were cut from."""
    side = isqrt(patches.shape[-1])
    assert side * side == patches.shape[-1], f"{patches.shape[-1]} patches make no square"
    return patches.unflatten(-1, (side, side))


@torch.no_grad()
def attention_maps(net: HasAttention, images: Tensor) -> AttentionMaps:
    """Attention of a network in evaluation mode over images [B, 3, H, W], on the CPU."""
    heads, shares = [], []
    for batch in images.split(BATCH_SIZE):
        weights = net.attention_weights(batch)
        heads.append(class_attention(weights, net.num_prefix_tokens).cpu())
        shares.append(rollout(weights, net.num_prefix_tokens).cpu())
    return AttentionMaps(torch.cat(heads, dim=1), torch.cat(shares))


def overlay(picture: Tensor, attention: Tensor) -> Tensor:
    """A grey picture under the colours of an attention map, smoothly enlarged.

    Grey leaves the colours to the map; darkening the picture where the weights are small was tried, and a dark
    object is then not to be told from one that is not looked at.

    Args:
        picture: [3, H, W] in [0, 1].
        attention: [h, w], scaled from its least to its greatest; a uniform one is dark throughout.

    Returns:
        [3, H, W] in [0, 1].
    """
    from matplotlib import colormaps  # imported late: takes a second

    scaled = (attention - attention.min()) / (attention.max() - attention.min()).clamp(min=1e-12)
    large = F.interpolate(scaled[None, None].float(), picture.shape[1:], mode="bilinear", align_corners=False)
    colours = torch.from_numpy(colormaps["inferno"](large[0, 0].numpy())[:, :, :3]).permute(2, 0, 1)
    return torch.lerp(picture.mean(dim=0, keepdim=True).expand(3, -1, -1), colours.to(picture), OPACITY)


def tile_side(image_size: int) -> int:
    """Pixels that an image's side is shown in: a multiple of its own."""
    return image_size * ceil(MIN_SIDE / image_size)


def tiles(pictures: Tensor, maps: Tensor) -> Tensor:
    """Each picture, then the picture with each of its maps: [B, 3, S, S] and [B, K, h, w] -> [B, 1 + K, 3, S, S]."""
    rows = [[picture, *(overlay(picture, one) for one in own)] for picture, own in zip(pictures, maps, strict=True)]
    return torch.stack([torch.stack(row) for row in rows])


def enlarge(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, S, S] at the size they are shown in, each pixel a square, on the CPU."""
    return F.interpolate(pictures.cpu(), tile_side(pictures.shape[-1]), mode="nearest-exact")


def column_names(num_layers: int) -> list[str]:
    """Headings of a mean of each layer's heads, and of rollout."""
    return [*(f"layer {i + 1}" for i in range(num_layers)), "rollout"]


def peak(attention: Tensor) -> str:
    """How far a map is from uniform."""
    return f"peak {attention.max() / attention.mean():.1f}x"


def attention_panel(net: HasAttention, images: Tensor, pictures: Tensor, captions: Sequence[str]) -> Panel:
    """Attention over some images, a row each: the picture, the mean of each layer's heads, and rollout.

    Args:
        net: in evaluation mode.
        images: [B, 3, H, W] as the network is given them.
        pictures: [B, 3, S, S] in [0, 1], the same as people see them.
        captions: one a picture.
    """
    maps = attention_maps(net, images).columns()
    names = column_names(maps.shape[1] - 1)
    texts: list[str] = []
    for caption, own in zip(captions, maps, strict=True):
        texts += [caption, *(f"{name}, {peak(one)}" for name, one in zip(names, own, strict=True))]
    return Panel(tiles(enlarge(pictures), maps).flatten(0, 1), tuple(texts), columns=1 + len(names))


class Examples(NamedTuple):
    """Images to look at."""

    images: Tensor  # [B, 3, H, W] as the network is given them
    pictures: Tensor  # [B, 3, S, S] in [0, 1]
    names: list[str]
    classes: list[str]  # the true ones; empty where they are not known


def choose_images(run: TrainedRun, chosen: Sequence[str]) -> Examples:
    """Images of a run's validation split by their indices, or of files.

    Raises:
        UserError: no such index, or a file that cannot be read.
    """
    split = next(name for name in ("val", "test", "train") if name in run.splits)
    loader = Loader(run.splits[split], run.info, torch.device("cpu"))
    chosen = chosen or [str(i) for i in range(min(NUM_PANEL_IMAGES, len(loader)))]
    images, pictures, names, classes = [], [], [], []
    for text in chosen:
        if text.isdigit():
            if int(text) >= len(loader):
                raise UserError(f"--images={text}: the {split} split has {len(loader)} images, 0 to {len(loader) - 1}")
            index = torch.tensor([int(text)])
            batch = loader.batch(index)
            images.append(batch.images)
            pictures.append(enlarge(loader.pictures(index)))
            names.append(f"{split} {text}")
            classes.append(run.info.classes[int(batch.labels)])
        else:
            small, large = (
                read_square(Path(text), side) for side in (run.info.image_size, tile_side(run.info.image_size))
            )
            images.append(loader.normalise(small[None]))
            pictures.append(large[None].float() / 255)
            names.append(Path(text).stem)
            classes.append("")
    return Examples(torch.cat(images), torch.cat(pictures), names, classes)


def read_square(path: Path, side: int) -> Tensor:
    """The central square of an image file, [3, side, side] uint8."""
    pixels = decode_image(path, side)
    if isinstance(pixels, Exception):
        reason = "there is no such file" if isinstance(pixels, FileNotFoundError) else f"no image ({pixels})"
        raise UserError(f"--images={path}: {reason}; give indices of the validation split, or image files")
    return torch.from_numpy(pixels.copy())


def network_with_attention(run: TrainedRun) -> Any:
    """The network of a run.

    Raises:
        UserError: it has no attention.
    """
    net: Any = run.objective.image_network() if hasattr(run.objective, "image_network") else None
    if not hasattr(net, "attention_weights"):
        raise UserError(f"{run.settings.model} has no attention: nano_vit and timm's ViTs do")
    return net  # which may still say, when it is asked for its weights, why it has none


def draw_layers(examples: Examples, labels: Sequence[str], maps: Tensor) -> Image.Image:
    """A row for each image: the picture, and each of its maps [B, L + 1, h, w]."""
    notes = [["", *(peak(one) for one in own)] for own in maps]
    names = column_names(maps.shape[1] - 1)
    return draw_table(tiles(examples.pictures, maps), ("image", *names), labels, notes)


def draw_heads(picture: Tensor, label: str, heads: Tensor) -> Image.Image:
    """A row for the mean of the heads and for each, a column for each layer; heads: [L, heads, h, w]."""
    num_layers, num_heads, *_ = heads.shape
    maps = torch.cat([heads.mean(dim=1, keepdim=True), heads], dim=1).transpose(0, 1)  # [1 + heads, L, h, w]
    names = [f"mean of heads\n{label}", *(f"head {i + 1}" for i in range(num_heads))]
    notes = [["", *(peak(one) for one in own)] for own in maps]
    return draw_table(
        tiles(picture.expand(1 + num_heads, -1, -1, -1), maps), ("image", *column_names(num_layers)[:-1]), names, notes
    )


@torch.no_grad()
def draw_run(options: Namespace) -> None:
    """Write the pictures of a run and print where they are."""
    folder = find_run(options.run)
    out = options.out or folder / run_folder.PANELS / "attention.png"
    if out.suffix != ".png":
        raise UserError(f"--out={out}: give a file name that ends in .png")
    run = load_run(folder, options.data_dir)
    net = network_with_attention(run)
    examples = choose_images(run, options.images)
    maps = attention_maps(net, examples.images)
    confidence, predicted = net(examples.images).softmax(dim=1).max(dim=1)
    labels = [
        f"{name}\n" + (f"is {true}\n" if true else "") + f"taken for {run.info.classes[guess]}\n{share:.0%} sure"
        for name, true, guess, share in zip(examples.names, examples.classes, predicted, confidence, strict=True)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = [out]
    draw_layers(examples, labels, maps.columns()).save(out)
    if options.heads:
        for i, (picture, label) in enumerate(zip(examples.pictures, labels, strict=True)):
            paths.append(out.with_name(f"{out.stem}-heads-{i + 1}.png"))
            draw_heads(picture, label, maps.heads[:, i]).save(paths[-1])
    print(*paths, sep="\n")


def main(arguments: Sequence[str]) -> int:
    """Draw attention, or say in one line what keeps it from being drawn; returns the exit code."""
    parser = Parser(
        prog="python -m analysis.attention", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, or its id in runs/ ($VISION_SWEEPS_RUNS)")
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="indices into the validation split (without one the test split's, else the training split's), or image "
        f"files, whose central square is shown; default: the first {NUM_PANEL_IMAGES} of the split",
    )
    parser.add_argument(
        "--heads", action="store_true", help="also write a picture for each image, FILE-heads-1.png, ..."
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: panels/attention.png in the run's folder")
    parser.add_argument("--data_dir", default="", help="as for train.py; default: as the run was told")
    return run_program("attention", lambda: draw_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
