"""Large batches in slices: the rows of all of them, in order."""

import numpy as np
import pytest
import tensorflow as tf

from vse_tf.exporting.slices import in_slices


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9])
def test_slices_are_the_batch(count):
    sizes = []

    @tf.function(input_signature=[tf.TensorSpec([None, 2])], autograph=False)
    def run(rows):
        def part(start, end):
            tf.py_function(lambda first, last: sizes.append(int(last - first)), [start, end], [])
            return [rows[start:end] * 2, tf.range(start, end)]

        return in_slices(tf.shape(rows)[0], 4, part, [tf.TensorSpec([2]), tf.TensorSpec([], tf.int32)])

    rows = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    doubled, numbers = run(rows)
    np.testing.assert_array_equal(doubled, rows * 2)
    np.testing.assert_array_equal(numbers, np.arange(count))
    assert max(sizes) <= 4
    assert len(sizes) == max(1, -(-count // 4))


def test_slices_may_give_fewer_rows_than_they_take():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)
    def even(rows):
        def part(start, end):
            return [tf.boolean_mask(rows[start:end], rows[start:end] % 2 == 0)]

        return in_slices(tf.shape(rows)[0], 2, part, [tf.TensorSpec([], tf.int32)])

    assert even([1, 3, 2, 4, 5, 6])[0].numpy().tolist() == [2, 4, 6]
    assert even([1, 3])[0].numpy().tolist() == []
