"""Reading an encoded image byte by byte inside a TensorFlow graph, in core operations.

Positions are clipped to the file and loops are limited, so any content is read without an error and in bounded time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from vse_tf.preprocessing.image_limits import MAX_BLOCKS, MAX_BYTES

F = TypeVar("F", bound=Callable[..., Any])


def without_autograph(function: F) -> F:
    """Keep AutoGraph from a function: there is nothing to convert, and finding that out takes seconds."""
    return tf.autograph.experimental.do_not_convert(function)


def rare_branch(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Make a branch that is hardly ever taken one node of the graph: the nodes of an untaken branch take time too."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def traced_once(*inputs: tf.TensorSpec, rare: bool = False) -> Callable[[F], F]:
    """Trace a function of tensors once per process, at its first call; every graph shares that trace, eager calls too.

    Tracing takes seconds, and a `tf.function` that is called from several graphs is traced for the first and again for
    the others. `cache_clear` of the decorated function drops the trace.

    Args:
        inputs: shape and type of each argument.
        rare: make it one node of the graph, see `rare_branch`.
    """
    attributes = {"_noinline": True} if rare else None

    def decorate(function: F) -> F:
        @functools.cache
        def traced() -> Any:
            with tf.init_scope():
                run = tf.function(function, autograph=False, experimental_attributes=attributes)
                return run.get_concrete_function(*inputs)

        @functools.wraps(function)
        def call(*values: tf.Tensor) -> Any:
            return traced()(*values)

        call.cache_clear = traced.cache_clear  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def cut(contents: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """`count` bytes of a string scalar from position `at`; fewer at its end."""
    at = tf.clip_by_value(tf.cast(at, tf.int64), 0, byte_count(contents))
    return tf.strings.substr(contents, at, tf.cast(count, tf.int64))


def read_bytes(contents: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """Bytes of a string scalar as int64 `(count,)`; zeros beyond its end."""
    values = tf.io.decode_raw(cut(contents, at, count), tf.uint8, fixed_length=tf.cast(count, tf.int32))
    values.set_shape([count if isinstance(count, int) else None])
    return tf.cast(values, tf.int64)


def little(values: tf.Tensor) -> tf.Tensor:
    """Little-endian bytes `(..., n)` as int64 `(...,)`."""
    return tf.reduce_sum(values * (256 ** np.arange(values.shape[-1])), -1)


def gif_table(flags: tf.Tensor) -> tf.Tensor:
    """Size in bytes of the colour table of a GIF screen or frame with these flags."""
    size = tf.bitwise.left_shift(tf.constant(3, tf.int64), (flags & 7) + 1)
    return tf.where((flags & 0x80) > 0, size, tf.zeros_like(size))


def byte_count(contents: tf.Tensor) -> tf.Tensor:
    """Length of a string scalar, int64."""
    return tf.cast(tf.strings.length(contents), tf.int64)


def big(values: tf.Tensor) -> tf.Tensor:
    """Big-endian bytes `(..., n)` as int64 `(...,)`."""
    return little(tf.reverse(values, [-1]))


def signed(values: tf.Tensor) -> tf.Tensor:
    """Four little-endian bytes as a signed number."""
    number = little(values)
    return number - (number // 2**31) * 2**32


def first_true(found: tf.Tensor) -> tf.Tensor:
    """Position of the first true entry of a vector, or its length if there is none."""
    count = tf.shape(found, tf.int64)[0]
    return tf.reduce_min(tf.concat([tf.where(found, tf.range(count), count), [count]], 0))


def equals(values: tf.Tensor, text: bytes) -> tf.Tensor:
    """Whether bytes `(n,)` equal `text`."""
    return tf.reduce_all(values == np.frombuffer(text, np.uint8).astype(np.int64))


def walk(
    step: Callable[..., tuple[tf.Tensor, ...]], *state: tf.Tensor | int, limit: int = MAX_BLOCKS
) -> tuple[tf.Tensor, ...]:
    """Repeat a step on int64 scalars (running, position, ...) while running is 1, at most `limit` times."""
    start = (tf.constant(1, tf.int64), *(tf.cast(value, tf.int64) for value in state))
    found = tf.while_loop(lambda running, *_: running > 0, step, start, maximum_iterations=limit)
    return tuple(found[1:])


def facts(
    code: tf.Tensor | int,
    width: tf.Tensor | int = -1,
    height: tf.Tensor | int = -1,
    at: tf.Tensor | int = 0,
    length: tf.Tensor | int = 0,
    *,
    count: tf.Tensor | int = 0,
    scans: tf.Tensor | int = 1,
    end: tf.Tensor | int = MAX_BYTES,
    parts: Sequence[tf.Tensor | int] = (),
) -> tf.Tensor:
    """The int64 vector that every walk returns: the fields of `GraphHeader`, position and length of the EXIF block."""
    values = (code, count, scans, end, width, height, *parts, *[0] * (4 - len(parts)), at, length)
    return tf.stack([tf.cast(value, tf.int64) for value in values])
