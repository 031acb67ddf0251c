"""Pictures of what a trained run's class token looks at, in images of its validation split or in image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from analysis.look.attention import NUM_PANEL_IMAGES, attention_maps, column_names, enlarge, peak, tile_side, tiles
from analysis.look.panels import draw_table
from analysis.look.trained_run import TrainedRun
from data.errors import UserError
from data.loader import Loader
from data.photographs import centre_crop
from data.pixels import decode_image
from models.parts.labelling import labelling_of


class Examples(NamedTuple):
    """Images to look at."""

    images: Tensor  # [B, 3, H, W], normalised as the network expects
    pictures: Tensor  # [B, 3, S, S] in [0, 1], the same images as people see them
    names: list[str]
    classes: list[str]  # the true ones; an empty text for a file, whose class is not known


def choose_images(run: TrainedRun, chosen: Sequence[str]) -> Examples:
    """Return images of a run's validation split, by their indices, and image files, by their paths.

    Without a validation split indices are those of the test split, else of the training split.

    Args:
        run: whose images.
        chosen: indices and paths; none for the first few images.

    Raises:
        UserError: there is no such index, or a file cannot be read.
    """
    split = next(name for name in ("val", "test", "train") if name in run.splits)
    loader = Loader(run.splits[split], run.info, torch.device("cpu"))
    chosen = chosen or [str(i) for i in range(min(NUM_PANEL_IMAGES, len(loader)))]
    images, pictures, names, classes = [], [], [], []
    for text in chosen:
        if text.isdecimal():
            if int(text) >= len(loader):
                raise UserError(f"--images={text}: the {split} split has {len(loader)} images, 0 to {len(loader) - 1}")
            index = torch.tensor([int(text)])
            batch = loader.batch(index)
            images.append(batch.images)
            pictures.append(enlarge(loader.pictures(index)))
            names.append(f"{split} {text}")
            classes.append(run.info.named(batch.labels[0]))
        else:
            kept, side = run.info.kept_size, run.info.image_size
            images.append(loader.for_evaluation(read_square(Path(text), kept)[None]))
            large = read_square(Path(text), kept * tile_side(side) // side)[None]
            pictures.append(centre_crop(large, tile_side(side)).float() / 255)
            names.append(Path(text).stem)
            classes.append("")
    return Examples(torch.cat(images), torch.cat(pictures), names, classes)


def read_square(path: Path, side: int) -> Tensor:
    """Return the central square of an image file, [3, side, side] uint8.

    Raises:
        UserError: there is no such file, or it is no image.
    """
    picture = decode_image(path, side)
    if isinstance(picture, Exception):
        reason = "there is no such file" if isinstance(picture, FileNotFoundError) else f"no image ({picture})"
        raise UserError(f"--images={path}: {reason}; give indices of the validation split, or image files")
    return torch.from_numpy(picture.pixels.copy())


def network_with_attention(run: TrainedRun) -> Any:
    """Return the network of a run, from images to logits.

    Raises:
        UserError: it has no attention; one of timm may still say so when it is asked for its weights.
    """
    net: Any = run.objective.image_network() if hasattr(run.objective, "image_network") else None
    if not hasattr(net, "attention_weights"):
        raise UserError(f"{run.settings.model} has no attention: nano_vit and timm's ViTs do")
    return net


@torch.no_grad()
def draw_attention(run: TrainedRun, chosen: Sequence[str], out: Path, each_head: bool) -> list[Path]:
    """Draw what a run's class token looks at, and return the files that were written.

    Args:
        run: of a vision transformer.
        chosen: images, as for `choose_images`.
        out: file of the picture, which has a row for each image.
        each_head: whether to write a picture for each image, too, with a row for each head.

    Raises:
        UserError: the run's network has no attention, or there is no such image.
    """
    net = network_with_attention(run)
    examples = choose_images(run, chosen)
    maps = attention_maps(net, examples.images)
    labelling = labelling_of(run.info)
    predicted = [labelling.caption(own, None, run.info) for own in labelling.probabilities(net(examples.images))]
    labels = [
        f"{name}\n" + (f"is {true}\n" if true else "") + f"taken for\n{guess}"
        for name, true, guess in zip(examples.names, examples.classes, predicted, strict=True)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = [out]
    draw_layers(examples.pictures, labels, maps.columns()).save(out)
    if each_head:
        for i, (picture, label) in enumerate(zip(examples.pictures, labels, strict=True)):
            paths.append(out.with_name(f"{out.stem}_heads_{i + 1}.png"))
            draw_heads(picture, label, maps.heads[:, i]).save(paths[-1])
    return paths


def draw_layers(pictures: Tensor, labels: Sequence[str], maps: Tensor) -> Image.Image:
    """Draw a row for each picture: the picture [3, S, S], then the picture under each of its maps [B, L + 1, h, w]."""
    names = column_names(maps.shape[1] - 1)
    return draw_table(tiles(pictures, maps), ("image", *names), labels, peaks(maps))


def draw_heads(picture: Tensor, label: str, heads: Tensor) -> Image.Image:
    """Draw a picture [3, S, S] under the maps [L, heads, h, w] of its heads.

    The rows are the mean of the heads, then each head; the columns are the layers.
    """
    num_layers, num_heads, *_ = heads.shape
    maps = torch.cat([heads.mean(dim=1, keepdim=True), heads], dim=1).transpose(0, 1)  # [1 + heads, L, h, w]
    names = [f"mean of heads\n{label}", *(f"head {i + 1}" for i in range(num_heads))]
    rows = tiles(picture.expand(1 + num_heads, -1, -1, -1), maps)
    return draw_table(rows, ("image", *column_names(num_layers)[:-1]), names, peaks(maps))


def peaks(maps: Tensor) -> list[list[str]]:
    """Return the captions of rows of maps [R, C, h, w], of which each comes after a picture without a caption."""
    return [["", *(peak(one) for one in row)] for row in maps]
