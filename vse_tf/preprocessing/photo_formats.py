"""Photos as phones and scanners write them, HEIC, AVIF and TIFF, by Pillow (extra `photos`). No TensorFlow here.

TensorFlow decodes none of these. They are converted, without loss, to a format that it does decode, where a collection
is embedded and where a query is read. Training and exported models take them only converted by the user, so that what
they do never depends on an extra.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vse_tf.preprocessing.image_headers import photo_kind
from vse_tf.preprocessing.image_inputs import encoded_bytes
from vse_tf.preprocessing.image_limits import BYTES, MAX_BYTES, MAX_PASSES, RefusedImageError, above_limit

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

INSTALL = "pip install 'vse_tf[photos]'"
_SCAN = b"\xff\xda"
# Tags of a TIFF: the rows of a strip, and width and height of a tile, which may be larger than the image.
_STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323


def photos_are_read() -> bool:
    """Whether the extra `photos` is installed."""
    return find_spec("pillow_heif") is not None


def as_decodable(contents: bytes, max_pixels: int) -> bytes:
    """An image file in a format that `vse_tf.preprocessing.images.decode` reads.

    Args:
        contents: the file's bytes.
        max_pixels: HEIC, AVIF and TIFF images with more pixels, according to their header, are not decoded.

    Returns:
        A BMP or PNG with the pixels that Pillow shows of the first frame of a HEIC, AVIF or TIFF image, upright; any
        other file as it is.

    Raises:
        ValueError: the extra `photos` is not installed, or the image is broken or above a limit.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (8, 6)).save(file := io.BytesIO(), "TIFF")
        >>> as_decodable(file.getvalue(), 10**8)[:2] if photos_are_read() else b"BM"
        b'BM'
    """
    kind = photo_kind(contents)
    if not kind:
        return contents
    if len(contents) > MAX_BYTES:
        raise RefusedImageError(BYTES, len(contents))
    if not photos_are_read():
        raise ValueError(
            f"a {kind} image: read it with {INSTALL}, or convert it with magick photo.{kind.lower()} photo.jpg"
        )
    try:
        # Not Image.open, which knows limits of its own.
        with _opened(kind, io.BytesIO(contents)) as image:
            if not (problem := above_limit(*image.size, 1, max_pixels)):
                problem = _costly_tiff(image, contents, max_pixels) if kind == "TIFF" else ""
            converted = b"" if problem else encoded_bytes(image)
    except Exception as error:  # on a damaged file Pillow may raise anything
        raise ValueError(f"{kind}: {error}") from None
    if problem:
        raise ValueError(problem)
    assert converted is not None
    return converted


def _opened(kind: str, file: io.BytesIO) -> ImageFile:
    """The image, its header read."""
    if kind == "HEIC":
        from pillow_heif.as_plugin import HeifImageFile  # noqa: PLC0415

        return HeifImageFile(file)
    if kind == "AVIF":
        from PIL.AvifImagePlugin import AvifImageFile  # noqa: PLC0415

        return AvifImageFile(file)
    from PIL.TiffImagePlugin import TiffImageFile  # noqa: PLC0415

    return TiffImageFile(file)


def _costly_tiff(image: ImageFile, contents: bytes, max_pixels: int) -> str:
    """Which limit a TIFF exceeds apart from its size: that of its tiles, and of JPEG scans; empty if none."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    width = int(tags.get(_TILE_WIDTH, image.width))
    height = int(tags.get(_TILE_HEIGHT, min(int(tags.get(_STRIP_ROWS, image.height)), image.height)))
    if width * height > max_pixels:
        return f"tiles of {width} x {height} pixels, at most {max_pixels} pixels"
    # Each tile is a JPEG of its own, of one scan unless it is progressive.
    scans = contents.count(_SCAN) if image.info.get("compression") in ("jpeg", "tiff_jpeg") else 1
    if scans * width * height > MAX_PASSES * max_pixels:
        return f"{scans} scans of {width} x {height} pixels, at most {MAX_PASSES * max_pixels} pixels in all"
    return ""
