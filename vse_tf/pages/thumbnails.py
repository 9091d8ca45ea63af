"""Small pictures of photos, for pages. Pillow only."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vse_tf.files import read_regular
from vse_tf.preprocessing.image_headers import read_header
from vse_tf.preprocessing.image_limits import MAX_BYTES, above_limit

MAX_PIXELS = 100_000_000
# Pillow knows forty more, some of which start other programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


def thumbnail(path: Path, side: int = 256, max_pixels: int = MAX_PIXELS) -> bytes:
    """A photo made small, upright, on white, as JPEG.

    Args:
        path: the photo.
        side: the longer side in pixels; smaller photos keep their size.
        max_pixels: photos whose header announces more are refused before they are decoded, as are those above the
            limits of `vse_tf.preprocessing.image_limits`.

    Returns:
        The JPEG's bytes.

    Raises:
        OSError: there is no such file, it is not a regular one, or it cannot be read.
        ValueError: not a photo, too large a one, or a damaged one.

    Example:
        >>> len(thumbnail(Path("photo.jpg")))
        11802
    """
    contents = read_regular(path, MAX_BYTES)
    header = read_header(contents)
    if problem := above_limit(header.width, header.height, header.scans, max_pixels):
        raise ValueError(problem)
    try:
        with Image.open(io.BytesIO(contents[: header.end]), formats=[header.format]) as opened:
            # JPEGs can be decoded at an eighth of their size.
            opened.draft("RGB", (2 * side, 2 * side))
            photo = ImageOps.exif_transpose(opened)
            photo.thumbnail((side, side))
            photo = photo.convert("RGBA")
    except OSError:
        raise
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise ValueError(f"{type(error).__name__}: {error}") from None
    sheet = Image.new("RGB", photo.size, "white")
    sheet.paste(photo, mask=photo.getchannel("A"))
    return _as_jpeg(sheet)


def thumbnail_of_pixels(pixels: np.ndarray, side: int = 256) -> bytes:
    """The same of an array.

    Args:
        pixels: uint8 `(h, w, 3)`.
        side: the longer side in pixels; smaller pictures keep their size.

    Returns:
        The JPEG's bytes.
    """
    photo = Image.fromarray(pixels)
    photo.thumbnail((side, side))
    return _as_jpeg(photo)


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _as_jpeg(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
