"""The rules of `vse_tf.preprocessing.image_headers` as TensorFlow operations, for `tf.data` and exported graphs.

Core operations only, so that a SavedModel made with them needs nothing of this package. Every position is clipped to
the file and every walk is limited, so no content makes them fail or run on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from vse_tf.preprocessing.image_headers import (
    ANIMATED_WEBP,
    BMP_MASKS,
    BROKEN,
    EXIF_PREFIX,
    MAGIC,
    MAX_BLOCKS,
    NOT_AN_IMAGE,
    ORIENTATION_TAG,
    UNREAD_BMP,
)

# One row of bytes a format, −1 for any byte.
_MAGIC_BYTES = np.full([len(MAGIC), len(max(MAGIC, key=len))], -1, np.int64)
for _row, _magic in zip(_MAGIC_BYTES, MAGIC, strict=True):
    _row[: len(_magic)] = [-1 if byte == ord(".") else byte for byte in _magic]

# The shortest way through a JPEG: the header in its first bytes, at most so many segments before the size.
_PLAIN_BYTES, _PLAIN_SEGMENTS = 1024, 10
# Segments that say nothing here: tables, comments and application data, but not the one that may hold EXIF.
_PASSED = np.isin(np.arange(256), [0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE])

F = TypeVar("F", bound=Callable[..., Any])


def without_autograph(function: F) -> F:
    """Mark a function as ready for graphs: AutoGraph has nothing to convert in it and needs seconds to find out."""
    return tf.autograph.experimental.do_not_convert(function)


def apart(function: Callable[..., Any]) -> Any:
    """A branch that is hardly ever taken, as one node of the graph: the nodes of an untaken branch take time too."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


class GraphHeader(NamedTuple):
    """The header of one image as scalar tensors.

    Args:
        code: int64, 0 or what is wrong (position in `image_headers.REASONS`, `TOO_LARGE` excepted).
        format: int64, position in `image_headers.FORMATS`; their number where it is none of them.
        width: int64, pixels as stored; 0 or −1 where unknown.
        height: int64, pixels as stored.
        orientation: int64, 1..8.
        frame: int64, GIF only: position of the first frame's descriptor.
        clear: int64, GIF only: colour index that is transparent in that frame, −1 for none.
    """

    code: tf.Tensor
    format: tf.Tensor
    width: tf.Tensor
    height: tf.Tensor
    orientation: tf.Tensor
    frame: tf.Tensor
    clear: tf.Tensor

    @property
    def pixels(self) -> tf.Tensor:
        """int64 scalar: number of pixels that decoding will give, −1 where unknown."""
        known = (self.width > 0) & (self.height > 0)
        return tf.where(known, self.width * self.height, tf.constant(-1, tf.int64))


@without_autograph
def read_graph_header(contents: tf.Tensor) -> GraphHeader:
    """Kind, size and orientation of an image in the graph; `image_headers.read_header` is the same in Python.

    Args:
        contents: string scalar, the file's bytes.

    Returns:
        The header; what is wrong is told by its `code`, never by an error.
    """
    contents = tf.convert_to_tensor(contents)
    plain, width, height = _plain_jpeg(contents)
    facts = tf.cond(plain, lambda: _found(_facts(0, width, height), 0, 1), lambda: _read_any(contents))
    code, kind, orientation, width, height, _, _, frame, clear = tf.unstack(tf.ensure_shape(facts, [9]))
    return GraphHeader(code, kind, width, height, orientation, frame, clear)


@apart
def _read_any(contents: tf.Tensor) -> tf.Tensor:
    """The header of any file: code, kind, orientation and the other facts."""
    start = read_bytes(contents, 0, _MAGIC_BYTES.shape[1])
    kind = _first(tf.reduce_all((start == _MAGIC_BYTES) | (_MAGIC_BYTES < 0), axis=1))
    walks = [_jpeg, _png, _gif, _bmp, _webp, lambda _: _facts(NOT_AN_IMAGE)]
    branches = [lambda walk=walk: walk(contents) for walk in walks]
    facts = tf.ensure_shape(tf.switch_case(tf.cast(kind, tf.int32), branches), [7])
    at, length = facts[3], facts[4]
    orientation = tf.cond(
        length > 0,
        lambda: _orientation(cut(contents, at, length)),
        lambda: tf.constant(1, tf.int64),
    )
    return _found(facts, kind, orientation)


@without_autograph
def announced_pixels(contents: tf.Tensor) -> tf.Tensor:
    """Number of pixels that the header announces, read without decoding.

    Args:
        contents: string scalar, the file's bytes: JPEG, PNG, GIF (first frame on its canvas), BMP or WebP.

    Returns:
        int64 scalar; −1 where the header does not say.

    Example:
        >>> announced_pixels(tf.io.read_file("photo.jpg"))
        <tf.Tensor: shape=(), dtype=int64, numpy=307200>
    """
    return read_graph_header(contents).pixels


@without_autograph
def exif_orientation(contents: tf.Tensor) -> tf.Tensor:
    """EXIF orientation of an image (JPEG APP1, PNG eXIf, WebP EXIF; both byte orders).

    Args:
        contents: string scalar, the file's bytes.

    Returns:
        int32 scalar, 1..8; 1 where there is none or it is malformed.

    Example:
        >>> exif_orientation(tf.io.read_file("portrait.jpg"))
        <tf.Tensor: shape=(), dtype=int32, numpy=6>
    """
    return tf.cast(read_graph_header(contents).orientation, tf.int32)


def cut(contents: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """`count` bytes of a string scalar from position `at`; fewer where it ends before."""
    at = tf.clip_by_value(tf.cast(at, tf.int64), 0, _length(contents))
    return tf.strings.substr(contents, at, tf.cast(count, tf.int64))


def read_bytes(contents: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """Bytes of a string scalar as int64 `(count,)`; zeros beyond its end."""
    values = tf.io.decode_raw(cut(contents, at, count), tf.uint8, fixed_length=tf.cast(count, tf.int32))
    values.set_shape([count if isinstance(count, int) else None])
    return tf.cast(values, tf.int64)


def little(values: tf.Tensor) -> tf.Tensor:
    """Bytes `(..., n)`, the lowest first, as int64 `(...,)`."""
    return tf.reduce_sum(values * (256 ** np.arange(values.shape[-1])), -1)


def gif_table(flags: tf.Tensor) -> tf.Tensor:
    """Bytes of the colour table that the flags of a GIF screen or frame announce."""
    size = tf.bitwise.left_shift(tf.constant(3, tf.int64), (flags & 7) + 1)
    return tf.where((flags & 0x80) > 0, size, tf.zeros_like(size))


def _length(contents: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(contents), tf.int64)


def _big(values: tf.Tensor) -> tf.Tensor:
    return little(tf.reverse(values, [-1]))


def _signed(values: tf.Tensor) -> tf.Tensor:
    """Four bytes, the lowest first, as a signed number."""
    number = little(values)
    return number - (number // 2**31) * 2**32


def _first(found: tf.Tensor) -> tf.Tensor:
    """Position of the first true entry of a vector, its length where there is none."""
    count = tf.shape(found, tf.int64)[0]
    return tf.reduce_min(tf.concat([tf.where(found, tf.range(count), count), [count]], 0))


def _is(values: tf.Tensor, text: bytes) -> tf.Tensor:
    return tf.reduce_all(values == np.frombuffer(text, np.uint8).astype(np.int64))


def _facts(
    code: tf.Tensor | int,
    width: tf.Tensor | int = -1,
    height: tf.Tensor | int = -1,
    at: tf.Tensor | int = 0,
    length: tf.Tensor | int = 0,
    frame: tf.Tensor | int = 0,
    clear: tf.Tensor | int = -1,
) -> tf.Tensor:
    """One int64 vector from every walk: code, size, position and length of the EXIF block, GIF frame."""
    values = (code, width, height, at, length, frame, clear)
    return tf.stack([tf.cast(value, tf.int64) for value in values])


def _found(facts: tf.Tensor, kind: tf.Tensor | int, orientation: tf.Tensor | int) -> tf.Tensor:
    """Facts with the kind and the orientation behind their code, which tells an impossible size too."""
    broken = (facts[0] == 0) & tf.reduce_any(facts[1:3] < 1)
    code = tf.where(broken, tf.constant(BROKEN, tf.int64), facts[0])
    added = [code, tf.cast(kind, tf.int64), tf.cast(orientation, tf.int64)]
    return tf.concat([tf.stack(added), facts[1:]], 0)


def _code(*rules: tuple[tf.Tensor, int]) -> tf.Tensor:
    """The code of the first rule that holds, else 0."""
    code = tf.constant(0, tf.int64)
    for holds, number in reversed(rules):
        code = tf.where(holds, tf.constant(number, tf.int64), code)
    return code


def _walk(step: Callable[..., tuple[tf.Tensor, ...]], *state: tf.Tensor | int) -> tuple[tf.Tensor, ...]:
    """Repeat a step on int64 scalars (running, position, ...) while running is 1, at most `MAX_BLOCKS` times."""
    start = (tf.constant(1, tf.int64), *(tf.cast(value, tf.int64) for value in state))
    found = tf.while_loop(lambda running, *_: running > 0, step, start, maximum_iterations=MAX_BLOCKS)
    return tuple(found[1:])


def _plain_jpeg(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Whether the file is a JPEG without EXIF whose size stands near its start, as most do; its width and height.

    `_jpeg` finds the same, segment by segment, in a loop that takes a tenth of a photo's whole time. Here the way from
    every byte to the next segment is computed at once and then followed.
    """
    data = tf.io.decode_raw(cut(contents, 0, _PLAIN_BYTES), tf.uint8, fixed_length=_PLAIN_BYTES)
    marker = tf.cast(data[1:], tf.int32)
    length = tf.maximum(marker[1:-1] * 256 + marker[2:], 2)
    passed = (data[:-3] == 0xFF) & tf.gather(_PASSED, marker[:-2])
    place = tf.range(_PLAIN_BYTES - 3)
    following = tf.where(passed, tf.minimum(place + 2 + length, _PLAIN_BYTES - 9), place)
    at = tf.constant(2)
    for _ in range(_PLAIN_SEGMENTS):
        at = tf.gather(following, at)
    frame = tf.cast(tf.slice(data, [at], [9]), tf.int64)
    baseline_or_progressive = (frame[0] == 0xFF) & (frame[1] >= 0xC0) & (frame[1] <= 0xC2)
    inside = tf.cast(at, tf.int64) + 9 <= _length(contents)
    plain = (data[0] == 0xFF) & (data[1] == 0xD8) & (data[2] == 0xFF) & baseline_or_progressive & inside
    return plain, _big(frame[7:9]), _big(frame[5:7])


def _jpeg(contents: tf.Tensor) -> tf.Tensor:
    end = _length(contents)

    def step(_: tf.Tensor, at: tf.Tensor, size: tf.Tensor, exif: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, ...]:
        piece = read_bytes(contents, at, 10)
        marker, segment = piece[1], tf.maximum(piece[2] * 256 + piece[3], 2)
        stray = (piece[0] != 0xFF) | (marker == 0xFF)
        alone = (marker <= 1) | ((marker >= 0xD0) & (marker <= 0xD7))
        frame = (marker >= 0xC0) & (marker <= 0xCF) & (marker != 0xC4) & (marker != 0xC8) & (marker != 0xCC)
        frame = frame & ~stray & (at + 9 <= end)
        size = tf.where(frame, _big(piece[5:9]), size)
        is_exif = ~stray & (marker == 0xE1) & (segment > 2) & (length == 0) & _is(piece[4:], EXIF_PREFIX)
        exif, length = tf.where(is_exif, at + 4, exif), tf.where(is_exif, segment - 2, length)
        last = ~stray & ~alone & (frame | ((marker >= 0xD8) & (marker <= 0xDA)))
        at += tf.where(stray, tf.constant(1, tf.int64), tf.where(alone, tf.constant(2, tf.int64), 2 + segment))
        return tf.cast(~last & (at + 1 < end), tf.int64), at, size, exif, length

    _, size, exif, length = _walk(step, 2, 0, 0, 0)
    return _facts(0, size & 0xFFFF, size // 0x10000, exif, length)


def _png(contents: tf.Tensor) -> tf.Tensor:
    start, end = read_bytes(contents, 12, 12), _length(contents)
    whole = _is(start[:4], b"IHDR") & (end >= 24)

    def step(_: tf.Tensor, at: tf.Tensor, exif: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, ...]:
        piece = read_bytes(contents, at, 8)
        size, found = _big(piece[:4]), _is(piece[4:], b"eXIf")
        exif, length = tf.where(found, at + 8, exif), tf.where(found, size, length)
        at += 12 + size
        return tf.cast(~found & ~_is(piece[4:], b"IEND") & (at + 8 <= end), tf.int64), at, exif, length

    _, exif, length = _walk(step, 33, 0, 0)
    width, height = _big(start[4:8]), _big(start[8:12])
    return tf.where(whole, _facts(0, width, height, exif, length), _facts(BROKEN))


def _gif(contents: tf.Tensor) -> tf.Tensor:
    start, end = read_bytes(contents, 6, 5), _length(contents)

    def step(_: tf.Tensor, at: tf.Tensor, inside: tf.Tensor, clear: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # A graphic control extension: 21 F9 04 flags delay delay index 00.
        piece = read_bytes(contents, at, 7)
        inner, first = inside > 0, piece[0]
        extension = ~inner & (first == 0x21)
        control = extension & (piece[1] == 0xF9) & (piece[2] == 4)
        index = tf.where((piece[3] & 1) > 0, piece[6], tf.constant(-1, tf.int64))
        clear = tf.where(control, index, clear)
        running = (inner | extension) & (at < end)
        at += tf.where(inner, 1 + first, tf.where(extension, tf.constant(2, tf.int64), tf.constant(0, tf.int64)))
        return tf.cast(running, tf.int64), at, tf.cast(extension | (inner & (first > 0)), tf.int64), clear

    at, inside, clear = _walk(step, 13 + gif_table(start[4]), 0, -1)
    frame = read_bytes(contents, at, 10)
    left, top, width, height = (little(frame[i : i + 2]) for i in (1, 3, 5, 7))
    whole = (inside == 0) & (frame[0] == 0x2C) & (at + 10 <= end) & (width > 0) & (height > 0)
    width = tf.maximum(little(start[:2]), left + width)
    height = tf.maximum(little(start[2:4]), top + height)
    return tf.where(whole, _facts(0, width, height, frame=at, clear=clear), _facts(BROKEN))


def _bmp(contents: tf.Tensor) -> tf.Tensor:
    head, end = read_bytes(contents, 14, 52), _length(contents)
    size, width, height = little(head[:4]), _signed(head[4:8]), _signed(head[8:12])
    bits, compression = little(head[14:16]), little(head[16:20])
    masked = (compression == 3) | (compression == 6)
    plain = ((bits == 8) | (bits == 24)) & (compression == 0) | (bits == 32) & ((compression == 0) | masked)
    unread = (size < 40) | ~plain | (masked & ~_is(head[40:], BMP_MASKS))
    code = _code(((end < 34) | (masked & (end < 66)), BROKEN), (unread, UNREAD_BMP))
    return tf.where(code == 0, _facts(0, width, tf.abs(height)), _facts(code))


def _webp(contents: tf.Tensor) -> tf.Tensor:
    head, end = read_bytes(contents, 12, 18), _length(contents)
    kind = head[:4]
    extended, lossless = _is(kind, b"VP8X"), _is(kind, b"VP8L") & (head[8] == 0x2F) & (end >= 25)
    lossy = _is(kind, b"VP8 ") & _is(head[11:14], b"\x9d\x01\x2a") & (end >= 30)
    packed = little(head[9:13])
    canvas = (little(head[12:15]) + 1, little(head[15:18]) + 1)
    plain = ((packed & 0x3FFF) + 1, ((packed // 0x4000) & 0x3FFF) + 1)
    frame = (little(head[14:16]) & 0x3FFF, little(head[16:18]) & 0x3FFF)
    width, height = (
        tf.where(extended, c, tf.where(lossless, p, f)) for c, p, f in zip(canvas, plain, frame, strict=True)
    )

    def step(_: tf.Tensor, at: tf.Tensor, exif: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, ...]:
        piece = read_bytes(contents, at, 8)
        size, found = little(piece[4:]), _is(piece[:4], b"EXIF") & (at + 8 <= end)
        exif, length = tf.where(found, at + 8, exif), tf.where(found, size, length)
        at += 8 + size + (size & 1)
        return tf.cast(~found & (at + 8 <= end), tf.int64), at, exif, length

    zero = tf.constant(0, tf.int64)
    has_exif = extended & ((head[8] & 0x08) > 0)
    exif, length = tf.cond(has_exif, lambda: _walk(step, 12, 0, 0)[1:], lambda: (zero, zero))
    broken = ~((extended & (end >= 30)) | lossless | lossy)
    code = _code((broken, BROKEN), (extended & ((head[8] & 0x02) > 0), ANIMATED_WEBP))
    return tf.where(code == BROKEN, _facts(BROKEN), _facts(code, width, height, exif, length))


def _orientation(block: tf.Tensor) -> tf.Tensor:
    """Orientation tag in the first directory of an EXIF block, all entries at once."""
    skip = tf.where(_is(read_bytes(block, 0, 6), EXIF_PREFIX), 6, 0)
    block = cut(block, skip, _length(block))
    end = _length(block)
    start = read_bytes(block, 0, 8)
    big = _is(start[:4], b"MM\0\x2a")

    def number(values: tf.Tensor) -> tf.Tensor:
        return tf.where(big, _big(values), little(values))

    at = number(start[4:])
    entries = tf.clip_by_value((end - at - 2) // 12, 0, number(read_bytes(block, at, 2)))
    # One row more than there are entries, so that there is one to read even where there is none.
    table = tf.reshape(read_bytes(block, at + 2, 12 * (entries + 1)), [entries + 1, 12])
    found = (number(table[:, :2]) == ORIENTATION_TAG) & (tf.range(entries + 1) < entries)
    entry = table[tf.minimum(_first(found), entries)]
    short, long = number(entry[2:4]) == 3, number(entry[2:4]) == 4
    value = tf.where(short, number(entry[8:10]), number(entry[8:12]))
    good = (
        tf.reduce_any(found)
        & (big | _is(start[:4], b"II\x2a\0"))
        & (end >= 8)
        & (short | long)
        & (number(entry[4:8]) == 1)
    )
    return tf.where(good & (value >= 1) & (value <= 8), value, tf.ones_like(value))
