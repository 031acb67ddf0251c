"""Image files decoded: the central square in RGB, whatever a file's format, depth, transparency and orientation."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC_INTERPRETATION = 0x0112, 0x0102, 0x0106  # tags of EXIF and TIFF
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
LARGEST_OF_12_BITS = 4095


class Picture(NamedTuple):
    """An image file, decoded."""

    pixels: np.ndarray  # [3, H, W] uint8
    size: tuple[int, int]  # width and height of the whole image, upright
    largest_of_16_bits: int  # greatest value in a grey image of 16 bits; 0 for every other image


def decode_image(path: Path, image_size: int) -> Picture | Exception:
    """Return the central square of an image at the given size, or the error if it cannot be read."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe could take for ever
            return OSError("it is no file")
        with Image.open(path) as image:
            size = image.size
            scale_transparency(image)
            image.draft("RGB", (image_size, image_size))  # lets JPEG decode at a fraction of its size
            image.load()
            with suppress(Exception):  # of damaged EXIF
                if image.getexif().get(ORIENTATION) in SIDEWAYS:
                    size = (size[1], size[0])
            turn_upright(image)
            return picture_of(image, image_size)._replace(size=size)
    except Exception as error:  # for a damaged file Pillow raises nearly any error, struct.error for one
        return error


def scale_transparency(image: Image.Image) -> None:
    """Scale the transparent value of a grey image of 2 or 4 bits, not yet in memory, as Pillow scales its pixels."""
    value, tile = image.info.get("transparency"), getattr(image, "tile", ())
    if image.mode == "L" and isinstance(value, int) and tile:
        image.info["transparency"] = value * {"L;2": 85, "L;4": 17}.get(tile[0].args, 1)


def turn_upright(image: Image.Image) -> None:
    """Turn an image in memory as its EXIF says; where that is damaged, the pixels are sound all the same."""
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def picture_of(image: Image.Image, image_size: int) -> Picture:
    """Return the central square of an image that lies upright in memory.

    Raises:
        ValueError: its values have no range, or exceed it.
    """
    rgb, largest = to_rgb(image, bits_per_value(image))
    square = ImageOps.fit(rgb, (image_size, image_size))
    return Picture(np.asarray(square).transpose(2, 0, 1), image.size, largest)


def bits_per_value(image: Image.Image) -> int:
    """Return the bits that give a grey image of whole numbers its range; 0 where it has no range that all agree on."""
    if image.mode == "I":  # 32 bits; of a PGM file, which states its range, Pillow fills 16
        return 16 if image.format == "PPM" else 0
    tags = getattr(image, "tag_v2", {})
    return tags.get(BITS_PER_SAMPLE, (16,))[0]


def to_rgb(image: Image.Image, bits: int) -> tuple[Image.Image, int]:
    """Return an image in RGB, scaled by the range of its mode and laid over white where it is transparent.

    Args:
        image: of any mode.
        bits: of its values, if they are whole numbers of more than 8 bits.

    Returns:
        The image, and the greatest value that a grey image of 16 bits holds; 0 for every other image.

    Raises:
        ValueError: the values have no range, or exceed it.
    """
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"its fractions reach from {values.min():g} to {values.max():g}: scale them to [0, 1]")
        values = 1 - values if is_zero_white(image) else values
        return Image.fromarray((255 * values).round().astype(np.uint8)).convert("RGB"), 0
    if image.mode.startswith("I"):
        if not bits:
            raise ValueError("whole numbers of 32 bits have no range of brightness: save it with 8 or 16 bits")
        values = 2**bits - 1 - np.asarray(image) if is_zero_white(image) else np.asarray(image)
        grey = (values >> (bits - 8)).clip(0, 255).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255  # Pillow heeds it only up to 8 bits
        return Image.fromarray(grey).convert("RGB"), int(values.max()) if bits == 16 else 0
    if image.has_transparency_data:
        visible = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), visible).convert("RGB"), 0
    return image.convert("RGB"), 0


def is_zero_white(image: Image.Image) -> bool:
    """Return whether 0 stands for white in a TIFF, which Pillow heeds only up to 8 bits."""
    return getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0


def is_nearly_black(largest_of_16_bits: int) -> bool:
    """Return whether grey images of 16 bits, of this greatest value, use the range of 12 bits at most, as cameras do.

    Args:
        largest_of_16_bits: in all images; 0 where none has 16 bits.
    """
    return 0 < largest_of_16_bits <= LARGEST_OF_12_BITS
