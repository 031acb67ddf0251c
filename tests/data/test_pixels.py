"""Pixels of every kind of image file: what a person sees of it, and never a guess at its range."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.pixels import Picture, decode_image


def decode(path, size=8):
    picture = decode_image(path, size)
    assert isinstance(picture, Picture), picture
    return picture.pixels


def write(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


def refused(path):
    error = decode_image(path, 8)
    assert isinstance(error, Exception)
    return str(error)


def ramp(low, high, dtype):
    """An image [8, 8] whose left half is `low` and whose right half is `high`."""
    return np.repeat(np.array([[low] * 4 + [high] * 4]), 8, axis=0).astype(dtype)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.25, 0.5)])
def test_fractions_are_scaled_from_0_to_1(low, high, tmp_path):
    pixels = decode(write(tmp_path / "x.tif", ramp(low, high, np.float32)))
    assert pixels.shape == (3, 8, 8)
    assert (pixels[:, :, 0] == round(255 * low)).all()
    assert (pixels[:, :, 7] == round(255 * high)).all()


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-0.1, 1), (0, np.nan), (0, np.inf)])
def test_fractions_beyond_0_to_1_are_refused_with_their_range(low, high, tmp_path):
    assert "scale them to [0, 1]" in refused(write(tmp_path / "x.tif", ramp(low, high, np.float32)))


def test_whole_numbers_of_32_bits_are_refused_since_nobody_knows_their_range(tmp_path):
    assert "save it with 8 or 16 bits" in refused(write(tmp_path / "x.tif", ramp(0, 255, np.int32)))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_by_their_range(suffix, tmp_path):
    pixels = decode(write(tmp_path / f"x{suffix}", ramp(0x1000, 0xFFFF, np.uint16)))
    assert (pixels[:, :, 0] == 0x10).all()
    assert (pixels[:, :, 7] == 0xFF).all()


def test_a_grey_map_that_states_its_range_is_scaled_by_it(tmp_path):
    values = ramp(0, 4095, ">u2")
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 4095\n" + values.tobytes())
    pixels = decode(tmp_path / "x.pgm")
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_twelve_bits_of_a_tiff_are_scaled_by_their_range(tmp_path):
    packed = bytes([0x00, 0x0F, 0xFF]) * 32  # 0 and 4095, turn about
    entries = [(256, 3, 8), (257, 3, 8), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1)]
    entries += [(278, 3, 8), (279, 4, len(packed))]
    table = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, kind, value in entries:
        table += struct.pack("<HHII", tag, kind, 1, value)
    (tmp_path / "x.tif").write_bytes((table + bytes(4)).ljust(200, b"\0") + packed)
    pixels = decode(tmp_path / "x.tif")
    assert (pixels[0, 0] == [0, 255] * 4).all()


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_whose_zero_is_white_is_no_negative(bits, compression, tmp_path):
    dark, bright = {8: (0, 0xC0), 16: (0, 0xC0FF), 32: (0, 0.75)}[bits]
    white = {8: 0xFF, 16: 0xFFFF, 32: 1}[bits]
    dtype = {8: np.uint8, 16: np.uint16, 32: np.float32}[bits]
    values = ramp(dark, bright, dtype)
    if bits > 8:  # below, Pillow turns them round as it writes
        values = white - values
    path = write(tmp_path / "x.tif", values, tiffinfo={262: 0}, compression=compression)
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0
    pixels = decode(path)
    assert (pixels[:, :, 0] == 0).all()
    assert abs(pixels[:, :, 7].astype(int) - 0xC0).max() <= 1


@pytest.mark.parametrize("value", [0x1000, 0x2000])
def test_the_transparent_value_of_sixteen_bits_shows_white(value, tmp_path):
    values = ramp(0x1000, 0x2000, np.uint16)
    pixels = decode(write(tmp_path / "x.png", values, transparency=value))
    for column, own in ((0, 0x1000), (7, 0x2000)):
        assert (pixels[:, :, column] == (255 if own == value else own >> 8)).all()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("value", [0, 1, -1])
def test_the_transparent_value_of_few_bits_shows_white(bits, value, tmp_path):
    white = 2**bits - 1
    values = [0, 1, white, 0, 1, white, 0, 1]
    row = int("".join(f"{each:0{bits}b}" for each in values), 2).to_bytes(bits, "big")  # 8 pixels
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0))
    content += chunk(b"tRNS", struct.pack(">H", value % 2**bits)) + chunk(b"IDAT", zlib.compress((b"\0" + row) * 8))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))
    expected = [255 if each == value % 2**bits else each * 255 // white for each in values]
    assert decode(tmp_path / "x.png")[0, 0].tolist() == expected


def transparent(colour):
    """An image [8, 8, 4] whose left half is red and whose right half has an invisible colour."""
    values = np.zeros((8, 8, 4), np.uint8)
    values[:, :4], values[:, 4:] = (255, 0, 0, 255), (*colour, 0)
    return values


def test_images_that_look_the_same_are_the_same_whatever_colours_are_invisible(tmp_path):
    colours = [(0, 0, 0), (10, 200, 90), (255, 255, 255)]
    pixels = [decode(write(tmp_path / f"{i}.png", transparent(colour))) for i, colour in enumerate(colours)]
    for other in pixels:
        assert (other == pixels[0]).all()
    assert pixels[0][:, 0, 0].tolist() == [255, 0, 0]
    assert pixels[0][:, 0, 7].tolist() == [255, 255, 255]  # white shows through


@pytest.mark.parametrize("kind", ["LA", "palette", "transparent colour", "gif", "webp"])
def test_every_kind_of_transparency_shows_white(kind, tmp_path):
    image = Image.fromarray(transparent((0, 0, 0)))
    path = tmp_path / "x.png"
    if kind == "LA":
        image.convert("LA").save(path)
    elif kind == "palette":
        image.quantize(4).save(path)
    elif kind == "transparent colour":
        image.convert("RGB").save(path, transparency=(0, 0, 0))
    else:
        path = tmp_path / f"x.{kind}"
        image.save(path, **({"lossless": True} if kind == "webp" else {}))
    pixels = decode(path)
    assert (pixels[:, :, 7] == 255).all()
    assert not (pixels[:, :, 0] == 255).all()


def test_half_transparent_colours_are_mixed_with_white(tmp_path):
    values = np.full((8, 8, 4), (0, 0, 0, 128), np.uint8)
    assert abs(int(decode(write(tmp_path / "x.png", values))[0, 0, 0]) - 127) <= 1


ASYMMETRIC = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], np.uint8)


UPRIGHT = {
    1: lambda rows: rows,
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: np.rot90(rows, -1),
    7: lambda rows: np.rot90(rows, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation_is_made_upright(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.pad(ASYMMETRIC, ((0, 0), (1, 2), (0, 0)))  # 2 rows of 5 pixels
    picture = decode_image(write(tmp_path / f"x{suffix}", stored, exif=exif), 2)
    expected = UPRIGHT[orientation](stored)
    assert picture.size == expected.shape[1::-1]
    square = ImageOps.fit(Image.fromarray(np.ascontiguousarray(expected)), (2, 2))
    assert (picture.pixels == np.asarray(square).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("damage", ["text for a number", "cut", "garbage", "odd orientation"])
def test_damaged_exif_keeps_the_image(damage, tmp_path):
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    width = struct.pack("<HHI4s", 0x0100, 2, 3, b"ab")  # text, where a number belongs
    table = b"II*\0" + struct.pack("<IH", 8, 2) + width + orientation + bytes(4)
    odd = b"II*\0" + struct.pack("<IHHHI4s", 8, 1, 0x0112, 2, 3, b"ab") + bytes(4)
    content = {"text for a number": table, "cut": table[:15], "garbage": b"\xff" * 40, "odd orientation": odd}[damage]
    path = write(tmp_path / "x.jpg", np.full((8, 8, 3), 200, np.uint8), exif=b"Exif\0\0" + content)
    assert (decode(path) == 200).all()


def test_the_size_told_is_the_file_s_and_not_that_of_a_quick_decode(tmp_path):
    path = write(tmp_path / "x.jpg", np.zeros((300, 400, 3), np.uint8))
    assert decode_image(path, 8).size == (400, 300)


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert str(decode_image(tmp_path / "a.png", 8)) == "it is no file"
