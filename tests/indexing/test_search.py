"""Exact search against a simple one, and its hits."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.evaluation.neighbours import Nearest
from vse_tf.evaluation.similarity import NonFiniteError
from vse_tf.indexing.search import ExactSearch, check_model, hits, hits_table


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def index_of(folder, vectors, sizes, items=None, root=None):
    writer = IndexWriter(folder, "images", vectors.shape[1])
    parts = np.split(vectors, np.cumsum(sizes)[:-1]) if len(sizes) else []
    items = items or [Item(f"{i}.jpg", path=f"{i}.jpg") for i in range(len(vectors))]
    return writer.commit(
        [writer.write(part) for part in parts],
        items,
        {"id": "a", "path": "runs/a"},
        root=root or Path(folder).parent / "images",
    )


def oracle(query, vectors, k):
    """Scores of all pairs in float64, rounded to float32, sorted by score and then by row."""
    rows, scores = [], []
    for q in query:
        every = [np.float32(np.sum(q.astype(np.float64) * v.astype(np.float64))) for v in vectors]
        best = sorted(range(len(vectors)), key=lambda i: (-every[i], i))[:k]
        rows.append(best)
        scores.append([every[i] for i in best])
    return np.array(rows).reshape(len(query), -1), np.array(scores, np.float32).reshape(len(query), -1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=5),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(4, 3000),
    st.integers(0, 2**32 - 1),
)
def test_exact_search_equals_the_simple_one(sizes, queries, k, block_bytes, seed):
    random = np.random.default_rng(seed)
    # Few different values: many ties, also across blocks and shards.
    vectors = unit(random.integers(-1, 2, (sum(sizes), 4)) + np.array([0.5, 0, 0, 0]))
    query = unit(random.integers(-1, 2, (queries, 4)) + np.array([0.5, 0, 0, 0]))
    with tempfile.TemporaryDirectory() as folder:
        index = index_of(f"{folder}/index", vectors, sizes)
        rows, scores = ExactSearch(index, block_bytes)(query, k)
    expected = oracle(query, vectors, k)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


def test_wide_vectors_and_many_candidates(tmp_path):
    random = np.random.default_rng(3)
    vectors = unit(random.standard_normal((700, 96)))
    vectors[300:] = vectors[:400]
    query = unit(random.standard_normal((7, 96)))
    index = index_of(tmp_path / "index", vectors, [130, 1, 569])
    for block_bytes in (4 * 77, 4 * 7 * 131, 2**24):
        rows, scores = ExactSearch(index, block_bytes)(query, 100)
        np.testing.assert_array_equal(rows, oracle(query, vectors, 100)[0])
        np.testing.assert_array_equal(scores, oracle(query, vectors, 100)[1])


@pytest.mark.parametrize("order", ["mixed", "rising", "falling", "equal"])
def test_few_of_many_in_any_order(tmp_path, order):
    random = np.random.default_rng(4)
    vectors = unit(random.standard_normal((900, 24)))
    if order in ("rising", "falling"):
        vectors = vectors[np.argsort(vectors[:, 0])]
        vectors = vectors if order == "rising" else vectors[::-1]
    elif order == "equal":
        vectors[:] = vectors[0]
    query = unit(np.eye(3, 24) + 1e-3 * random.standard_normal((3, 24)))
    index = index_of(tmp_path / "index", np.ascontiguousarray(vectors), [500, 400])
    for block_bytes in (4 * 3 * 331, 2**24):
        rows, scores = ExactSearch(index, block_bytes)(query, 2)
        np.testing.assert_array_equal(rows, oracle(query, vectors, 2)[0])
        np.testing.assert_array_equal(scores, oracle(query, vectors, 2)[1])


def test_more_hits_than_rows_and_no_rows(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((3, 4)))
    rows, scores = ExactSearch(index_of(tmp_path / "a", vectors, [3]))(vectors[:1], 10**9)
    assert rows.shape == scores.shape == (1, 3)
    rows, scores = ExactSearch(index_of(tmp_path / "b", vectors[:0], []))(vectors[:2], 5)
    assert rows.shape == scores.shape == (2, 0)
    assert ExactSearch(index_of(tmp_path / "c", vectors, [3]))(vectors[:0], 5)[0].shape == (0, 3)


def test_a_query_that_is_not_finite_is_refused(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((3, 4)))
    with pytest.raises(NonFiniteError, match="query"):
        ExactSearch(index_of(tmp_path / "a", vectors, [3]))(vectors * np.float32(np.nan), 1)


def test_a_gallery_in_parts_is_checked():
    found = Nearest(np.float32([[1, 0]]), 1)
    with pytest.raises(NonFiniteError, match="gallery embedding in row 1"):
        found.add(np.float32([[1, 0], [np.nan, 0]]))


def test_hits_name_the_items(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((3, 4)))
    items = [Item("a.jpg", path="a.jpg"), Item("x", path="/else/where.jpg"), Item("7", caption="a dog")]
    index = index_of(tmp_path / "a", vectors, [3], items)
    found = [hit.to_dict() for hit in hits(index, [1, 2, 0], np.float32([0.5, 0.25, -0.5]))]
    assert found == [
        {"rank": 1, "item": "x", "path": "/else/where.jpg", "score": 0.5, "relevance": None, "row": 1},
        {"rank": 2, "item": "7", "caption": "a dog", "score": 0.25, "relevance": None, "row": 2},
        {
            "rank": 3,
            "item": "a.jpg",
            "path": str(tmp_path / "images" / "a.jpg"),
            "score": -0.5,
            "relevance": None,
            "row": 0,
        },
    ]


def test_another_model_is_refused(tmp_path):
    index = index_of(tmp_path / "a", unit(np.ones((1, 4))), [1])
    check_model(index, {"id": "a", "path": "copied/a"})
    with pytest.raises(UserError, match=r"runs/a.*runs/b"):
        check_model(index, {"id": "b", "path": "runs/b"})


def test_the_table_is_aligned_and_printable(tmp_path):
    items = [Item("1", caption="a dog\x1b[2J\nruns \u202e 狗"), Item("2", caption="a cat")]
    index = index_of(tmp_path / "a", unit(np.ones((2, 4))), [2], items)
    assert hits_table(hits(index, [0, 1], [1.0, -0.25])).splitlines() == [
        "  1  1.000  a dog?[2J runs ? 狗",
        "  2  -0.250  a cat",
    ]
