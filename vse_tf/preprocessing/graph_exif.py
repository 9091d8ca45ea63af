"""The orientation in an EXIF block in a TensorFlow graph; the rule of `vse_tf.preprocessing.image_headers`."""

from __future__ import annotations

import tensorflow as tf

from vse_tf.preprocessing.graph_bytes import big, byte_count, cut, equals, first_true, little, read_bytes
from vse_tf.preprocessing.image_headers import EXIF_PREFIX, ORIENTATION_TAG


def orientation_of(block: tf.Tensor) -> tf.Tensor:
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
    # One row more than there are entries, so that there is one to read even where there is none.
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
