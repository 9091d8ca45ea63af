"""Decodes a batch of encoded images in the graph; an error names the bad ones."""

from __future__ import annotations

import tensorflow as tf

from vse_tf.preprocessing.graph_bytes import without_autograph
from vse_tf.preprocessing.image_checks import refusal
from vse_tf.preprocessing.view import ImageView

DAMAGED = "broken or truncated image data"
# Number of images that an error names; further ones are counted.
NAMED = 10


@without_autograph
def decode_readable(image_bytes: tf.Tensor, view: ImageView) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode the images of a batch that can be decoded, one at a time.

    An operation that fails ends the step without naming the element. Therefore the images go through a small `tf.data`
    pipeline in the graph, which drops those that fail.

    Args:
        image_bytes: string `(n,)`, the bytes of image files; n may be 0.
        view: how images are prepared.

    Returns:
        The positions of the images that were decoded, int64 `(m,)`, and float32 `(m, *view.size, 3)` in 0..255.

    Example:
        >>> decode_readable(tf.constant([jpeg, b"damaged"]), ImageView((224, 224)))[1].shape
        TensorShape([1, 224, 224, 3])
    """
    count = tf.shape(image_bytes, tf.int64)[0]

    @without_autograph
    def decode(number: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return number, view.of_file(contents, None)

    # One image at a time: decoded, an image takes up to a thousand times the size of its file.
    images = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes)).map(decode)
    none = tf.zeros([0], tf.int64), tf.zeros([0, *view.pixels, 3])
    batch = (
        images.ignore_errors(log_warning=False)
        .batch(tf.maximum(count, 1))
        .concatenate(tf.data.Dataset.from_tensors(none))
        .take(1)
    )
    options = tf.data.Options()
    options.autotune.enabled = False  # one thread per request; there is nothing to tune in one step
    options.experimental_optimization.apply_default_optimizations = False
    read, decoded = batch.with_options(options).get_single_element()
    return read, tf.ensure_shape(decoded, [None, *view.pixels, 3])


@without_autograph
def check_all_read(image_bytes: tf.Tensor, read: tf.Tensor, view: ImageView) -> tf.Operation:
    """Refuse a batch with images that could not be decoded; the first `NAMED` are named with their reasons.

    Args:
        image_bytes: string `(n,)`, the bytes of image files.
        read: int64 `(m,)`, the positions of those that were decoded.
        view: how images are prepared.

    Returns:
        An operation that raises `tf.errors.InvalidArgumentError` unless all were: `image_bytes[3]: not a JPEG, PNG,
        GIF, BMP or WebP image; image_bytes[5]: …`
    """
    count = tf.shape(image_bytes, tf.int64)[0]
    complete = tf.shape(read, tf.int64)[0] == count

    def problems() -> tf.Tensor:
        missing = tf.sets.difference(tf.range(count)[tf.newaxis], read[tf.newaxis]).values
        reasons = tf.map_fn(
            lambda number: _problem(number, image_bytes[number], view.max_pixels),
            missing[:NAMED],
            fn_output_signature=tf.TensorSpec([], tf.string),
        )
        more = tf.maximum(tf.size(missing) - NAMED, 0)
        rest = tf.where(more > 0, tf.strings.join(["; and ", tf.strings.as_string(more), " more"]), "")
        return tf.strings.join([tf.strings.reduce_join(reasons, separator="; "), rest])

    message = tf.cond(complete, lambda: tf.constant(""), problems)
    return tf.debugging.Assert(complete, [message])


def _problem(number: tf.Tensor, contents: tf.Tensor, max_pixels: int) -> tf.Tensor:
    reason = refusal(contents, max_pixels)
    reason = tf.where(reason == "", DAMAGED, reason)
    return tf.strings.join(["image_bytes[", tf.strings.as_string(number), "]: ", reason])
