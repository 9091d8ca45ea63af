"""The EXIF orientation of an image file in plain Python: the oracle of `vse_tf.preprocessing.graph_headers`."""

from __future__ import annotations

import struct

from vse_tf.preprocessing.graph_headers import ORIENTATION_TAG
from vse_tf.preprocessing.graph_jpeg import EXIF_PREFIX
from vse_tf.preprocessing.image_limits import MAX_BLOCKS, MAX_CHUNKS, RUN_BYTES, RUN_CHUNKS


def orientation(contents: bytes, kind: str) -> int:
    """The orientation 1..8 of a file with a good header of this kind; 1 if there is none or it is malformed."""
    readers = {"jpeg": jpeg_exif, "png": png_exif, "webp": webp_exif}
    return orientation_of(readers[kind](contents)) if kind in readers else 1


def jpeg_exif(data: bytes) -> bytes:
    """The first APP1 segment with EXIF before the frame header."""
    at = 2
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
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                break
            if marker == 0xE1 and data[at + 4 : at + 10] == EXIF_PREFIX and length > 2:
                return data[at + 4 : at + 2 + length]
            at += 2 + length
        except (IndexError, struct.error):
            break
    return b""


def png_exif(data: bytes) -> bytes:
    """The first chunk eXIf; chunks of pixel data of equal size count as one step, as in the graph."""
    at = 33
    for _ in range(MAX_CHUNKS):
        head = data[at : at + 8]
        kind = head[4:]
        if len(head) < 8 or kind == b"IEND":
            break
        step = 12 + int.from_bytes(head[:4], "big")
        if kind == b"eXIf":
            return data[at + 8 : at + step - 4]
        if kind == b"IDAT":
            for _ in range(min(max(RUN_BYTES // step, 1), RUN_CHUNKS) - 1):
                if data[at + step : at + step + 8] != head:
                    break
                at += step
        at += step
    return b""


def webp_exif(data: bytes) -> bytes:
    """The first chunk EXIF, if the header says that there is one."""
    if data[12:16] != b"VP8X" or not data[20] & 0x08:
        return b""
    at = 12
    for _ in range(MAX_BLOCKS):
        if len(data) < at + 8:
            break
        (length,) = struct.unpack_from("<I", data, at + 4)
        if data[at : at + 4] == b"EXIF":
            return data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)
    return b""


def orientation_of(block: bytes) -> int:
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
