"""What is done to a file, of whatever kind: each damage has a name, and is a function of the file's path."""

import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

Damage = tuple[str, Callable[[Path], object]]
TEXTS = (".json", ".jsonl", ".yaml")
NUM_FLIPS = 6
DEEP = 100_000


def damages(path: Path, draw: random.Random) -> Iterator[Damage]:
    """Yield damages to a file that is whole, whatever it holds."""
    content = path.read_bytes()
    for tenth in range(10):
        yield f"cut at {tenth} tenths", writer(content[: len(content) * tenth // 10])
    for i in range(NUM_FLIPS):
        reach = len(content) if i % 2 else min(len(content), 200)
        flips = [(draw.randrange(max(1, reach)), draw.randrange(8)) for _ in range((1, 5, 50)[i % 3])]
        yield f"bits flipped, {i}", writer(flipped(content, flips))
    yield "something before", writer(b"\0\xff\xfe" + content)
    yield "something after", writer(content + b"\0" * 100 + b"}]")
    yield "zeros", writer(bytes(min(len(content), 10**6)))
    yield "noise", writer(draw.randbytes(5000))
    yield "three megabytes", writer(b"x" * 3_000_000)
    yield from places()
    if path.suffix in TEXTS:
        yield from damages_of_text(content, draw)
    if path.suffix == ".png":
        yield from damages_of_picture(content)


def writer(content: bytes) -> Callable[[Path], object]:
    """Return what replaces a file's content."""
    return lambda path: path.write_bytes(content)


def flipped(content: bytes, flips: list[tuple[int, int]]) -> bytes:
    """Return a content with some bits flipped, each given by its byte and its place in it."""
    changed = bytearray(content)
    for place, bit in flips:
        if place < len(changed):
            changed[place] ^= 1 << bit
    return bytes(changed)


def places() -> Iterator[Damage]:
    """Yield what is no file where a file should be."""
    yield "gone", Path.unlink
    for name, make in (
        ("folder", Path.mkdir),
        ("fifo", os.mkfifo),
        ("dangling link", lambda path: path.symlink_to("nowhere")),
        ("link to itself", lambda path: path.symlink_to(path.name)),
        ("link to a device without end", lambda path: path.symlink_to("/dev/zero")),
        ("link to a folder", lambda path: path.symlink_to(".")),
        ("full folder", lambda path: (path / "a" / "b").mkdir(parents=True)),
    ):
        yield name, lambda path, make=make: (remove(path), make(path))


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def damages_of_text(content: bytes, draw: random.Random) -> Iterator[Damage]:
    """Yield damages to a file of text."""
    lines = content.splitlines(keepends=True)
    place = draw.randrange(max(1, len(lines)))
    yield "line twice", writer(b"".join(lines[: place + 1] + lines[place:]))
    yield "line gone", writer(b"".join(lines[:place] + lines[place + 1 :]))
    yield "lines in another order", writer(b"".join(draw.sample(lines, len(lines))))
    yield "marked as UTF-8", writer(b"\xef\xbb\xbf" + content)
    yield "UTF-16", writer(content.decode().encode("utf-16"))
    yield "latin-1", writer(content.replace(b"a", b"\xe9", 1))
    yield "carriage returns", writer(content.replace(b"\n", b"\r"))
    yield "tabs", writer(content.replace(b"  ", b"\t"))
    yield "NUL in a text", writer(content.replace(b"a", b"a\0", 3))
    for name, text in {
        "deep list": b"[" * DEEP,
        "deep object": b'{"a":' * DEEP,
        "deep, and closed": b"[" * 5000 + b"]" * 5000,
        "null": b"null",
        "list": b"[]",
        "object": b"{}",
        "text": b'"text"',
        "number": b"9" * 5000,
        "list of lists": b"[[1], [2]]",
        "bomb": bomb(),
        "code": b"!!python/object/apply:os.system ['touch outside']\n",
        "part of itself": b"&a [*a]\n",
        "merged with itself": b"a: &a\n  <<: *a\n",
        "two documents": content + b"---\n" + content,
        "odd keys": b'{1: 2, null: 3, [1]: 4, "": 5, true: 6}',
        "date": b"2026-02-30",
    }.items():
        yield name, writer(text)


def bomb() -> bytes:
    """Return 500 bytes of YAML that are gigabytes with its aliases written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    return "\n".join([*lines, "parameters: {lr: {values: *a8}}", "method: random", "metric: {name: *a8}"]).encode()


def damages_of_picture(content: bytes) -> Iterator[Damage]:
    """Yield pictures whose header lies about their size."""
    for name, size in {
        "900 megapixels": (30_000, 30_000),
        "all in a row": (2**31 - 1, 1),
        "no size": (0, 0),
        "vast": (2**31 - 1, 2**31 - 1),
    }.items():
        head = content[12:16] + struct.pack(">II", *size) + content[24:29]
        yield name, writer(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])
    yield "a word of an evil kind", writer(b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 99)
