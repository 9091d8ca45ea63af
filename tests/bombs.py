"""Image files that are small, announce few pixels and would cost much to decode; and odd ones that cost nothing."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

from PIL import Image

SMALL = Image.new("RGB", (16, 16), "teal")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as Pillow writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_of_scans(width: int, height: int, scans: int, frame: int = 0xC2, between: bytes = b"") -> bytes:
    """A JPEG whose scans hold nothing but go over all pixels; `between` stands in front of all but the first."""
    progressive = frame in (0xC2, 0xCA)
    small = encoded(SMALL, "JPEG", progressive=progressive)
    at = small.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    sizes = b"\xff" + bytes([frame]) + small[at + 2 : at + 5] + struct.pack(">HH", height, width)
    tables, place = b"", small.find(b"\xff\xc4")
    while place >= 0:
        tables += small[place : place + 2 + int.from_bytes(small[place + 2 : place + 4], "big")]
        place = small.find(b"\xff\xc4", place + 1)
    colours = b"\3\1\0\2\x11\3\x11" + bytes(3) if progressive else b"\1\1\0\0\x3f\0"
    more = b"\1\1\0\1\x3f\0" if progressive else colours
    return (
        small[:at]
        + sizes
        + small[at + 9 : at + 2 + int.from_bytes(small[at + 2 : at + 4], "big")]
        + tables
        + segment(0xDA, colours)
        + (between + segment(0xDA, more)) * (scans - 1)
        + b"\xff\xd9"
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@functools.cache
def deflated(megabytes: int) -> bytes:
    """Zeros, packed as tightly as it goes."""
    packer, block = zlib.compressobj(9), bytes(1_000_000)
    return b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


def png_of_texts(count: int, kind: bytes = b"zTXt", behind: bool = False) -> bytes:
    """A PNG with texts that unpack to 8 MB each, before or behind the pixels."""
    start = {b"zTXt": b"key\0\0", b"iTXt": b"key\0\1\0\0\0", b"iCCP": b"key\0\0"}[kind]
    small = encoded(SMALL, "PNG")
    at = small.index(b"IEND") - 4 if behind else 33
    return small[:at] + chunk(kind, start + deflated(7)) * count + small[at:]


def gif_of_pieces(count: int, size: int = 1) -> bytes:
    """A GIF whose pixel data come in many tiny pieces."""
    head = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<4HB", 0, 0, 16, 16, 0) + b"\2" + (bytes([size]) + bytes(size)) * count + b"\0;"


def jpeg_with_two_sizes() -> bytes:
    """A JPEG of 9,000 x 9,000 pixels with a frame header of 1 x 1 in a comment."""
    false = b"\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0"
    comment = bytearray(3000)
    # Where the first kilobyte, in which the graph looks first, has just nine bytes left.
    comment[1015 - 6 : 1015 - 6 + len(false)] = false
    large = jpeg_of_scans(9000, 9000, 1)
    return large[:2] + segment(0xFE, bytes(comment)) + large[2:]


BOMBS = {
    "progressive of 500 scans": (jpeg_of_scans(2000, 2000, 500), "500 scans, at most 64"),
    "sequential of 500 scans": (jpeg_of_scans(2000, 2000, 500, 0xC0), "500 scans, at most 64"),
    "arithmetic of 500 scans": (jpeg_of_scans(2000, 2000, 500, 0xCA), "500 scans, at most 64"),
    "scans of too many pixels": (jpeg_of_scans(7000, 7000, 60), "60 scans of 7000 x 7000 pixels, at most 1000000000"),
    "scans behind fill bytes": (jpeg_of_scans(2000, 2000, 300, between=b"\xff" * 9), "300 scans, at most 64"),
    "scans behind comments": (jpeg_of_scans(500, 500, 99, between=segment(0xFE, bytes(9000))), "99 scans, at most 64"),
    "ten thousand scans": (jpeg_of_scans(3000, 3000, 10_000), "10000 scans, at most 64"),
    "two sizes": (jpeg_with_two_sizes(), "header: 9000 x 9000, at most 50000000 pixels"),
    "zTXt": (png_of_texts(1000), "1000 compressed texts and profiles, at most 64"),
    "zTXt behind the pixels": (png_of_texts(200, behind=True), "200 compressed texts and profiles, at most 64"),
    "iTXt": (png_of_texts(300, b"iTXt"), "300 compressed texts and profiles, at most 64"),
    "chunks": (encoded(SMALL, "PNG")[:33] + chunk(b"teXt", b"") * 500_000, "more than 2048 chunks"),
    "chunks of pixels": (
        encoded(SMALL, "PNG")[:33] + (chunk(b"IDAT", b"") + chunk(b"IDAT", b"a")) * 50_000,
        "more than 2048 chunks",
    ),
    "png of 2^63 pixels": (
        encoded(SMALL, "PNG")[:16] + struct.pack(">II", 2**31, 2**32 - 1) + encoded(SMALL, "PNG")[24:],
        "header: 2147483648 x 4294967295, at most 50000000 pixels",
    ),
    "pixel data that go on": (
        encoded(SMALL, "PNG")[:33] + chunk(b"IDAT", deflated(300)) + chunk(b"IEND", b""),
        "bytes of pixel data, at most 9 per pixel and 65536",
    ),
    "empty pixel chunks": (
        encoded(SMALL, "PNG")[:33] + chunk(b"IDAT", b"") * 300_000,
        "3600000 bytes of pixel data, at most 9 per pixel and 65536",
    ),
    "segments": (b"\xff\xd8" + segment(0xFE, b"") * 100_000, "truncated or broken image header"),
}
# Not refused, or not by these limits: they cost little.
HARMLESS = {
    "64 texts": png_of_texts(64),
    "profiles": png_of_texts(64, b"iCCP"),
    "64 scans": jpeg_of_scans(1000, 1000, 64),
    "end in a comment": jpeg_of_scans(2000, 2000, 500, between=segment(0xFE, b"\xff\xd9")),
    "gif in tiny pieces": gif_of_pieces(131_000),
    "gif in more tiny pieces": gif_of_pieces(4_000_000),
    "pixel data that go on a little": encoded(SMALL, "PNG")[:33] + chunk(b"IDAT", deflated(60)) + chunk(b"IEND", b""),
}
