"""Learned pooling against its formula, in sums over one item at a time."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from vse_tf.config import ImageSettings, ModelSettings
from vse_tf.models.attention_pooling import AttentionPooling, GridNorm
from vse_tf.models.backbones import backbone_of
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.models.pooling import pool_tokens, regions
from vse_tf.models.projection import head_of

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
SETTINGS = {"encoder": "applications:MobileNet", "weights": "none", "size": 64, "units": 0, "pooling": "attention"}


def oracle(items, queries):
    """Each query's average of each item, without padding."""
    result = np.zeros([len(items), queries.shape[1], items.shape[2]])
    for i, item in enumerate(items):
        vectors = item[item.any(axis=1)].astype(np.float64)
        for q, query in enumerate(queries.T):
            scores = vectors @ query
            weights = np.exp(scores - scores.max(initial=0))
            result[i, q] = weights @ vectors / max(weights.sum(), 1e-300)
    return result


def padded(lengths, n=6, d=5):
    items = RANDOM.normal(size=(len(lengths), n, d)).astype(np.float32)
    return np.where(np.arange(n)[:, None] < np.array(lengths)[:, None, None], items, 0).astype(np.float32)


@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_averages_are_those_of_the_formula(scale):
    layer, items = AttentionPooling(3), padded([6, 1, 4, 0])
    layer.build(items.shape)
    layer.kernel.assign(scale * RANDOM.normal(size=(5, 3)))
    got = np.asarray(layer(items))
    np.testing.assert_allclose(got, oracle(items, np.asarray(layer.kernel)), rtol=1e-4, atol=1e-5)
    assert not got[3].any()


def test_the_maximum_is_that_over_the_vectors_without_padding():
    layer, items = AttentionPooling(2, maximum=True), padded([6, 1, 4, 0])
    got = np.asarray(layer(items))
    assert got.shape == layer.compute_output_shape(items.shape) == (4, 3, 5)
    np.testing.assert_allclose(got[:, :2], AttentionPooling(2)(items), atol=1e-6)
    for row, item in zip(got[:, 2], items, strict=True):
        vectors = item[item.any(axis=1)]
        np.testing.assert_array_equal(row, vectors.max(axis=0) if len(vectors) else np.zeros(5))


def test_queries_begin_with_the_mean_and_padding_changes_nothing():
    layer, items = AttentionPooling(2), padded([3, 2], n=3)
    got = np.asarray(layer(items))
    np.testing.assert_allclose(got[0], np.tile(items[0].mean(0), (2, 1)), atol=1e-6)
    layer.kernel.assign(RANDOM.normal(size=(5, 2)))
    longer = np.concatenate([items, np.zeros([2, 4, 5], np.float32)], axis=1)
    np.testing.assert_allclose(layer(longer), layer(items), atol=1e-6)


def test_the_gradient_is_that_of_the_formula_despite_padding():
    layer, items = AttentionPooling(2), padded([4, 0, 2])
    layer.build(items.shape)
    start = RANDOM.normal(size=(5, 2)).astype(np.float32)
    direction, weights = RANDOM.normal(size=(5, 2)), RANDOM.normal(size=(3, 2, 5))
    layer.kernel.assign(start)
    source = tf.constant(items)
    with tf.GradientTape() as tape:
        tape.watch(source)
        value = tf.reduce_sum(layer(source) * weights.astype(np.float32))
    found, of_items = tape.gradient(value, [layer.kernel.value, source])
    step = 1e-4
    ends = [np.sum(oracle(items, start + sign * step * direction) * weights) for sign in (1, -1)]
    assert np.sum(np.asarray(found) * direction) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)
    assert np.isfinite(of_items).all()


def test_regions_have_the_last_grid_and_keep_their_proportions():
    last, larger = (RANDOM.uniform(size=shape).astype(np.float32) for shape in ((2, 2, 3, 4), (2, 4, 6, 5)))
    got = np.asarray(regions([last, larger]))
    assert got.shape == (2, 6, 9)
    for part in (got[..., :4], got[..., 4:]):
        np.testing.assert_allclose(np.square(part).sum(-1).mean(1), 1, atol=1e-5)
    flat = last.reshape(2, 6, 4)
    factors = got[..., :4] / flat
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1], flat.shape), rtol=1e-4)
    assert not np.asarray(GridNorm()(np.zeros([1, 2, 3]))).any()


def test_states_side_by_side_are_zeros_at_padding():
    states = [RANDOM.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(2)]
    mask = np.array([[True, True, False], [True, False, False]])
    got = np.asarray(pool_tokens(states, mask, "attention"))
    assert not got[~mask].any()
    parts = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in states]
    np.testing.assert_allclose(got[mask], np.concatenate(parts, axis=-1)[mask], atol=1e-6)


@pytest.mark.parametrize(("pooling", "vectors"), [("attention", 3), ("attention_max", 4)])
def test_a_tower_learns_its_queries_and_survives_its_config(pooling, vectors):
    settings = ImageSettings(**SETTINGS | {"pooling": pooling}, stages=2, queries=3)
    tower = image_tower_from_settings(settings, ModelSettings(dim=6, head=False))
    backbone, head = backbone_of(tower), head_of(tower)
    assert backbone.output_shape == (None, 4, 1024 + 512)
    assert head.get_layer("pooling").kernel.shape == (1536, 3)
    assert head.get_layer("pooling").output.shape == (None, vectors, 1536)
    assert tower.trainable_variables[0].path.endswith("pooling/queries")
    head.get_layer("pooling").kernel.assign(RANDOM.normal(size=(1536, 3)))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(tower))
    again.set_weights(tower.get_weights())
    np.testing.assert_array_equal(again(PIXELS), tower(PIXELS))
    # Kept features are the tower's own, to the bit.
    features = np.asarray(backbone(PIXELS))
    assert features.dtype == np.float16
    np.testing.assert_array_equal(head(features), tower(PIXELS))


def test_a_trainable_backbone_is_not_rounded():
    tower = image_tower_from_settings(ImageSettings(**SETTINGS, trainable=True), ModelSettings(dim=6, head=False))
    assert backbone_of(tower)(PIXELS).dtype == tf.float32


def test_precomputed_regions_are_pooled_by_queries():
    settings = ImageSettings(encoder="features", pooling="attention", queries=2, units=0)
    tower = image_tower_from_settings(settings, ModelSettings(dim=6), (7, 5))
    assert tower.get_layer("head").get_layer("pooling").kernel.shape == (5, 2)
    assert tower(RANDOM.normal(size=(3, 7, 5))).shape == (3, 6)
    both = image_tower_from_settings(dataclasses.replace(settings, pooling="mean_max"), ModelSettings(dim=6), (7, 5))
    assert head_of(both).input_shape == (None, 10)
