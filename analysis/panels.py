"""Grids of images with captions, as pictures."""

from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS = 8
MIN_SIDE = 160  # pixels; smaller images are enlarged without smoothing
CAPTION_HEIGHT = 16  # pixels
GAP = 4  # pixels
NEUTRAL, RIGHT, WRONG = "#333333", "#1a7f37", "#cf222e"


class Panel(NamedTuple):
    """A grid of images to look at."""

    images: Tensor  # [N, 3, H, W] in [0, 1]
    captions: tuple[str, ...] = ()  # one an image, or none
    marks: tuple[bool, ...] = ()  # whether each image came out right, or none
    columns: int = COLUMNS


def draw_grid(panel: Panel) -> Image.Image:
    """A panel as one picture, row by row; captions below the images, green for right and red for wrong.

    Args:
        panel: images [N, 3, H, W] in [0, 1], with N captions and N marks, or none.
    """
    pixels = (panel.images.detach().float().cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy()
    num, height, width, _ = pixels.shape
    zoom = max(1, -(-MIN_SIDE // width))
    cell_width, cell_height = width * zoom + GAP, height * zoom + GAP + (CAPTION_HEIGHT if panel.captions else 0)
    columns = min(panel.columns, num)
    picture = Image.new("RGB", (columns * cell_width + GAP, -(-num // columns) * cell_height + GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for i in range(num):
        left, top = GAP + i % columns * cell_width, GAP + i // columns * cell_height
        tile = Image.fromarray(pixels[i]).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        picture.paste(tile, (left, top))
        if panel.captions:
            colour = (RIGHT if panel.marks[i] else WRONG) if panel.marks else NEUTRAL
            draw.text((left, top + height * zoom), panel.captions[i], colour, font)
    return picture
