"""Small versions of image files, for pages and for comparing images. Pillow only."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from vse_tf.preprocessing.image_headers import checked_header
from vse_tf.preprocessing.photo_formats import as_decodable


def small_image(contents: bytes, side: int, max_pixels: int) -> Image.Image:
    """A small version of an image file, upright, on white.

    Args:
        contents: contents of the image file.
        side: longer side in pixels; smaller images keep their size.
        max_pixels: images whose header announces more are refused before they are decoded, as are those above the
            limits of `vse_tf.preprocessing.image_limits`.

    Returns:
        An image of the mode RGB.

    Raises:
        OSError: Pillow cannot read it.
        ValueError: not an image, one that is too large, or a damaged one.
    """
    contents = as_decodable(contents, max_pixels)
    header = checked_header(contents, max_pixels)
    try:
        with Image.open(io.BytesIO(contents[: header.end]), formats=[header.format]) as opened:
            # JPEGs can be decoded at an eighth of their size.
            opened.draft("RGB", (2 * side, 2 * side))
            small = ImageOps.exif_transpose(opened)
            small.thumbnail((side, side))
            small = small.convert("RGBA")
    except OSError:
        raise
    except Exception as error:  # on a damaged file Pillow may raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from None
    white = Image.new("RGB", small.size, "white")
    white.paste(small, mask=small.getchannel("A"))
    return white
