"""In-batch accuracy and hardest-negative gap."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.losses import oracle
from vse_tf.losses import batch_statistics


def slow(image, text, image_id=None) -> dict[str, float]:
    """Loops straight from the definition."""
    batch, right, gaps = len(image), {}, []
    for name, anchors, candidates in (("i2t_accuracy", image, text), ("t2i_accuracy", text, image)):
        first = 0
        for i in range(batch):
            others = [float(anchors[i] @ candidates[j]) for j in oracle.negatives(i, image_id, batch)]
            positive = float(anchors[i] @ candidates[i])
            first += all(positive - other > 1e-6 for other in others)
            if others:
                gaps.append(positive - max(others))
        right[name] = first / batch
    return {**right, "hardest_negative_gap": sum(gaps) / len(gaps) if gaps else 0.0}


@pytest.mark.parametrize("image_id", [None, [0, 1, 1, 2, 0, 3, 1, 4], [0] * 7 + [1], [0] * 8], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_loops(image_id, seed: int) -> None:
    image, text = oracle.unit(np.random.default_rng(seed), 8, 3)
    found = batch_statistics(image, text, None if image_id is None else np.float32(image_id))
    expected = slow(image.astype(np.float64), text.astype(np.float64), image_id)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == tf.float32
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 7, 300, 1024])
def test_a_collapsed_model_is_never_right(dim: int) -> None:
    point = np.random.default_rng(0).normal(size=dim)
    embeddings = np.tile(np.float32(point / np.linalg.norm(point)), (37, 1))
    found = batch_statistics(embeddings, embeddings)
    assert found["i2t_accuracy"] == found["t2i_accuracy"] == 0
    assert abs(float(found["hardest_negative_gap"])) < 1e-6


def test_non_finite_embeddings_are_never_right() -> None:
    image, text = oracle.unit(np.random.default_rng(0), 8, 3)
    found = batch_statistics(np.full_like(image, np.nan), text)
    assert found["i2t_accuracy"] == found["t2i_accuracy"] == 0


def test_no_gradient_flows_back() -> None:
    image = tf.constant(oracle.unit(np.random.default_rng(0), 4, 3)[0])
    with tf.GradientTape() as tape:
        tape.watch(image)
        gap = batch_statistics(image, image)["hardest_negative_gap"]
    assert tape.gradient(gap, image) is None
