"""Captions encoded in groups of similar length are the captions encoded at once, and are padded less."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.models import length_groups
from vse_tf.models.length_groups import encode_in_groups


def mean_of_tokens(seen):
    def encode(texts):
        seen.append(texts.shape[:2])
        valid = texts >= 0 if texts.dtype.is_integer else tf.reduce_any(texts != 0, axis=-1)
        mask = tf.cast(valid, tf.float32)[..., None]
        states = tf.cast(texts, tf.float32)
        states = tf.reshape(states, [tf.shape(texts)[0], tf.shape(texts)[1], -1])
        return tf.reduce_sum(states * mask, 1) / tf.maximum(tf.reduce_sum(mask, 1), 1)

    return encode


def captions(lengths, rng, states):
    ids = np.where(np.arange(20) < np.array(lengths)[:, None], rng.integers(1, 50, (len(lengths), 20)), -1)
    return np.where(ids >= 0, ids, 0).astype(np.float32)[..., None] * [1.0, 2.0] if states else ids.astype(np.int32)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.booleans(), st.integers(1, 9))
def test_the_vectors_are_those_of_one_group(lengths, states, smallest):
    texts = captions(lengths, np.random.default_rng(0), states)
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(length_groups, "SMALLEST", smallest)
        found = encode_in_groups(mean_of_tokens(seen), tf.constant(texts))
    np.testing.assert_allclose(found, mean_of_tokens([])(tf.constant(texts)), rtol=1e-6)
    assert sum(count for count, _ in seen) == len(lengths)
    assert len(seen) == max(1, min(len(lengths) // smallest, length_groups.MOST))
    if len(seen) > 1:
        assert [length for _, length in seen] == sorted(length for _, length in seen)
        assert seen[-1][1] == max(1, *lengths)


def test_the_tokens_of_real_lengths_are_halved(monkeypatch):
    """Lengths like those of captions: a few are twice as long as the rest."""
    rng, seen = np.random.default_rng(0), []
    lengths = np.clip(rng.normal(11, 3, 512).round(), 4, 20).astype(int)
    encode_in_groups(mean_of_tokens(seen), tf.constant(captions(lengths, rng, False)))
    assert sum(count * length for count, length in seen) < 0.7 * 512 * 20


def test_a_batch_of_unknown_size_is_one_group():
    seen = []

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def run(texts):
        return encode_in_groups(mean_of_tokens(seen), texts)

    run(np.ones((300, 4), np.int32))
    assert len(seen) == 1
