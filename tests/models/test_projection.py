"""The head and the unit norm against NumPy."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from vse_tf.models.backbones import dtype_policy
from vse_tf.models.projection import L2Normalize, build_head, head_of

RNG = np.random.default_rng(0)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_l2_normalize_gives_unit_vectors_at_any_scale() -> None:
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    for scale in (1e-9, 1.0, 1e9):
        np.testing.assert_allclose(L2Normalize()(x * np.float32(scale)), unit(x), rtol=1e-5, atol=1e-7)


def test_l2_normalize_of_zero_is_zero_with_zero_gradient() -> None:
    x = tf.constant([[0.0, 0.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = L2Normalize()(x)
        loss = tf.reduce_sum(y * tf.constant([[1.0, 2.0], [1.0, 2.0]]))
    np.testing.assert_allclose(y, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)
    # d(x/|x|)/dx = (I − y yᵀ) / |x|
    expected = (np.eye(2) - np.outer([0.6, 0.8], [0.6, 0.8])) / 5 @ [1.0, 2.0]
    np.testing.assert_allclose(tape.gradient(loss, x), [[0.0, 0.0], expected], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_l2_normalize_does_not_hide_non_finite_values(value: float) -> None:
    y = np.asarray(L2Normalize()(np.array([[1.0, value], [3.0, 4.0]], np.float32)))
    assert not np.isfinite(y[0]).all()
    assert np.isfinite(y[1]).all()


def test_l2_normalize_works_in_float32_whatever_comes_in() -> None:
    with dtype_policy("mixed_float16"):
        layer = L2Normalize()
    y = layer(tf.constant([[300.0, 400.0]], tf.float16))  # 300² is beyond float16
    assert y.dtype == tf.float32
    np.testing.assert_allclose(y, [[0.6, 0.8]], rtol=1e-3)
    assert keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(L2Normalize(epsilon=1e-6))
    ).epsilon == pytest.approx(1e-6)


def test_head_is_the_methods() -> None:
    head = build_head((6,), 4, head_units=5, feature_units=3, normalize=True)
    for weight in head.weights:  # biases too, which start at zero
        weight.assign(RNG.normal(size=weight.shape))
    kernel, bias, hidden, output, output_bias = (np.asarray(weight, dtype=np.float64) for weight in head.get_weights())
    x = RNG.normal(size=(7, 6))
    expected = unit(np.maximum((unit(x) @ kernel + bias) @ hidden, 0) @ output + output_bias)
    np.testing.assert_allclose(head(x), expected, atol=1e-6)
    assert [head.get_layer(name).units for name in ("feature_units", "head_units", "head_output")] == [3, 5, 4]


def test_single_dense_instead_of_the_head() -> None:
    head = build_head((6,), 4, head_units=0)
    kernel, bias = head.get_weights()
    x = RNG.normal(size=(7, 6))
    np.testing.assert_allclose(head(x), unit(x @ kernel + bias), atol=1e-6)


def test_initial_values() -> None:
    head = build_head((60,), 40, head_units=50, feature_units=30)
    for weight in head.weights:
        value = np.asarray(weight.value)
        if weight.name == "bias":
            assert not value.any()
        else:
            limit = np.sqrt(6 / sum(value.shape))  # Glorot uniform
            assert 0.9 * limit < np.abs(value).max() <= limit


def test_same_seed_same_weights() -> None:
    def weights(seed: int) -> np.ndarray:
        keras.utils.set_random_seed(seed)
        return build_head((6,), 4, head_units=5).get_weights()[0]

    assert np.array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_ends_in_float32(precision: str) -> None:
    keras.utils.set_random_seed(0)
    exact = build_head((6,), 4, head_units=5)
    mixed = build_head((6,), 4, head_units=5, precision=precision)
    mixed.set_weights(exact.get_weights())
    assert mixed.get_layer("head_units").compute_dtype == precision.removeprefix("mixed_")
    assert mixed.get_layer("head_units").variable_dtype == "float32"
    x = RNG.normal(size=(7, 6))
    y = mixed(x)
    assert y.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(y, exact(x), atol=0.05)
    assert not np.array_equal(y, exact(x))


def test_dropout_stands_before_the_head_and_in_training_only() -> None:
    head = build_head((6,), 4, head_units=5, dropout=0.5)
    x = RNG.normal(size=(7, 6))
    assert np.array_equal(head(x), head(x))
    assert not np.array_equal(head(x, training=True), head(x, training=True))


def test_head_survives_its_config() -> None:
    head = build_head((6,), 4, head_units=5, feature_units=3, normalize=True, dropout=0.1)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(head)))
    again = keras.saving.deserialize_keras_object(config)
    again.set_weights(head.get_weights())
    x = RNG.normal(size=(2, 6))
    assert np.array_equal(again(x), head(x))
    tower = keras.Model(inputs := keras.Input((6,)), head(inputs))
    assert head_of(tower) is head
