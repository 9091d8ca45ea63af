"""The pixels of each image format as RGB, transparency on white, in core TensorFlow operations.

TensorFlow's decoders ignore transparency and the palette of a BMP, and they decode all frames of a GIF, which may be
thousands and smaller than its canvas.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from vse_tf.preprocessing.graph_bytes import big, cut, first_true, gif_table, little, read_bytes, traced_once
from vse_tf.preprocessing.image_limits import MAX_GIF_BYTES

# The blocks of a GIF's frame are found in runs of up to RUN blocks of equal size, or else in windows of WINDOW bytes.
RUN, WINDOW = 512, 2**15
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
WHITE = b"\xff\xff\xff"


class Layout(NamedTuple):
    """What decoding needs of an image's header, as scalar int64 tensors.

    The same vector comes from Python (`image_headers.Header.layout`) and from a graph (`GraphHeader.layout`).

    Args:
        format: position in `image_limits.FORMATS`.
        orientation: 1..8.
        end: position behind the last byte that a decoder needs.
        width: in pixels as stored.
        height: in pixels as stored.
        parts: int64 `(4,)`, positions in the file; see `image_headers.Header`.
    """

    format: tf.Tensor
    orientation: tf.Tensor
    end: tf.Tensor
    width: tf.Tensor
    height: tf.Tensor
    parts: tf.Tensor

    @classmethod
    def of(cls, numbers: tf.Tensor) -> Layout:
        """The layout from its numbers, int64 `(9,)`."""
        kind, orientation, end, width, height = tf.unstack(numbers[:5])
        return cls(kind, orientation, end, width, height, numbers[5:])


LAYOUT = tf.TensorSpec([9], tf.int64)


def stored_pixels(contents: tf.Tensor, layout: tf.Tensor) -> tf.Tensor:
    """Decode an image as it is stored, before its orientation is applied.

    Args:
        contents: string scalar, the file's bytes up to the layout's end.
        layout: int64 `(9,)`, of an image that is not refused.

    Returns:
        uint8 `(height, width, 3)`.

    Raises:
        tf.errors.InvalidArgumentError: the pixels are broken or truncated.
    """
    return tf.cond(
        layout[0] == 0,
        lambda: tf.io.decode_jpeg(contents, channels=3, fancy_upscaling=True, dct_method="INTEGER_ACCURATE"),
        lambda: _others(contents, layout),
    )


@traced_once(tf.TensorSpec([], tf.string), LAYOUT, rare=True)
def _others(contents: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """All formats but JPEG."""
    layout = Layout.of(numbers)
    return tf.switch_case(
        tf.cast(layout.format - 1, tf.int32),
        [
            lambda: _png(contents, layout),
            lambda: _gif(contents, layout),
            lambda: _bmp(contents, layout),
            # Not decode_webp: older versions of TensorFlow (Serving) have no such operation and cannot load the graph.
            lambda: _opaque(tf.io.decode_image(contents, channels=0, expand_animations=False)),
        ],
    )


def _opaque(image: tf.Tensor) -> tf.Tensor:
    """`(h, w, 3 or 4)` to `(h, w, 3)`."""
    return tf.cond(tf.shape(image)[2] == 4, lambda: _on_white(image), lambda: image[..., :3])


def _on_white(image: tf.Tensor, opaque: tf.Tensor | int = 255) -> tf.Tensor:
    """`(h, w, 4)` to `(h, w, 3)`, rounded to the nearest level; untouched where all of alpha is `opaque`."""

    def composite() -> tf.Tensor:
        alpha = tf.cast(image[..., 3:], tf.uint16)
        # At most 255 * 255 + 127, which 16 bits hold.
        mixed = tf.cast(image[..., :3], tf.uint16) * alpha + 255 * (255 - alpha) + 127
        return tf.cast(mixed // 255, tf.uint8)

    return tf.cond(tf.reduce_all(image[..., 3] == tf.cast(opaque, tf.uint8)), lambda: image[..., :3], composite)


def _png(contents: tf.Tensor, layout: Layout) -> tf.Tensor:
    """Decode a PNG from which all chunks are removed that its pixels do not need.

    The decoder would unpack every text and colour profile, and use none.
    """
    # Below 8 bits the decoder fills a missing alpha channel with the largest value of that number of bits.
    bits = tf.minimum(read_bytes(contents, 24, 1)[0], 8)
    opaque = tf.bitwise.left_shift(tf.constant(1, tf.int64), bits) - 1
    palette, clear, start, end = tf.unstack(layout.parts)

    def chunk(at: tf.Tensor) -> tf.Tensor:
        size = big(read_bytes(contents, at, 4))
        return cut(contents, at, tf.where(at > 0, 12 + size, tf.constant(0, tf.int64)))

    needed = [cut(contents, 0, 33), chunk(palette), chunk(clear), cut(contents, start, end - start), PNG_END]
    return _on_white(tf.io.decode_png(tf.strings.join(needed), channels=4), opaque)


def _gif(contents: tf.Tensor, layout: Layout) -> tf.Tensor:
    """Decode the first frame, as a GIF of its own: at the origin, with its transparent colour made white."""
    at, clear = layout.parts[0], layout.parts[1]
    screen = read_bytes(contents, 6, 5)
    frame = read_bytes(contents, at, 10)
    left, top, width, height = (little(frame[i : i + 2]) for i in (1, 3, 5, 7))
    screen_table, frame_table = gif_table(screen[4]), gif_table(frame[9])
    blocks = at + 10 + frame_table + 1
    end = _end_of_blocks(contents, blocks)
    alone = tf.strings.join(
        [
            cut(contents, 0, 6),
            cut(contents, at + 5, 4),
            cut(contents, 10, 1),
            b"\0\0",
            _cleared(cut(contents, 13, screen_table), clear),
            b",\0\0\0\0",
            cut(contents, at + 5, 5),
            _cleared(cut(contents, at + 10, frame_table), clear),
            cut(contents, blocks - 1, end - blocks + 2),
            b";",
        ]
    )
    pixels = tf.io.decode_gif(alone)[0]
    around = [[top, layout.height - top - height], [left, layout.width - left - width], [0, 0]]
    return tf.pad(pixels, tf.cast(around, tf.int64), constant_values=tf.constant(255, tf.uint8))


def _end_of_blocks(contents: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Position of the empty block that ends a sequence of blocks, each with its length in front."""
    place = tf.range(WINDOW + 256)

    def equal(at: tf.Tensor) -> tf.Tensor:
        """Behind the next blocks of one size, found at once; nearly all blocks but the last have 255 bytes."""
        size = read_bytes(contents, at, 1)[0]
        run = tf.io.decode_raw(
            cut(contents, at, RUN * (size + 1)), tf.uint8, fixed_length=RUN * tf.cast(size + 1, tf.int32)
        )
        heads = tf.reshape(run, [RUN, -1])[:, 0]
        return tf.where(size > 0, at + first_true(heads != heads[0]) * (size + 1), at)

    def any_size(at: tf.Tensor) -> tf.Tensor:
        """Behind the blocks in a window; as in `graph_jpeg`, positions from every byte, each time twice as far."""
        window = tf.io.decode_raw(cut(contents, at, WINDOW + 256), tf.uint8, fixed_length=WINDOW + 256)
        size = tf.cast(window, tf.int32)
        following = tf.where((size == 0) | (place >= WINDOW), place, place + 1 + size)
        (following,) = tf.while_loop(
            lambda following: following[following[0]] > following[0],
            lambda following: (tf.gather(following, following),),
            [following],
        )
        return at + tf.cast(following[0], tf.int64)

    def step(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        behind = equal(at)
        behind = tf.cond(behind - at < WINDOW, lambda: any_size(behind), lambda: behind)
        return behind, read_bytes(contents, behind, 1)[0] > 0

    limit = MAX_GIF_BYTES // WINDOW
    return tf.while_loop(lambda _, more: more, step, (at, tf.constant(True)), maximum_iterations=limit)[0]


def _cleared(table: tf.Tensor, clear: tf.Tensor) -> tf.Tensor:
    """A colour table with the entry `clear` white; unchanged if there is no such entry."""
    length = tf.cast(tf.strings.length(table), tf.int64)
    at = tf.where(clear < 0, length, 3 * clear)
    patched = tf.strings.join([cut(table, 0, at), WHITE, cut(table, at + 3, length)])
    return tf.where(at + 3 <= length, patched, table)


def _bmp(contents: tf.Tensor, layout: Layout) -> tf.Tensor:
    head = read_bytes(contents, 0, 70)
    size, bits, compression = little(head[14:18]), little(head[28:30]), little(head[30:34])
    # The decoder refuses bytes behind the pixels.
    row = (bits // 8 * layout.width + 3) // 4 * 4
    pixels = tf.io.decode_bmp(cut(contents, 0, little(head[10:14]) + row * layout.height))
    has_alpha = (compression > 0) & (size >= 56) & (little(head[66:70]) == 0xFF000000)

    def coloured() -> tf.Tensor:
        palette = tf.reshape(read_bytes(contents, 14 + size, 4 * 256), [256, 4])
        return tf.gather(tf.cast(palette[:, 2::-1], tf.uint8), tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(
        bits == 8,
        coloured,
        lambda: tf.cond(has_alpha, lambda: _opaque(pixels), lambda: pixels[..., :3]),
    )
