"""The recall that stored vectors lose, against slow NumPy."""

import numpy as np
import pytest

from vse_tf.artifacts.storage import store
from vse_tf.exporting.storage import recall_loss


def unit(rows, dim=16, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def oracle(vectors, restored, queries, k, own):
    lost, first = [], []
    for number, query in enumerate(queries):
        ranked = []
        for gallery in (vectors, restored):
            scores = [
                (-float(np.dot(query.astype(float), item)), row) for row, item in enumerate(gallery.astype(float))
            ]
            ranked.append([row for _, row in sorted(scores) if not (own and row == number)][:k])
        lost.append(len(set(ranked[0]) - set(ranked[1])) / len(ranked[0]))
        first.append(ranked[0][0] != ranked[1][0])
    return np.mean(lost), np.mean(first)


@pytest.mark.parametrize("storage", ["float16", "int8"])
@pytest.mark.parametrize("own", [True, False])
def test_recall_loss_is_the_missing_share_of_the_exact_nearest(storage, own):
    vectors, queries = unit(60, 3), None if own else unit(25, 3, seed=1)
    stored = store(vectors, storage)
    found = recall_loss(vectors, stored, 7, queries)
    lost, first = oracle(vectors, stored.restored(), vectors if own else queries, 7, own)
    assert (found["queries"], found["k"]) == (60 if own else 25, 7)
    assert found["loss_at_k"] == pytest.approx(lost, abs=1e-6)
    assert found["loss_at_1"] == pytest.approx(first, abs=1e-6)
    if storage == "int8":
        assert lost > 0  # three dimensions leave 60 items close together: the case is worth something


def test_recall_loss_of_galleries_too_small_to_lose_anything():
    for rows in (1, 2, 5):
        vectors = unit(rows)
        found = recall_loss(vectors, store(vectors, "int8"), 10)
        assert (found["k"], found["loss_at_k"], found["loss_at_1"]) == (rows - 1, 0, 0)
    assert recall_loss(unit(5), store(unit(5), "int8"), 10, unit(3, seed=2))["k"] == 5


def test_the_own_row_is_left_out_even_where_equals_push_it_away():
    vectors = np.repeat(unit(1), 6, axis=0)
    found = recall_loss(vectors, store(vectors, "int8"), 2)
    assert (found["loss_at_k"], found["loss_at_1"]) == (0, 0)
