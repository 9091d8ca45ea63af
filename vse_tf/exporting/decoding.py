"""A batch of encoded images in the graph: all of them decoded, or an error that names the bad ones."""

from __future__ import annotations

import tensorflow as tf

from vse_tf.data.pipeline import ImageView
from vse_tf.preprocessing.graph_bytes import without_autograph
from vse_tf.preprocessing.images import refusal

DAMAGED = "broken or truncated image data"


@without_autograph
def decode_batch(image_bytes: tf.Tensor, view: ImageView) -> tf.Tensor:
    """Decode a batch as evaluation does.

    An operation that fails ends the whole step without a word about which element it was at. So the images go through
    a small `tf.data` pipeline inside the graph, which drops those that fail; what is missing afterwards is looked at
    again for its reason.

    Args:
        image_bytes: string `(n,)`, the bytes of image files; n may be 0.
        view: how images are prepared.

    Returns:
        float32 `(n, *view.size, 3)` in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: `image_bytes[3]: not a JPEG, PNG, GIF, BMP or WebP image; image_bytes[5]: …`

    Example:
        >>> decode_batch(tf.constant([Path("photo.jpg").read_bytes()]), ImageView((224, 224))).shape
        TensorShape([1, 224, 224, 3])
    """
    count = tf.shape(image_bytes, tf.int64)[0]

    @without_autograph
    def decode(number: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return number, view.of_file(contents, None)

    images = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
    images = images.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    none = tf.zeros([0], tf.int64), tf.zeros([0, *view.pixels, 3])
    batch = (
        images.ignore_errors(log_warning=False)
        .batch(tf.maximum(count, 1))
        .concatenate(tf.data.Dataset.from_tensors(none))
        .take(1)
    )
    options = tf.data.Options()
    options.autotune.enabled = False  # a thread a request, which has nothing to tune in one step
    read, decoded = batch.with_options(options).get_single_element()
    complete = tf.shape(read, tf.int64)[0] == count

    def problems() -> tf.Tensor:
        missing = tf.sets.difference(tf.range(count)[tf.newaxis], read[tf.newaxis]).values
        told = tf.map_fn(
            lambda number: _problem(number, image_bytes[number], view.max_pixels),
            missing,
            fn_output_signature=tf.TensorSpec([], tf.string),
        )
        return tf.strings.reduce_join(told, separator="; ")

    message = tf.cond(complete, lambda: tf.constant(""), problems)
    with tf.control_dependencies([tf.debugging.Assert(complete, [message])]):
        return tf.ensure_shape(tf.identity(decoded), [None, *view.pixels, 3])


def _problem(number: tf.Tensor, contents: tf.Tensor, max_pixels: int) -> tf.Tensor:
    reason = refusal(contents, max_pixels)
    reason = tf.where(reason == "", DAMAGED, reason)
    return tf.strings.join(["image_bytes[", tf.strings.as_string(number), "]: ", reason])
