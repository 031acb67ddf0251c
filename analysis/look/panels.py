"""Panels drawn: grids of images with captions, tables of images with names, animations."""

import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from data.visible import warn
from models.core.panel import Panel

MIN_SIDE = 160  # pixels; smaller images are enlarged without smoothing
CAPTION_HEIGHT = 16  # pixels
GAP = 4  # pixels
HEADING_HEIGHT = 20  # pixels
ANIMATION_WIDTH = 640  # pixels, at most
SECONDS_A_FRAME = 0.5
NEUTRAL, RIGHT, WRONG = "#333333", "#1a7f37", "#cf222e"


def render(draws: Mapping[Path, Panel | Callable[[Path], object]]) -> dict[str, Path]:
    """Render pictures, and return the files of those that could be, by name; for each other a warning is printed.

    No figure depends on a picture, so that an odd class name, say, must not cost a run its result.

    Args:
        draws: for each file the panel that it shows, or what writes it.
    """
    done = {}
    for path, drawn in draws.items():
        try:
            if isinstance(drawn, Panel):
                draw_grid(drawn).save(path, compress_level=1)  # a quarter of the time; a tenth more bytes
            else:
                drawn(path)
            done[path.stem] = path
        except Exception as error:  # of matplotlib, of Pillow, of a full disk
            reason = textwrap.shorten(str(error) or type(error).__name__, 200)
            warn(f"{path} could not be drawn: {reason}")
    return done


def drawable(text: str) -> str:
    r"""Return a text with the letters that the font lacks as numbers, such as \u6f22: drawn, all would be one box."""
    return "".join(c if c == "\n" or ord(c) in letters() else c.encode("unicode_escape").decode() for c in text)


def as_written(text: str) -> str:
    """Return a text for matplotlib that it shows as it is written: what stands between dollars is no mathematics."""
    return drawable(text).replace("$", r"\$")


def draw_grid(panel: Panel) -> Image.Image:
    """Draw a panel as one picture, row by row; captions stand below the images, green for right and red for wrong.

    A caption may have several lines; one that is too long for its image loses its middle.
    """
    pixels = (panel.images.detach().float().cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy()
    num, height, width, _ = pixels.shape
    zoom = max(1, -(-MIN_SIDE // width))
    num_lines = max((caption.count("\n") + 1 for caption in panel.captions), default=0)
    cell_width, cell_height = width * zoom + GAP, height * zoom + GAP + CAPTION_HEIGHT * num_lines
    columns = min(panel.columns, num)
    picture = Image.new("RGB", (columns * cell_width + GAP, -(-num // columns) * cell_height + GAP), "white")
    draw, font = ImageDraw.Draw(picture), font_of(10)
    for i in range(num):
        left, top = GAP + i % columns * cell_width, GAP + i // columns * cell_height
        tile = Image.fromarray(pixels[i]).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        picture.paste(tile, (left, top))
        if panel.captions:
            colour = (RIGHT if panel.marks[i] else WRONG) if panel.marks else NEUTRAL
            for line, text in enumerate(panel.captions[i].split("\n")):
                place = (left, top + height * zoom + CAPTION_HEIGHT * line)
                draw.text(place, fitted(drawable(text), width * zoom, font), colour, font)
    return picture


@cache
def font_file() -> Path:
    """Return matplotlib's font, which has the letters of Europe's languages; Pillow's own has those of English."""
    from matplotlib import get_data_path  # imported late: takes a second

    return Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of pictures at a size in pixels."""
    return ImageFont.truetype(font_file(), size)


@cache
def letters() -> Collection[int]:
    """Return the code points of the letters that the font of pictures has."""
    from matplotlib.ft2font import FT2Font  # imported late: takes a second

    return FT2Font(str(font_file())).get_charmap().keys()


def fitted(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Return a text without its middle, if it is wider than `width` pixels."""
    kept = len(text)
    shown = text
    while kept > 1 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - (kept + 1) // 2 :]}"
    return shown


def draw_table(
    tiles: Tensor, columns: Sequence[str], rows: Sequence[str], captions: Sequence[Sequence[str]]
) -> Image.Image:
    """Draw images in rows and columns that have names.

    Args:
        tiles: [R, C, 3, H, W] images in [0, 1].
        columns: C names.
        rows: R names, of one line or several.
        captions: R lists of C captions.
    """
    grid = draw_grid(Panel(tiles.flatten(0, 1), tuple(text for row in captions for text in row), columns=len(columns)))
    font, rows = font_of(12), [drawable(name) for name in rows]
    margin = 2 * GAP + ceil(max(font.getlength(line) for name in rows for line in name.splitlines()))
    picture = Image.new("RGB", (margin + grid.width, HEADING_HEIGHT + grid.height), "white")
    picture.paste(grid, (margin, HEADING_HEIGHT))
    draw = ImageDraw.Draw(picture)
    for i, name in enumerate(columns):
        left = margin + GAP + i * ((grid.width - GAP) // len(columns))
        draw.text((left, HEADING_HEIGHT), name, "black", font, anchor="ls")
    for i, name in enumerate(rows):
        top = HEADING_HEIGHT + GAP + i * ((grid.height - GAP) // len(rows))
        draw.multiline_text((GAP, top), name, "black", font)
    return picture


def animate(paths: Sequence[Path], path: Path) -> None:
    """Write pictures of one size as a GIF that starts over and over; the last one is shown for longer."""
    frames = []
    for picture in map(Image.open, paths):
        height = round(picture.height * min(1, ANIMATION_WIDTH / picture.width))
        frames.append(picture.convert("RGB").resize((min(picture.width, ANIMATION_WIDTH), height)))
    milliseconds = [round(1000 * SECONDS_A_FRAME)] * (len(frames) - 1) + [4 * round(1000 * SECONDS_A_FRAME)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
