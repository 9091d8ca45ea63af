"""Which files are images: content decides where the suffix does not. No TensorFlow here."""

from __future__ import annotations

from pathlib import PurePath

from vse_tf.errors import shell_path
from vse_tf.files import open_regular
from vse_tf.preprocessing.image_headers import format_of, photo_kind
from vse_tf.preprocessing.photo_formats import INSTALL, photos_are_read

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
# Raw files of cameras, of which some begin as a TIFF that holds a small preview.
RAW_SUFFIXES = (".dng", ".cr2", ".nef", ".arw")
# Suffixes of images in formats that are not read, or in formats that are, under other names.
OTHER_SUFFIXES = (
    *(".jfif", ".jpe", ".jif", ".jpg_large", ".jpg_orig", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".j2k"),
    *(".jxl", ".psd", ".svg", ".ico", ".tga", ".ppm", ".pgm", ".pnm"),
    *RAW_SUFFIXES,
)
# First bytes of formats that are not read.
_OTHER_FORMATS = {
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop",
}
_START = 32


def refused_file(path: str) -> str | None:
    """Why a file whose suffix is not one of `SUFFIXES` is not embedded; the extra `photos` reads some more.

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
        ...     path = f"{folder}/scan.psd"
        ...     with open(path, "wb") as file:
        ...         _ = file.write(b"8BPS")
        ...     refused_file(path)
        'a Photoshop image, which is not read; convert it: magick .../scan.psd .../scan.jpg'
    """
    with open_regular(path) as file:
        start = file.read(_START)
    if format_of(start):
        return None
    raw = path.lower().endswith(RAW_SUFFIXES)
    photo = "" if raw else photo_kind(start)
    if photo and photos_are_read():
        return None
    kind = photo or next((name for magic, name in _OTHER_FORMATS.items() if start.startswith(magic)), "")
    if kind or raw:
        target = PurePath(path).with_suffix(".png" if kind == "TIFF" else ".jpg")
        extra = f"{INSTALL} reads it, or " if photo else ""
        command = f"magick {shell_path(path)} {shell_path(target)}"
        return f"a {kind or 'raw camera'} image, which is not read; {extra}convert it: {command}"
    if path.lower().endswith(OTHER_SUFFIXES):
        return "not a JPEG, PNG, GIF, BMP or WebP image; convert it to one of them"
    return ""
