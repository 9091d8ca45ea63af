"""What an image file says about itself before it is decoded: kind, size, orientation. No TensorFlow is imported here.

`vse_tf.preprocessing.graph_headers` holds the same rules as TensorFlow operations; the two agree byte for byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

FORMATS = ("jpeg", "png", "gif", "bmp", "webp")
# First bytes of each format, in the order of FORMATS; a "." stands for any byte.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8.a", b"BM", b"RIFF....WEBP")
EXIF_PREFIX = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
# Real files have a few dozen segments; the limit keeps a hostile file from holding a worker.
MAX_BLOCKS = 4096
BMP_MASKS = struct.pack("<3I", 0x00FF0000, 0x0000FF00, 0x000000FF)

NOT_AN_IMAGE, BROKEN, ANIMATED_WEBP, UNREAD_BMP, TOO_LARGE = 1, 2, 3, 4, 5
REASONS = (
    "",
    "not a JPEG, PNG, GIF, BMP or WebP image",
    "truncated or broken image header",
    "animated WebP: only still images are read; save one frame of it",
    "BMP of a kind that is not read: only uncompressed 8, 24 and 32 bit are; save it as PNG",
    "the header announces more pixels than data.max_pixels allows",
)


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of an image file announces.

    Args:
        format: jpeg, png, gif, bmp or webp.
        width: width in pixels as stored, before the orientation is applied (GIF: of the canvas with its first frame).
        height: height in pixels as stored.
        orientation: EXIF orientation 1..8 (JPEG APP1, PNG eXIf, WebP EXIF); 1 where there is none or it is malformed.
        animated: more than one frame (GIF, animated PNG); the first one is what gets decoded.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    animated: bool = False

    @property
    def pixels(self) -> int:
        """Number of pixels that decoding will give."""
        return self.width * self.height


def read_header(contents: bytes) -> Header:
    """Kind, size and orientation of an image file, without decoding it.

    Args:
        contents: the file's bytes. The first 64 KiB are enough for most files: a JPEG needs all segments up to its
            frame header; the frames of a GIF and EXIF behind the pixels (PNG, WebP) are only found in the whole file.

    Returns:
        The header.

    Raises:
        ValueError: not an image of a supported kind, a truncated or broken header, an animated WebP, or a BMP that is
            not read; the message is one line.

    Example:
        >>> read_header(Path("photo.jpg").read_bytes())
        Header(format='jpeg', width=640, height=480, orientation=6, animated=False)
    """
    name = next((name for name, magic in zip(FORMATS, MAGIC, strict=True) if _starts(contents, magic)), None)
    if name is None:
        raise ValueError(REASONS[NOT_AN_IMAGE])
    try:
        width, height, exif, animated = _READERS[name](contents)
    except (IndexError, struct.error):
        raise ValueError(REASONS[BROKEN]) from None
    if width < 1 or height < 1:
        raise ValueError(REASONS[BROKEN])
    return Header(name, width, height, _orientation(exif), animated)


_Facts = tuple[int, int, bytes, bool]  # width, height, EXIF block, animated


def _starts(data: bytes, magic: bytes) -> bool:
    return len(data) >= len(magic) and all(m in (c, ord(".")) for c, m in zip(data, magic, strict=False))


def _jpeg(data: bytes) -> _Facts:
    """Walk the segments to the frame header (SOFn) as libjpeg does: stray bytes between segments are passed over."""
    at, exif = 2, b""
    for _ in range(MAX_BLOCKS):
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
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height, exif, False
        if marker == 0xE1 and not exif and data[at + 4 : at + 10] == EXIF_PREFIX:
            exif = data[at + 4 : at + 2 + length]
        at += 2 + length
    raise ValueError(REASONS[BROKEN])


def _png(data: bytes) -> _Facts:
    if data[12:16] != b"IHDR":
        raise ValueError(REASONS[BROKEN])
    width, height = struct.unpack_from(">II", data, 16)
    at, exif, animated = 33, b"", False
    for _ in range(MAX_BLOCKS):
        kind = data[at + 4 : at + 8]
        if len(kind) < 4 or kind in (b"IEND", b"eXIf"):
            break
        animated = animated or kind == b"acTL"
        at += 12 + struct.unpack_from(">I", data, at)[0]
    if data[at + 4 : at + 8] == b"eXIf":
        exif = data[at + 8 : at + 8 + struct.unpack_from(">I", data, at)[0]]
    return width, height, exif, animated


def _gif(data: bytes) -> _Facts:
    """The canvas is the logical screen, enlarged where the first frame reaches beyond it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = _gif_frame(data, 13 + _gif_table(flags), MAX_BLOCKS)
    if at < 0:
        raise ValueError(REASONS[BROKEN])
    left, top, frame_width, frame_height, flags = struct.unpack_from("<4HB", data, at + 1)
    if not (frame_width and frame_height):
        raise ValueError(REASONS[BROKEN])
    at += 11 + _gif_table(flags)
    while at < len(data) and data[at]:
        at += 1 + data[at]
    try:
        animated = _gif_frame(data, at + 1, len(data)) > 0
    except IndexError:
        animated = False
    return max(width, left + frame_width), max(height, top + frame_height), b"", animated


def _gif_table(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_frame(data: bytes, at: int, limit: int) -> int:
    """Position of the next image descriptor, -1 where the file ends before one."""
    inside = False
    for _ in range(limit):
        if inside:
            inside = data[at] != 0
            at += 1 + data[at]
        elif data[at] == 0x21:
            inside = True
            at += 2
        else:
            break
    return at if data[at] == 0x2C and not inside else -1


def _bmp(data: bytes) -> _Facts:
    size, width, height = struct.unpack_from("<Iii", data, 14)
    bits, compression = struct.unpack_from("<HI", data, 28)
    masks = struct.unpack_from("12s", data, 54)[0] if compression in (3, 6) else BMP_MASKS
    plain = (bits in (8, 24) and compression == 0) or (bits == 32 and compression in (0, 3, 6))
    if size < 40 or not plain or masks != BMP_MASKS:
        raise ValueError(REASONS[UNREAD_BMP])
    return width, abs(height), b"", False


def _webp(data: bytes) -> _Facts:
    kind, exif = data[12:16], b""
    if kind == b"VP8X":
        flags, wide, high = struct.unpack_from("<B3x3s3s", data, 20)
        if flags & 0x02:
            raise ValueError(REASONS[ANIMATED_WEBP])
        at = 12
        for _ in range(MAX_BLOCKS if flags & 0x08 else 0):
            if len(data) < at + 8:
                break
            (length,) = struct.unpack_from("<I", data, at + 4)
            if data[at : at + 4] == b"EXIF":
                exif = data[at + 8 : at + 8 + length]
                break
            at += 8 + length + (length & 1)
        return int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1, exif, False
    if kind == b"VP8L" and data[20] == 0x2F:
        (packed,) = struct.unpack_from("<I", data, 21)
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, exif, False
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF, exif, False
    raise ValueError(REASONS[BROKEN])


def _orientation(block: bytes) -> int:
    """Orientation tag in the first directory of an EXIF block; 1 unless it is there as one SHORT or LONG in 1..8."""
    block = block.removeprefix(EXIF_PREFIX)
    order = {b"II\x2a\0": "<", b"MM\0\x2a": ">"}.get(block[:4])
    try:
        if order is None:
            return 1
        (at,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI4x", block, entry)
            if tag == ORIENTATION_TAG:
                value = struct.unpack_from(order + ("H" if kind == 3 else "I"), block, entry + 8)[0]
                return value if kind in (3, 4) and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


_READERS = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp}
