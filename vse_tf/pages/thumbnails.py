"""Small versions of images, for pages. Pillow only."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from vse_tf.files import read_regular
from vse_tf.preprocessing.image_limits import MAX_BYTES
from vse_tf.preprocessing.small_images import small_image

MAX_PIXELS = 100_000_000


def thumbnail(path: Path, side: int = 256, max_pixels: int = MAX_PIXELS) -> bytes:
    """A small version of an image file, upright, on white, as JPEG.

    Args:
        path: the image file.
        side: longer side in pixels; smaller images keep their size.
        max_pixels: images whose header announces more are refused before they are decoded, as are those above the
            limits of `vse_tf.preprocessing.image_limits`.

    Returns:
        Contents of the JPEG file.

    Raises:
        OSError: the file is missing, not a regular file, or cannot be read.
        ValueError: not an image, one that is too large, or a damaged one.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     Image.new("RGB", (640, 480)).save(file.name, "PNG")
        ...     Image.open(io.BytesIO(thumbnail(Path(file.name)))).size
        (256, 192)
    """
    return thumbnail_of_contents(read_regular(path, MAX_BYTES), side, max_pixels)


def thumbnail_of_contents(contents: bytes, side: int = 256, max_pixels: int = MAX_PIXELS) -> bytes:
    """A small version of an image from the contents of its file; see `thumbnail`.

    Args:
        contents: contents of the image file.
        side: as in `thumbnail`.
        max_pixels: as in `thumbnail`.

    Raises:
        ValueError: as in `thumbnail`; also `OSError`.
    """
    return _as_jpeg(small_image(contents, side, max_pixels))


def thumbnail_of_pixels(pixels: np.ndarray, side: int = 256) -> bytes:
    """A small version of a decoded image, as JPEG.

    Args:
        pixels: uint8 `(h, w, 3)`.
        side: longer side in pixels; smaller images keep their size.

    Returns:
        Contents of the JPEG file.
    """
    small = Image.fromarray(pixels)
    small.thumbnail((side, side))
    return _as_jpeg(small)


def _as_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
