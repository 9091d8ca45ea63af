"""The orientation in an EXIF block. No TensorFlow is imported here; `graph_headers` has the same rules for graphs."""

from __future__ import annotations

import struct

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
_ORDERS = {b"II\x2a\0": "<", b"MM\0\x2a": ">"}
_SHORT, _LONG = 3, 4


def orientation(block: bytes) -> int:
    """The orientation in the first directory of an EXIF block.

    Args:
        block: the block, with or without the prefix `Exif`; it may be truncated.

    Returns:
        1..8; 1 unless it is there as one SHORT or LONG.

    Example:
        >>> orientation(b"")
        1
    """
    block = block.removeprefix(EXIF_PREFIX)
    order = _ORDERS.get(block[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI4x", block, entry)
            if tag == ORIENTATION_TAG:
                (value,) = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), block, entry + 8)
                return value if kind in (_SHORT, _LONG) and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
