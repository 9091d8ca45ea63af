"""Stored vectors, against slow NumPy."""

import numpy as np
import pytest

from vse_tf.artifacts.storage import store


def unit(rows, dim=16, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_float32_is_as_it_was_and_float16_is_rounded():
    vectors = unit(20)
    assert store(vectors, "float32").restored() is vectors
    stored = store(vectors, "float16")
    assert (stored.values.dtype, stored.size) == (np.float16, 20 * 16 * 2)
    np.testing.assert_array_equal(stored.restored(), vectors.astype(np.float16).astype(np.float32))


def test_int8_has_a_scale_a_row():
    vectors = np.concatenate([unit(20), np.eye(1, 16, 3, dtype=np.float32), np.zeros([1, 16], np.float32)])
    stored = store(vectors, "int8")
    assert (stored.values.dtype, stored.size) == (np.int8, 22 * 16 + 22 * 4)
    for row, values, scale in zip(vectors, stored.values, stored.scales, strict=True):
        largest = max(abs(row)) or 1.0
        assert list(values) == [round(127 * float(x) / float(largest)) for x in row]
        if row.any():
            assert scale == pytest.approx(largest / 127)
    np.testing.assert_allclose(stored.restored(), vectors, atol=1 / 254 + 1e-6)
    assert np.isfinite(stored.restored()).all()
