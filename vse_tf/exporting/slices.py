"""A large batch in slices, so that what is in memory at a time does not grow with the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def in_slices(
    count: tf.Tensor,
    size: int,
    run: Callable[[tf.Tensor, tf.Tensor], Sequence[tf.Tensor]],
    rows: Sequence[tf.TensorSpec],
) -> list[tf.Tensor]:
    """Run a function on one slice of a batch after the other.

    Args:
        count: int32 scalar, rows of the batch; of an empty batch the empty slice is run.
        size: rows of a slice.
        run: takes the first row of a slice and the one behind its last, int32 scalars, and gives tensors.
        rows: what a row of each of these tensors is like.

    Returns:
        Each of the function's tensors, those of all slices one behind the other.

    Example:
        >>> run = lambda start, end: [x[start:end] ** 2]
        >>> (squares,) = in_slices(tf.shape(x)[0], 64, run, [tf.TensorSpec(x.shape[1:])])
    """
    stores = [
        tf.TensorArray(row.dtype, 1, dynamic_size=True, element_shape=[None, *row.shape], infer_shape=False)
        for row in rows
    ]

    def step(start: tf.Tensor, *stores: tf.TensorArray) -> tuple[tf.Tensor, ...]:
        parts = run(start, tf.minimum(start + size, count))
        return start + size, *(store.write(start // size, part) for store, part in zip(stores, parts, strict=True))

    _, *stores = tf.while_loop(
        lambda start, *_: (start < count) | (start == 0), step, (tf.constant(0), *stores), parallel_iterations=1
    )
    return [store.concat() for store in stores]
