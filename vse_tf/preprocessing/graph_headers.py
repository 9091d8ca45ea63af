"""The rules of `vse_tf.preprocessing.image_headers` as TensorFlow operations, for exported graphs.

Making a graph of them ready takes seconds of processor time, so images that this process decodes are checked in Python.
Core operations only, so that a SavedModel made with them needs nothing of this package.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vse_tf.preprocessing.exif import EXIF_PREFIX, ORIENTATION_TAG
from vse_tf.preprocessing.graph_bytes import (
    big,
    byte_count,
    cut,
    equals,
    facts,
    first_true,
    gif_table,
    little,
    rare_branch,
    read_bytes,
    signed,
    traced_once,
    walk,
)
from vse_tf.preprocessing.graph_jpeg import jpeg, plain_jpeg, scanned
from vse_tf.preprocessing.image_headers import BMP_MASKS, MAGIC, PHOTO_BRANDS, TEXT_CHUNKS, TIFF_MAGIC
from vse_tf.preprocessing.image_limits import (
    ANIMATED_WEBP,
    BROKEN,
    BYTES,
    CHUNKS,
    COUNTED,
    EXCESS,
    MAX_BYTES,
    MAX_CHUNKS,
    MAX_PASSES,
    MAX_PIXEL_BYTES,
    MAX_TEXTS,
    NOT_AN_IMAGE,
    PHOTO,
    REASONS,
    RUN_BYTES,
    RUN_CHUNKS,
    SCANS,
    SPARE_BYTES,
    TEXTS,
    TOO_LARGE,
    UNREAD_BMP,
)

# One row of bytes per format, −1 for any byte.
_MAGIC_BYTES = np.full([len(MAGIC), len(max(MAGIC, key=len))], -1, np.int64)
for _row, _magic in zip(_MAGIC_BYTES, MAGIC, strict=True):
    _row[: len(_magic)] = [-1 if byte == ord(".") else byte for byte in _magic]

_IDAT, _IEND, _EXIF, _PLTE, _TRNS, *_TEXTS = (
    int.from_bytes(kind, "big") for kind in (b"IDAT", b"IEND", b"eXIf", b"PLTE", b"tRNS", *TEXT_CHUNKS)
)


class GraphHeader(NamedTuple):
    """The header of one image as scalar tensors.

    Args:
        code: int64, 0 or what is wrong (position in `image_limits.REASONS`).
        count: int64, the number in the message if the code is one of `image_limits.COUNTED`.
        format: int64, position in `image_limits.FORMATS`; their number for any other file.
        orientation: int64, 1..8.
        scans: int64, number of times that decoding goes over all pixels (JPEG); 1 for other formats.
        end: int64, position behind the last byte that a decoder needs.
        width: int64, pixels as stored; 0 or −1 if unknown.
        height: int64, pixels as stored.
        parts: int64 `(4,)`, positions in the file; see `image_headers.Header`.
    """

    code: tf.Tensor
    count: tf.Tensor
    format: tf.Tensor
    orientation: tf.Tensor
    scans: tf.Tensor
    end: tf.Tensor
    width: tf.Tensor
    height: tf.Tensor
    parts: tf.Tensor

    @property
    def layout(self) -> tf.Tensor:
        """int64 `(9,)`: what decoding needs of the header, see `vse_tf.preprocessing.image_formats.Layout`."""
        numbers = [self.format, self.orientation, self.end, self.width, self.height]
        return tf.concat([tf.stack(numbers), self.parts], 0)

    @property
    def pixels(self) -> tf.Tensor:
        """int64 scalar: number of decoded pixels, −1 if unknown."""
        known = (self.width > 0) & (self.height > 0)
        return tf.where(known, _product(self.width, self.height), tf.constant(-1, tf.int64))

    def above_limit(self, max_pixels: int) -> tf.Tensor:
        """bool scalar: there are too many pixels or scans; the rule of `image_limits.above_limit`."""
        pixels = self.pixels
        passes = self.scans * tf.minimum(pixels, 2**40)
        return (self.code == 0) & ((pixels > max_pixels) | (passes > MAX_PASSES * max_pixels))

    def problem(self, max_pixels: int) -> tf.Tensor:
        """string scalar: what is wrong, a message of `image_limits`; empty if nothing is."""

        @rare_branch
        def message() -> tf.Tensor:
            numbers = (self.count, self.scans, self.width, self.height)
            count, scans, width, height = (tf.strings.as_string(number) for number in numbers)
            counted = tf.reduce_any(self.code == tf.constant(COUNTED, tf.int64))
            reason = tf.strings.join(
                [tf.where(counted, tf.strings.join([count, " "]), ""), tf.gather(REASONS, self.code)]
            )
            sides = tf.strings.join([width, " x ", height])
            large = tf.strings.join([f"{TOO_LARGE}; header: ", sides, f", at most {max_pixels} pixels"])
            most = f" pixels, at most {MAX_PASSES * max_pixels} pixels in all"
            passes = tf.strings.join([scans, " scans of ", sides, most])
            return tf.where(self.code > 0, reason, tf.where(self.pixels > max_pixels, large, passes))

        good = (self.code == 0) & ~self.above_limit(max_pixels)
        return tf.cond(good, lambda: tf.constant(""), message)


def read_graph_header(contents: tf.Tensor) -> GraphHeader:
    """Format, size and orientation of an image in the graph; `image_headers.read_header` is the same in Python.

    Args:
        contents: string scalar, the file's bytes.

    Returns:
        The header; its `code` says what is wrong, it never raises an error.
    """
    found = _read(tf.convert_to_tensor(contents))
    code, count, kind, orientation, scans, end, width, height = tf.unstack(found[:8])
    return GraphHeader(code, count, kind, orientation, scans, end, width, height, found[8:])


@traced_once(tf.TensorSpec([], tf.string))
def _read(contents: tf.Tensor) -> tf.Tensor:
    """The fields of `GraphHeader`, int64 `(12,)`."""
    plain, single, frame, width, height = plain_jpeg(contents)

    @rare_branch
    def other() -> tf.Tensor:
        progressive = plain & (byte_count(contents) <= MAX_BYTES)
        return tf.cond(
            progressive, lambda: _found(scanned(contents, width, height, frame), 0, 1), lambda: _any(contents)
        )

    short = plain & single & (byte_count(contents) <= MAX_BYTES)
    found = tf.cond(short, lambda: _found(facts(0, width, height), 0, 1), other)
    return tf.ensure_shape(found, [12])


def _any(contents: tf.Tensor) -> tf.Tensor:
    """The header of any file."""
    start = read_bytes(contents, 0, _MAGIC_BYTES.shape[1])
    kind = first_true(tf.reduce_all((start == _MAGIC_BYTES) | (_MAGIC_BYTES < 0), axis=1))
    walks = [jpeg, _png, _gif, _bmp, _webp, _no_image, _too_long]
    which = tf.where(byte_count(contents) > MAX_BYTES, tf.constant(len(walks) - 1, tf.int64), kind)
    branches = [lambda walk=walk: walk(contents) for walk in walks]
    found = tf.ensure_shape(tf.switch_case(tf.cast(which, tf.int32), branches), [12])
    at, length = found[10], found[11]
    orientation = tf.cond(
        length > 0,
        lambda: _orientation(cut(contents, at, length)),
        lambda: tf.constant(1, tf.int64),
    )
    return _found(found, kind, orientation)


def _product(width: tf.Tensor, height: tf.Tensor) -> tf.Tensor:
    """Width times height; in a PNG header it can exceed 2^63."""
    return tf.minimum(width, 2**31 - 1) * tf.minimum(height, 2**31 - 1)


def _found(facts: tf.Tensor, kind: tf.Tensor | int, orientation: tf.Tensor | int) -> tf.Tensor:
    """The fields of `GraphHeader`; a size below 1 is found here."""
    sized = tf.reduce_any(facts[0] == tf.constant([0, SCANS, TEXTS, EXCESS], tf.int64))
    code = tf.where(sized & tf.reduce_any(facts[4:6] < 1), tf.constant(BROKEN, tf.int64), facts[0])
    fields = [code, facts[1], tf.cast(kind, tf.int64), tf.cast(orientation, tf.int64)]
    return tf.concat([tf.stack(fields), facts[2:10]], 0)


def _code(*rules: tuple[tf.Tensor, int]) -> tf.Tensor:
    """The code of the first rule that holds, else 0."""
    code = tf.constant(0, tf.int64)
    for holds, number in reversed(rules):
        code = tf.where(holds, tf.constant(number, tf.int64), code)
    return code


def _no_image(contents: tf.Tensor) -> tf.Tensor:
    start = read_bytes(contents, 0, 12)
    tiff = [equals(start[:4], magic) for magic in TIFF_MAGIC]
    photo = equals(start[4:8], b"ftyp") & tf.reduce_any([equals(start[8:], brand) for brand in PHOTO_BRANDS])
    return facts(_code((tf.reduce_any(tiff) | photo, PHOTO), (tf.constant(True), NOT_AN_IMAGE)))


def _too_long(contents: tf.Tensor) -> tf.Tensor:
    return facts(BYTES, count=byte_count(contents))


def _png(contents: tf.Tensor) -> tf.Tensor:
    start, end = read_bytes(contents, 12, 12), byte_count(contents)
    complete = equals(start[:4], b"IHDR") & (end >= 24)

    def step(
        _: tf.Tensor, at: tf.Tensor, texts: tf.Tensor, exif: tf.Tensor, *parts: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        palette, clear, first, last = parts
        piece = read_bytes(contents, at, 8)
        size, kind = big(piece[:4]) + 12, big(piece[4:])
        is_pixels = kind == _IDAT
        done = (at + 8 > end) | (kind == _IEND)
        last = tf.where((last == 0) & (done | ((first > 0) & ~is_pixels)), at, last)
        first = tf.where((first == 0) & is_pixels & ~done, at, first)
        exif = tf.where((exif == 0) & (kind == _EXIF) & ~done, at, exif)
        palette = tf.where((palette == 0) & (kind == _PLTE) & (first == 0), at, palette)
        clear = tf.where((clear == 0) & (kind == _TRNS) & (first == 0), at, clear)
        texts += tf.cast(tf.reduce_any(kind == tf.constant(_TEXTS, tf.int64)) & ~done, tf.int64)
        # Chunks of pixel data of equal size in a row are found at once, by the bytes where the next ones would begin.
        rows = tf.where(is_pixels, tf.clip_by_value(RUN_BYTES // size, 1, RUN_CHUNKS), tf.constant(1, tf.int64))
        width = tf.where(rows > 1, size, tf.constant(8, tf.int64))
        run = tf.io.decode_raw(cut(contents, at, rows * width), tf.uint8, fixed_length=tf.cast(rows * width, tf.int32))
        heads = tf.reshape(run, tf.stack([rows, width]))[:, :8]
        at += tf.maximum(first_true(~tf.reduce_all(heads == heads[:1], 1)), 1) * size
        return tf.cast(~done, tf.int64), at, texts, exif, palette, clear, first, last

    _, texts, exif, *parts = walk(step, 33, 0, 0, 0, 0, 0, 0, limit=MAX_CHUNKS)
    length = tf.where(exif > 0, big(read_bytes(contents, exif, 4)), tf.constant(0, tf.int64))
    width, height = big(start[4:8]), big(start[8:12])
    first, last = parts[2:]
    packed = tf.where(first > 0, last - first, tf.constant(0, tf.int64))
    excess = packed > MAX_PIXEL_BYTES * tf.minimum(_product(width, height), 2**50) + SPARE_BYTES
    code = _code((~complete, BROKEN), (last == 0, CHUNKS), (texts > MAX_TEXTS, TEXTS), (excess, EXCESS))
    count = tf.where(code == TEXTS, texts, packed)
    return facts(code, width, height, exif + 8, length, count=count, parts=parts)


def _gif(contents: tf.Tensor) -> tf.Tensor:
    start, end = read_bytes(contents, 6, 5), byte_count(contents)

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

    at, inside, clear = walk(step, 13 + gif_table(start[4]), 0, -1)
    frame = read_bytes(contents, at, 10)
    left, top, width, height = (little(frame[i : i + 2]) for i in (1, 3, 5, 7))
    complete = (inside == 0) & (frame[0] == 0x2C) & (at + 10 <= end) & (width > 0) & (height > 0)
    width = tf.maximum(little(start[:2]), left + width)
    height = tf.maximum(little(start[2:4]), top + height)
    return tf.where(complete, facts(0, width, height, parts=(at, clear)), facts(BROKEN))


def _bmp(contents: tf.Tensor) -> tf.Tensor:
    head, end = read_bytes(contents, 14, 52), byte_count(contents)
    size, width, height = little(head[:4]), signed(head[4:8]), signed(head[8:12])
    bits, compression = little(head[14:16]), little(head[16:20])
    masked = (compression == 3) | (compression == 6)
    plain = ((bits == 8) | (bits == 24)) & (compression == 0) | (bits == 32) & ((compression == 0) | masked)
    unread = (size < 40) | ~plain | (masked & ~equals(head[40:], BMP_MASKS))
    code = _code(((end < 34) | (masked & (end < 66)), BROKEN), (unread, UNREAD_BMP))
    return tf.where(code == 0, facts(0, width, tf.abs(height)), facts(code))


def _webp(contents: tf.Tensor) -> tf.Tensor:
    head, end = read_bytes(contents, 12, 18), byte_count(contents)
    kind = head[:4]
    extended, lossless = equals(kind, b"VP8X"), equals(kind, b"VP8L") & (head[8] == 0x2F) & (end >= 25)
    lossy = equals(kind, b"VP8 ") & equals(head[11:14], b"\x9d\x01\x2a") & (end >= 30)
    packed = little(head[9:13])
    canvas = (little(head[12:15]) + 1, little(head[15:18]) + 1)
    plain = ((packed & 0x3FFF) + 1, ((packed // 0x4000) & 0x3FFF) + 1)
    frame = (little(head[14:16]) & 0x3FFF, little(head[16:18]) & 0x3FFF)
    width, height = (
        tf.where(extended, c, tf.where(lossless, p, f)) for c, p, f in zip(canvas, plain, frame, strict=True)
    )

    def step(_: tf.Tensor, at: tf.Tensor, exif: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, ...]:
        piece = read_bytes(contents, at, 8)
        size, found = little(piece[4:]), equals(piece[:4], b"EXIF") & (at + 8 <= end)
        exif, length = tf.where(found, at + 8, exif), tf.where(found, size, length)
        at += 8 + size + (size & 1)
        return tf.cast(~found & (at + 8 <= end), tf.int64), at, exif, length

    zero = tf.constant(0, tf.int64)
    has_exif = extended & ((head[8] & 0x08) > 0)
    exif, length = tf.cond(has_exif, lambda: walk(step, 12, 0, 0)[1:], lambda: (zero, zero))
    broken = ~((extended & (end >= 30)) | lossless | lossy)
    code = _code((broken, BROKEN), (extended & ((head[8] & 0x02) > 0), ANIMATED_WEBP))
    return tf.where(code == BROKEN, facts(BROKEN), facts(code, width, height, exif, length))


def _orientation(block: tf.Tensor) -> tf.Tensor:
    """Orientation tag in the first directory of an EXIF block, all entries at once."""
    skip = tf.where(equals(read_bytes(block, 0, 6), EXIF_PREFIX), 6, 0)
    block = cut(block, skip, byte_count(block))
    end = byte_count(block)
    start = read_bytes(block, 0, 8)
    swapped = equals(start[:4], b"MM\0\x2a")

    def number(values: tf.Tensor) -> tf.Tensor:
        return tf.where(swapped, big(values), little(values))

    at = number(start[4:])
    entries = tf.clip_by_value((end - at - 2) // 12, 0, number(read_bytes(block, at, 2)))
    # One row more than there are entries, so that there is at least one.
    table = tf.reshape(read_bytes(block, at + 2, 12 * (entries + 1)), [entries + 1, 12])
    found = (number(table[:, :2]) == ORIENTATION_TAG) & (tf.range(entries + 1) < entries)
    entry = table[tf.minimum(first_true(found), entries)]
    short, long = number(entry[2:4]) == 3, number(entry[2:4]) == 4
    value = tf.where(short, number(entry[8:10]), number(entry[8:12]))
    good = (
        tf.reduce_any(found)
        & (swapped | equals(start[:4], b"II\x2a\0"))
        & (end >= 8)
        & (short | long)
        & (number(entry[4:8]) == 1)
    )
    return tf.where(good & (value >= 1) & (value <= 8), value, tf.ones_like(value))
