"""k-occurrences against counting, and the moments against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.evaluation.hubness import hubness, occurrences, split_hubness
from vse_tf.plain_embedder import EncodedSplit


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_counts_are_those_of_sorting_every_query(seed, k):
    random = np.random.default_rng(seed)
    query, gallery = (random.standard_normal((n, 4)).astype(np.float32) for n in (9, 11))
    wanted = np.zeros(11, int)
    for scores in query.astype(np.float64) @ gallery.T.astype(np.float64):
        wanted[np.argsort(-scores)[:k]] += 1
    assert occurrences(query, gallery, k).tolist() == wanted.tolist()


def test_skewness_and_share_by_hand():
    counts = np.array([0, 0, 1, 2, 7])
    found = hubness(counts, k=2, most=2)
    mean, values = 2.0, [0, 0, 1, 2, 7]
    third = sum((v - mean) ** 3 for v in values) / 5
    second = sum((v - mean) ** 2 for v in values) / 5
    assert found.skewness == pytest.approx(third / second**1.5)
    assert found.never == 40.0
    assert found.most == ((4, 7), (3, 2))


def test_even_counts_have_no_skewness():
    assert hubness(np.full(6, 3)).skewness == 0.0


def test_a_planted_hub_is_found_in_both_directions():
    random = np.random.default_rng(0)
    image = random.standard_normal((60, 8)).astype(np.float32)
    text = random.standard_normal((120, 8)).astype(np.float32)
    image[:, 0], text[:, 0] = 1.0, 1.0
    image[17], text[33] = np.eye(8)[0] * 50, np.eye(8)[0] * 60
    found = split_hubness(EncodedSplit(image, text, np.repeat(np.arange(60), 2), np.arange(60)))
    assert found["t2i"].most[0] == (17, 120)
    assert found["i2t"].most[0] == (33, 60)
    assert found["t2i"].skewness > 1
