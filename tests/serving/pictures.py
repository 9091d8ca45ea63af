"""Encoded images for tests, good and bad."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def every_kind() -> list[bytes]:
    """JPEG, turned JPEG, grey, CMYK, PNG with transparency, GIF, BMP, WebP, animated GIF."""
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = picture(40, 30, 3).convert("RGBA")
    clear.putalpha(picture(40, 30, 4).convert("L"))
    frames = [picture(30, 20, seed) for seed in (5, 6)]
    return [
        encoded(picture(50, 40)),
        encoded(picture(60, 33, 1), exif=turned),
        encoded(picture(33, 60, 2).convert("L")),
        encoded(picture(25, 25, 2).convert("CMYK")),
        encoded(clear, "PNG"),
        encoded(picture(31, 47, 7), "GIF"),
        encoded(picture(29, 23, 8), "BMP"),
        encoded(picture(64, 24, 9), "WEBP"),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    ]


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header announces side × side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
