"""Inputs of golden requests: images in every format, texts of many kinds."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

TEXTS = (
    "a brown dog runs through the snow",
    "",
    " \t ",
    "Zwei Hunde spielen im Schnee, während die Sonne scheint!",
    "两只狗在雪地里奔跑 🐕",
    "a",
    "a man in a red shirt " * 60,
)


def image_files(max_pixels: int) -> list[bytes]:
    """Encoded images: JPEG upright, turned and grey, PNG with transparency, GIF, BMP and WebP; wide, tall and tiny.

    Args:
        max_pixels: limit for their pixels.
    """
    sizes = [(320, 240), (200, 300), (97, 64), (150, 150), (64, 33), (40, 90), (500, 120)]
    scale = min(1.0, (max_pixels / max(width * height for width, height in sizes)) ** 0.5)
    small = [(max(1, int(scale * width)), max(1, int(scale * height))) for width, height in sizes]
    colour = [_picture(width, height, seed) for seed, (width, height) in enumerate(small)]
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = colour[3].convert("RGBA")
    clear.putalpha(colour[3].convert("L"))
    return [
        _encoded(colour[0], "JPEG", quality=90),
        _encoded(colour[1], "JPEG", exif=turned),
        _encoded(colour[2].convert("L"), "JPEG"),
        _encoded(clear, "PNG"),
        _encoded(colour[4], "GIF"),
        _encoded(colour[5], "BMP"),
        _encoded(colour[6], "WEBP"),
    ]


def pixel_arrays() -> np.ndarray:
    """Decoded images of one size, uint8 `(3, 60, 80, 3)`."""
    return np.stack([np.asarray(_picture(80, 60, seed)) for seed in range(3)])


def features(*shape: int | None) -> np.ndarray:
    """Features, float32, not negative like those of a ReLU; None is any length."""
    return np.abs(np.random.default_rng(0).normal(size=[side or 4 for side in shape])).astype(np.float32)


def _picture(width: int, height: int, seed: int) -> Image.Image:
    """Blurred noise, with the frequencies of a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
