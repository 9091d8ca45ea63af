"""The check of an image's header before it is decoded, in Python or in a graph.

Both refuse the same images and give the same layout, see `vse_tf.preprocessing.image_formats.Layout`. The check in a
graph is thousands of operations, which cost seconds of processor time whenever a graph with them is made ready, so only
exported models need it.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vse_tf.preprocessing.graph_bytes import without_autograph
from vse_tf.preprocessing.graph_headers import read_graph_header
from vse_tf.preprocessing.image_formats import LAYOUT
from vse_tf.preprocessing.image_headers import checked_header

# In place of the layout of an image that is refused.
_REFUSED = np.full(LAYOUT.shape, -1, np.int64)


@without_autograph
def checked(contents: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Check the header of an image.

    Args:
        contents: string scalar, the file's bytes.
        max_pixels: see `images.decode`.

    Returns:
        The contents, in a graph available only after the check, and the image's layout, int64 `(9,)`; see
        `vse_tf.preprocessing.image_formats.Layout`.

    Raises:
        tf.errors.InvalidArgumentError: the image is refused; the message says why.

    Example:
        >>> checked(tf.io.read_file("cat.jpg"), 100_000_000)[1].numpy()
        array([    0,     1, 53123,   640,   480,     0,     0,     0,     0])
    """
    contents = tf.convert_to_tensor(contents)
    if tf.executing_eagerly():
        try:
            return contents, tf.constant(checked_header(contents.numpy(), max_pixels).layout, tf.int64)
        except ValueError as error:
            raise tf.errors.InvalidArgumentError(None, None, str(error)) from None
    header = read_graph_header(contents)
    message = header.problem(max_pixels)
    with tf.control_dependencies([tf.debugging.Assert(message == "", [message])]):
        return tf.identity(contents), header.layout


@without_autograph
def refusal(contents: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Why `images.decode` refuses an image by its header.

    Args:
        contents: string scalar, the file's bytes.
        max_pixels: see `images.decode`.

    Returns:
        string scalar, empty if it is not refused.

    Example:
        >>> refusal(tf.constant(b"hello"), 100_000_000).numpy()
        b'not a JPEG, PNG, GIF, BMP or WebP image'
    """
    if not tf.executing_eagerly():
        return read_graph_header(contents).problem(max_pixels)
    try:
        checked_header(tf.convert_to_tensor(contents).numpy(), max_pixels)
    except ValueError as error:
        return tf.constant(str(error))
    return tf.constant("")


def layout_or_refused(contents: bytes, max_pixels: int) -> np.ndarray:
    """The layout of an image, int64 `(9,)`, or one that `accepted` refuses; for Python functions that a graph calls.

    Args:
        contents: the file's bytes.
        max_pixels: see `images.decode`.

    Example:
        >>> layout_or_refused(b"hello", 100_000_000)[0]
        -1
    """
    try:
        return np.array(checked_header(contents, max_pixels).layout, np.int64)
    except ValueError:
        return _REFUSED


@without_autograph
def accepted(contents: tf.Tensor, layout: tf.Tensor) -> tf.Tensor:
    """The contents of an image, available in the graph only if `layout_or_refused` did not refuse it.

    Args:
        contents: string scalar, the file's bytes.
        layout: int64 `(9,)`.

    Raises:
        tf.errors.InvalidArgumentError: it is refused. `checked` says why.
    """
    with tf.control_dependencies([tf.debugging.Assert(layout[0] >= 0, ["refused by its header"])]):
        return tf.identity(contents)
