"""Headers of image files, read before anything is decoded: format, size, orientation. No TensorFlow is imported here.

Images that this process decodes are checked here. `vse_tf.preprocessing.graph_headers` has the same rules as TensorFlow
operations, for exported graphs, and gives the same results.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from vse_tf.preprocessing.exif import EXIF_PREFIX, orientation
from vse_tf.preprocessing.image_limits import (
    ANIMATED_WEBP,
    BROKEN,
    BYTES,
    CHUNKS,
    EXCESS,
    FORMATS,
    MAX_BLOCKS,
    MAX_BYTES,
    MAX_CHUNKS,
    MAX_COUNT,
    MAX_PIXEL_BYTES,
    MAX_SCANS,
    MAX_TEXTS,
    NOT_AN_IMAGE,
    PHOTO,
    RUN_BYTES,
    RUN_CHUNKS,
    SCANS,
    SPARE_BYTES,
    TEXTS,
    UNREAD_BMP,
    RefusedImageError,
    above_limit,
)

# First bytes of each format, in the order of FORMATS; a "." stands for any byte.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8.a", b"BM", b"RIFF....WEBP")
# First bytes of images that only the extra `photos` reads: TIFF, and the brands of ISO media files at byte 8.
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PHOTO_BRANDS = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC")
PHOTO_BRANDS |= {b"avif": "AVIF", b"avis": "AVIF"}
BMP_MASKS = struct.pack("<3I", 0x00FF0000, 0x0000FF00, 0x000000FF)
# JPEG: frames whose pixels may be in one scan, and the two markers that are searched behind the frame header.
SEQUENTIAL = (0xC0, 0xC1, 0xC9)
SCAN, END = b"\xff\xda", b"\xff\xd9"
TEXT_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")
NO_PARTS = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an image file.

    Args:
        format: jpeg, png, gif, bmp or webp.
        width: width in pixels as stored, before the orientation is applied (GIF: of the canvas with its first frame).
        height: height in pixels as stored.
        scans: number of times that decoding goes over all pixels (JPEG).
        end: position behind the last byte that a decoder needs. Only up to there were the scans of a JPEG counted.
        orientation: of EXIF, 1..8.
        parts: positions in the file. GIF: the first frame's descriptor, and its transparent colour index, −1 for none.
            PNG: the chunks PLTE and tRNS, 0 for none, start and end of the pixel data.
        complete: False if the limits need bytes that `contents` did not have: read the complete file.
    """

    format: str
    width: int
    height: int
    scans: int = 1
    end: int = 0
    orientation: int = 1
    parts: tuple[int, int, int, int] = NO_PARTS
    complete: bool = True

    @property
    def pixels(self) -> int:
        """Number of decoded pixels."""
        return self.width * self.height

    @property
    def layout(self) -> tuple[int, ...]:
        """What decoding needs of the header, see `vse_tf.preprocessing.image_formats.Layout`."""
        kind = FORMATS.index(self.format)
        return (kind, self.orientation, self.end, self.width, self.height, *self.parts)


def format_of(contents: bytes) -> str:
    """The format that the first bytes of a file announce, one of `FORMATS`; empty for any other file.

    Example:
        >>> format_of(b"GIF89a")
        'gif'
    """
    return next((name for name, magic in zip(FORMATS, MAGIC, strict=True) if _starts(contents, magic)), "")


def photo_kind(contents: bytes) -> str:
    """`HEIC`, `AVIF` or `TIFF` if the first bytes of a file announce one of these; empty for any other file.

    Example:
        >>> photo_kind(b"\\0\\0\\0\\x18ftypheic")
        'HEIC'
    """
    if contents[4:8] == b"ftyp":
        return PHOTO_BRANDS.get(bytes(contents[8:12]), "")
    return "TIFF" if contents[:4] in TIFF_MAGIC else ""


def read_header(contents: bytes) -> Header:
    """Format, size and orientation of an image file, without decoding it; the limits of `image_limits` are applied.

    Args:
        contents: the file's bytes. The first 64 KiB are enough for most files: a JPEG needs all segments up to its
            frame header, a progressive one the rest too (see `Header.complete`); texts and an orientation behind the
            pixels are only found in the complete file.

    Returns:
        The header.

    Raises:
        RefusedImageError: a ValueError: not an image of a supported format, a truncated or broken header, an animated
            WebP, a BMP that is not read, or too many bytes, scans, texts or chunks; the message is one line.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> Image.new("RGB", (640, 480)).save(file := io.BytesIO(), "JPEG")
        >>> read_header(file.getvalue())
        Header(format='jpeg', width=640, height=480, scans=1, end=..., orientation=1, ...)
    """
    if len(contents) > MAX_BYTES:
        raise RefusedImageError(BYTES, len(contents))
    name = format_of(contents)
    if not name:
        raise RefusedImageError(PHOTO if photo_kind(contents) else NOT_AN_IMAGE)
    try:
        found = _READERS[name](contents)
    except (IndexError, struct.error):
        raise RefusedImageError(BROKEN) from None
    if found.width < 1 or found.height < 1:
        raise RefusedImageError(BROKEN)
    if found.scans > MAX_SCANS:
        raise RefusedImageError(SCANS, found.scans)
    if found.texts > MAX_TEXTS:
        raise RefusedImageError(TEXTS, found.texts)
    if found.packed > MAX_PIXEL_BYTES * found.width * found.height + SPARE_BYTES:
        raise RefusedImageError(EXCESS, found.packed)
    end = len(contents) if found.end < 0 else found.end
    return Header(
        name, found.width, found.height, found.scans, end, orientation(found.exif), found.parts, found.complete
    )


def checked_header(contents: bytes, max_pixels: int) -> Header:
    """`read_header` for an image that is to be decoded.

    Args:
        contents: the file's bytes, all of them.
        max_pixels: images with more pixels are refused, as are those whose scans go over too many.

    Raises:
        ValueError: the image is refused; the message is one line.

    Example:
        >>> checked_header(b"hello", 100_000_000)
        Traceback (most recent call last):
        vse_tf.preprocessing.image_limits.RefusedImageError: not a JPEG, PNG, GIF, BMP or WebP image
    """
    header = read_header(contents)
    if problem := above_limit(header.width, header.height, header.scans, max_pixels):
        raise ValueError(problem)
    return header


class _Facts(NamedTuple):
    width: int
    height: int
    scans: int = 1
    end: int = -1
    complete: bool = True
    texts: int = 0
    packed: int = 0
    exif: bytes = b""
    parts: tuple[int, int, int, int] = NO_PARTS


def _starts(data: bytes, magic: bytes) -> bool:
    return len(data) >= len(magic) and all(m in (c, ord(".")) for c, m in zip(data, magic, strict=False))


def _jpeg(data: bytes) -> _Facts:
    """Read the segments up to the first scan (SOS) as libjpeg does: stray bytes between segments are skipped."""
    at, frame, exif = 2, 0, b""
    for _ in range(MAX_BLOCKS):
        try:
            if data[at] != 0xFF or data[at + 1] == 0xFF:
                at += 1
                continue
            marker = data[at + 1]
            if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:
                at += 2
                continue
            if marker in (0xD8, 0xD9, 0xDA):
                break
            length = max(2, *struct.unpack_from(">H", data, at + 2))
            if not frame and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                struct.unpack_from(">5x4x", data, at)
                frame = at
            if not frame and not exif and marker == 0xE1 and data[at + 4 : at + 10] == EXIF_PREFIX:
                exif = data[at + 4 : at + 2 + length]
            at += 2 + length
        except (IndexError, struct.error):
            break
    if not frame:
        raise RefusedImageError(BROKEN)
    height, width = struct.unpack_from(">HH", data, frame + 5)
    # All components in the first scan of a sequential frame: there can be no other.
    complete = data[at : at + 2] == SCAN and len(data) >= max(at + 5, frame + 10)
    if complete and data[frame + 1] in SEQUENTIAL and data[at + 4] == data[frame + 9]:
        return _Facts(width, height, exif=exif)
    # Between and inside scans neither marker has another meaning. An end inside a comment between scans would hide what
    # follows, so nothing behind the first end is decoded.
    found = data.find(END, frame)
    end = len(data) if found < 0 else found + len(END)
    scans = min(data.count(SCAN, frame, end), MAX_COUNT)
    return _Facts(width, height, scans=scans, end=end, complete=found >= 0, exif=exif)


def _png(data: bytes) -> _Facts:
    """Read the chunks up to the end of the pixel data, then up to the end of the file or of the allowed steps."""
    if data[12:16] != b"IHDR":
        raise RefusedImageError(BROKEN)
    width, height = struct.unpack_from(">II", data, 16)
    at, texts, exif, has_exif = 33, 0, b"", False
    palette = clear = 0  # the chunks PLTE and tRNS
    first = last = 0  # start and end of the pixel data
    for _ in range(MAX_CHUNKS):
        head = data[at : at + 8]
        kind = head[4:]
        if len(head) < 8 or kind == b"IEND":
            last = last or at
            break
        step = 12 + int.from_bytes(head[:4], "big")
        if first and not last and kind != b"IDAT":
            last = at
        if kind == b"IDAT":
            first = first or at
            for _ in range(min(max(RUN_BYTES // step, 1), RUN_CHUNKS) - 1):
                if data[at + step : at + step + 8] != head:
                    break
                at += step
        elif kind == b"PLTE" and not first:
            palette = palette or at
        elif kind == b"tRNS" and not first:
            clear = clear or at
        elif kind == b"eXIf" and not has_exif:
            has_exif, exif = True, data[at + 8 : at + step - 4]
        texts += kind in TEXT_CHUNKS
        at += step
    if not last:
        raise RefusedImageError(CHUNKS)
    packed = last - first if first else 0
    parts = (palette, clear, first, last)
    return _Facts(width, height, complete=first > 0, texts=texts, packed=packed, exif=exif, parts=parts)


def _gif(data: bytes) -> _Facts:
    """The canvas is the logical screen, enlarged if the first frame reaches beyond it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, inside = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0), False
    clear = -1
    for _ in range(MAX_BLOCKS):
        if inside:
            inside = data[at] != 0
            at += 1 + data[at]
        elif data[at] == 0x21:
            # A graphic control extension: 21 F9 04 flags delay delay index 00.
            if data[at + 1 : at + 3] == b"\xf9\x04":
                clear = data[at + 6] if data[at + 3] & 1 else -1
            inside = True
            at += 2
        else:
            break
    left, top, frame_width, frame_height, _ = struct.unpack_from("<4HB", data, at + 1)
    if inside or data[at] != 0x2C or not (frame_width and frame_height):
        raise RefusedImageError(BROKEN)
    return _Facts(max(width, left + frame_width), max(height, top + frame_height), parts=(at, clear, 0, 0))


def _bmp(data: bytes) -> _Facts:
    size, width, height = struct.unpack_from("<Iii", data, 14)
    bits, compression = struct.unpack_from("<HI", data, 28)
    masks = struct.unpack_from("12s", data, 54)[0] if compression in (3, 6) else BMP_MASKS
    plain = (bits in (8, 24) and compression == 0) or (bits == 32 and compression in (0, 3, 6))
    if size < 40 or not plain or masks != BMP_MASKS:
        raise RefusedImageError(UNREAD_BMP)
    return _Facts(width, abs(height))


def _webp(data: bytes) -> _Facts:
    kind = data[12:16]
    if kind == b"VP8X":
        flags, wide, high = struct.unpack_from("<B3x3s3s", data, 20)
        if flags & 0x02:
            raise RefusedImageError(ANIMATED_WEBP)
        exif = _webp_exif(data) if flags & 0x08 else b""
        return _Facts(int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1, exif=exif)
    if kind == b"VP8L" and data[20] == 0x2F:
        (packed,) = struct.unpack_from("<I", data, 21)
        return _Facts((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return _Facts(width & 0x3FFF, height & 0x3FFF)
    raise RefusedImageError(BROKEN)


def _webp_exif(data: bytes) -> bytes:
    """The first chunk EXIF."""
    at = 12
    for _ in range(MAX_BLOCKS):
        head = data[at : at + 8]
        if len(head) < 8:
            break
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            return data[at + 8 : at + 8 + size]
        at += 8 + size + (size & 1)
    return b""


_READERS = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp}
