"""Files as cameras, phones and editors write them: everything that stands around the pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

from tests.bombs import chunk, encoded, segment

_coarse = np.random.default_rng(3).integers(0, 256, (9, 11, 3), np.uint8)
PHOTO = Image.fromarray(_coarse).resize((150, 100), Image.Resampling.BICUBIC)
CLEAR = PHOTO.copy()
CLEAR.putalpha(Image.linear_gradient("L").resize(CLEAR.size))


def _jpeg_around(plain: bytes, before: bytes = b"", behind: bytes = b"") -> bytes:
    return plain[:2] + before + plain[2:] + behind


def _png_of_chunks(size: int) -> bytes:
    """Pixel data in chunks of this size, as libpng cuts them at 8 KiB."""
    plain = encoded(CLEAR, "PNG", compress_level=0)
    at = plain.index(b"IDAT") - 4
    data = plain[at + 8 : at + 8 + int.from_bytes(plain[at : at + 4], "big")]
    pieces = b"".join(chunk(b"IDAT", data[i : i + size]) for i in range(0, len(data), size))
    return plain[:at] + pieces + chunk(b"IEND", b"")


def _interlaced(image: Image.Image) -> bytes:
    """Adam7, which Pillow does not write."""
    pixels = np.asarray(image)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [b"\0" + row.tobytes() for top, left, down, right in passes for row in pixels[top::down, left::right]]
    head = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 1)
    data = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def _texts(count: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for number in range(count):
        info.add_text(f"date:{number}", "2024" * 500, zip=number % 3 == 0)
        info.add_itxt(f"note:{number}", "été " * 300, "fr", "note", zip=number % 3 == 1)
    return info


def _phone() -> bytes:
    """EXIF with a progressive thumbnail, XMP in parts, a profile in parts, other pictures and a film behind the end."""
    exif = Image.Exif()
    exif[0x010F] = "Phone"
    thumbnail = encoded(PHOTO.resize((40, 30)), "JPEG", progressive=True)
    before = segment(0xE1, exif.tobytes() + thumbnail)
    before += segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<x/>" * 9000)
    for part in range(5):
        before += segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes([part]) * 60_000)
        before += segment(0xE2, b"ICC_PROFILE\0" + bytes([part + 1, 5]) + b"\xff\xda\xff\xd9" * 15_000)
    before += segment(0xE2, b"MPF\0MM\0\x2a" + bytes(80)) + segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")
    gain_map = encoded(PHOTO.convert("L"), "JPEG", progressive=True)
    film = np.random.default_rng(1).integers(0, 256, 8_000_000, np.uint8).tobytes()
    return _jpeg_around(encoded(PHOTO, "JPEG", progressive=True), before, gain_map * 9 + b"ftypmp42" + film)


def _rotated(kind: str) -> bytes:
    frames = [PHOTO.rotate(angle) for angle in range(0, 360, 4)]
    return encoded(PHOTO, kind, save_all=True, append_images=frames, duration=40, loop=0)


_JPEG = encoded(PHOTO, "JPEG")
_PROGRESSIVE = encoded(PHOTO, "JPEG", progressive=True)
_GIF = encoded(PHOTO, "GIF")
# Each with a plain file of the same pixels.
HONEST = {
    "optimised": (encoded(PHOTO, "JPEG", optimize=True), _JPEG),
    "progressive": (_PROGRESSIVE, _JPEG),
    "4:4:4": (encoded(PHOTO, "JPEG", subsampling=0, progressive=True), encoded(PHOTO, "JPEG", subsampling=0)),
    "grey": (encoded(PHOTO.convert("L"), "JPEG", progressive=True), encoded(PHOTO.convert("L"), "JPEG")),
    "cmyk": (encoded(PHOTO.convert("CMYK"), "JPEG", progressive=True), encoded(PHOTO.convert("CMYK"), "JPEG")),
    "restarts": (encoded(PHOTO, "JPEG", restart_marker_blocks=1, progressive=True), _JPEG),
    "restarts of a baseline": (encoded(PHOTO, "JPEG", restart_marker_blocks=1), _JPEG),
    "phone": (_phone(), _JPEG),
    "film behind a baseline": (_JPEG + _phone()[-8_000_000:], _JPEG),
    "many comments": (_jpeg_around(_JPEG, segment(0xFE, b"\xff\xda\xff\xd9" * 100) * 300), _JPEG),
    "png of 8 KiB chunks": (_png_of_chunks(8192), encoded(CLEAR, "PNG")),
    "png of 5,000 chunks": (_png_of_chunks(12), encoded(CLEAR, "PNG")),
    "png of texts": (encoded(CLEAR, "PNG", pnginfo=_texts(20), icc_profile=bytes(9000)), encoded(CLEAR, "PNG")),
    "png palette": (
        encoded(PHOTO.quantize(9), "PNG", transparency=3, pnginfo=_texts(3)),
        encoded(PHOTO.quantize(9), "PNG", transparency=3),
    ),
    "png colour key": (
        encoded(PHOTO, "PNG", transparency=PHOTO.getpixel((5, 5)), pnginfo=_texts(3)),
        encoded(PHOTO, "PNG", transparency=PHOTO.getpixel((5, 5))),
    ),
    "png interlaced": (_interlaced(PHOTO), encoded(PHOTO, "PNG")),
    "png animated": (_rotated("PNG"), encoded(PHOTO, "PNG")),
    "gif animated": (_rotated("GIF"), _GIF),
    "gif with texts": (encoded(PHOTO, "GIF", comment=b"x" * 60_000), _GIF),
    "bmp": (encoded(PHOTO, "BMP", dpi=(300, 300)), encoded(PHOTO, "PNG")),
    "webp": (encoded(CLEAR, "WEBP", lossless=True, exact=True, icc_profile=bytes(9000)), encoded(CLEAR, "PNG")),
}


def noisy_gif(side: int) -> bytes:
    """A GIF whose pixels cannot be packed: some hundreds of kilobytes in pieces of 255 bytes."""
    pixels = np.random.default_rng(2).integers(0, 256, (side, side), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "GIF")
    return file.getvalue()
