"""Runs a large batch in slices, so that memory does not grow with the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

# Items of a slice, unless they are large.
SLICE_SIZE = 64


def in_slices(
    count: tf.Tensor,
    size: int,
    run: Callable[[tf.Tensor, tf.Tensor], Sequence[tf.Tensor]],
    specs: Sequence[tf.TensorSpec],
) -> list[tf.Tensor]:
    """Run a function on the slices of a batch, one after the other.

    Args:
        count: int32 scalar, size of the batch; for an empty batch the function runs once, on an empty slice.
        size: size of a slice.
        run: from the start and the end of a slice, int32 scalars, to one or more tensors.
        specs: shape and type of an item of each of these tensors.

    Returns:
        The tensors of all slices, concatenated.

    Example:
        >>> run = lambda start, end: [x[start:end] ** 2]
        >>> (squares,) = in_slices(tf.shape(x)[0], 64, run, [tf.TensorSpec(x.shape[1:])])
    """
    stores = [
        tf.TensorArray(spec.dtype, 1, dynamic_size=True, element_shape=[None, *spec.shape], infer_shape=False)
        for spec in specs
    ]

    def step(start: tf.Tensor, *stores: tf.TensorArray) -> tuple[tf.Tensor, ...]:
        parts = run(start, tf.minimum(start + size, count))
        return start + size, *(store.write(start // size, part) for store, part in zip(stores, parts, strict=True))

    _, *stores = tf.while_loop(
        lambda start, *_: (start < count) | (start == 0), step, (tf.constant(0), *stores), parallel_iterations=1
    )
    return [store.concat() for store in stores]
