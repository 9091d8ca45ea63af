"""Which files are images: content decides where the suffix does not. No TensorFlow here."""

from __future__ import annotations

from pathlib import PurePath

from vse_tf.errors import shell_path
from vse_tf.files import open_regular
from vse_tf.preprocessing.image_headers import format_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
# Suffixes of images in formats that are not read, or in formats that are, under other names.
OTHER_SUFFIXES = (
    *(".jfif", ".jpe", ".jif", ".jpg_large", ".jpg_orig", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".j2k"),
    *(".jxl", ".psd", ".dng", ".cr2", ".nef", ".arw", ".svg", ".ico", ".tga", ".ppm", ".pgm", ".pnm"),
)
# First bytes of formats that are not read.
_OTHER_FORMATS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop",
}
# Brands of ISO media files, at byte 8.
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
_START = 32


def refused_file(path: str) -> str | None:
    """Why a file whose suffix is not one of `SUFFIXES` is not embedded.

    Args:
        path: the file; its first bytes are read.

    Returns:
        None if it is an image that is read; empty if it is no image at all; otherwise the reason, with a command that
        converts it.

    Raises:
        OSError: it cannot be read, or is not a regular file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = f"{folder}/scan.tif"
        ...     with open(path, "wb") as file:
        ...         _ = file.write(b"II*\\0")
        ...     refused_file(path)
        'a TIFF image, which is not read; convert it: magick .../scan.tif .../scan.png'
    """
    with open_regular(path) as file:
        start = file.read(_START)
    if format_of(start):
        return None
    kind = next((name for magic, name in _OTHER_FORMATS.items() if start.startswith(magic)), "")
    if start[4:8] == b"ftyp":
        kind = _BRANDS.get(start[8:12], "")
    if kind:
        target = PurePath(path).with_suffix(".png" if kind == "TIFF" else ".jpg")
        return f"a {kind} image, which is not read; convert it: magick {shell_path(path)} {shell_path(target)}"
    if path.lower().endswith(OTHER_SUFFIXES):
        return "not a JPEG, PNG, GIF, BMP or WebP image; convert it to one of them"
    return ""
