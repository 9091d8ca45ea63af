"""The packed GRU against `keras.layers.GRU`: states, gradients, weights, configuration."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.models.packed_gru import PackedGRU

UNITS, WIDTH = 5, 4


def pair(**kwargs):
    """Keras' layer and the packed one with the same random weights."""
    rng = np.random.default_rng(1)
    layers = keras.layers.GRU(UNITS, **kwargs), PackedGRU(UNITS, **kwargs)
    values = [rng.normal(size=shape).astype(np.float32) for shape in ((WIDTH, 15), (UNITS, 15), (2, 15))]
    for layer in layers:
        layer.build((None, None, WIDTH))
        layer.set_weights(values)
    return layers


def inputs(lengths, length):
    rng = np.random.default_rng(2)
    mask = np.arange(length) < np.array(lengths)[:, None]
    return rng.normal(size=(len(lengths), length, WIDTH)).astype(np.float32), mask


def state_and_gradients(layer, x, mask, graph=True):
    upstream = np.random.default_rng(3).normal(size=(len(x), UNITS)).astype(np.float32)

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            state = layer(x, mask=None if mask is None else tf.constant(mask))
            total = tf.reduce_sum(state * upstream)
        return [state, *tape.gradient(total, [x, *(weight.value for weight in layer.trainable_weights)])]

    return [tf.convert_to_tensor(found).numpy() for found in (tf.function(run) if graph else run)(tf.constant(x))]


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_states_and_gradients_are_keras_own(graph, backwards):
    x, mask = inputs([3, 7, 1, 0, 5, 5], 8)
    own, packed = (state_and_gradients(layer, x, mask, graph) for layer in pair(go_backwards=backwards))
    own[1] = np.where(mask[..., None], own[1], 0)
    assert np.abs(packed[0][1]).max() > 0.1
    for expected, found in zip(own, packed, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_any_lengths(lengths):
    x, mask = inputs(lengths, 6)
    own, packed = pair()
    expected = own(x, mask=tf.constant(mask)).numpy()
    expected[np.array(lengths) == 0] = 0
    np.testing.assert_allclose(packed(x, mask=tf.constant(mask)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_without_a_mask_every_position_counts():
    x, _ = inputs([6, 6, 6], 6)
    own, packed = (state_and_gradients(layer, x, None) for layer in pair())
    for expected, found in zip(own, packed, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_no_rows_give_no_states():
    x, mask = inputs([0], 6)
    assert pair()[1](x[:0], mask=tf.constant(mask[:0])).shape == (0, UNITS)


def test_what_stands_in_the_padding_does_not_matter():
    x, mask = inputs([2, 4], 6)
    packed = pair()[1]
    other = np.where(mask[..., None], x, np.float32(np.nan))
    np.testing.assert_array_equal(packed(x, mask=tf.constant(mask)), packed(other, mask=tf.constant(mask)))


def test_both_directions_and_the_configuration():
    x, mask = inputs([3, 6, 2], 6)
    own, packed = (keras.layers.Bidirectional(layer, merge_mode="ave") for layer in pair())
    own(x, mask=tf.constant(mask))
    packed(x, mask=tf.constant(mask))
    packed.set_weights(own.get_weights())
    expected, found = (layer(x, mask=tf.constant(mask)).numpy() for layer in (own, packed))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    again = keras.layers.deserialize(keras.layers.serialize(packed))
    assert type(again.forward_layer) is type(again.backward_layer) is PackedGRU
    assert again.backward_layer.go_backwards != again.forward_layer.go_backwards


def test_mixed_precision_keeps_states_in_float32():
    x, mask = inputs([3, 6, 2], 6)
    own = pair()[1]
    low = pair(dtype="mixed_bfloat16")[1]
    found = low(x, mask=tf.constant(mask))
    assert found.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(found, tf.float32), own(x, mask=tf.constant(mask)), atol=0.05)


@pytest.mark.parametrize(
    "wrong", [{"reset_after": False}, {"activation": "relu"}, {"dropout": 0.1}, {"return_sequences": True}]
)
def test_what_it_cannot_do_is_refused(wrong):
    with pytest.raises(ValueError, match="PackedGRU"):
        PackedGRU(UNITS, **wrong)


@pytest.mark.parametrize("lengths", [[5], [3, 7, 1, 0, 5, 5], [0]])
@pytest.mark.parametrize("backwards", [False, True])
def test_without_its_gradient_the_states_are_the_same(lengths, backwards):
    x, mask = inputs(lengths, 8)
    packed = pair(go_backwards=backwards)[1]
    run = [tf.function(lambda: packed(x, mask=tf.constant(mask)), autograph=False) for _ in range(2)]
    expected = run[0]().numpy()
    packed.without_gradient = True
    np.testing.assert_allclose(run[1]().numpy(), expected, atol=1e-6)
    assert not any("TensorList" in node.op for node in run[1].get_concrete_function().graph.as_graph_def().node)
