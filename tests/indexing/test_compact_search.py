"""Search by compact vectors: the scores are exact, and the candidates those of a slow search of the compact vectors."""

import numpy as np
import pytest

from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.compact import Form
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.indexing import compact_search
from vse_tf.indexing.compact_search import CompactSearch, default_search
from vse_tf.indexing.compacting import compact_summary, compacted
from vse_tf.indexing.search import ExactSearch
from vse_tf.models.folding import fold

DIM = 12


def unit(rows, seed):
    values = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def hubness(rows, seed):
    return np.random.default_rng(seed).uniform(0, 0.6, rows).astype(np.float32)


def make(folder, vectors, storage, kind="images"):
    writer = IndexWriter(folder, kind, vectors.shape[1], DIM)
    shards = [writer.write(part) for part in (vectors[:90], vectors[90:])]
    items = [Item(str(row), **{"path" if kind == "images" else "caption": str(row)}) for row in range(len(vectors))]
    form = Form.of(storage, vectors.shape[1], DIM)
    return writer.commit(shards, items, {}, root=folder, compact=compacted(writer, shards, form, Calibration(None, {})))


@pytest.mark.parametrize("storage", ["float16", "int8", "int8:3"])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("kind", ["images", "captions"])
def test_with_all_rows_as_candidates_it_is_exact(tmp_path, storage, corrected, kind):
    vectors, texts, photos = unit(100, 0), unit(7, 1), unit(7, 2)
    if corrected:
        vectors = fold(vectors, hubness(100, 0), kind[:-1])
        texts, photos = fold(texts, hubness(7, 1), "caption"), fold(photos, hubness(7, 2), "image")
    index = make(tmp_path, vectors, storage, kind)
    for queries in (texts, photos):
        for k in (1, 10, 1000):
            found, exact = default_search(index)(queries, k), ExactSearch(index)(queries, k)
            np.testing.assert_array_equal(found[0], exact[0])
            np.testing.assert_array_equal(found[1], exact[1])


def test_candidates_are_the_best_compact_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(compact_search, "CANDIDATES", 2)
    monkeypatch.setattr(compact_search, "LEAST", 1)
    vectors, queries = unit(300, 0), unit(20, 1)
    index = make(tmp_path, vectors, "int8:4")
    decoded = np.concatenate([part for _, part in index.compact.vectors()]).astype(np.float64)
    short = queries[:, :4] / np.linalg.norm(queries[:, :4], axis=1, keepdims=True)
    rows, scores = CompactSearch(index)(queries, 5)
    alone, alone_scores = CompactSearch(index, exact=False)(queries, 5)
    assert (rows != ExactSearch(index)(queries, 5)[0]).any(), "no row is missed: nothing is tested"
    for number, query in enumerate(queries.astype(np.float64)):
        order = np.argsort(-(decoded @ short[number]))
        assert alone[number].tolist() == order[:5].tolist()
        np.testing.assert_allclose(alone_scores[number], (decoded @ short[number])[order[:5]], atol=1e-5)
        exact = vectors[order[:10]].astype(np.float64) @ query
        assert rows[number].tolist() == order[:10][np.argsort(-exact)[:5]].tolist()
        np.testing.assert_allclose(scores[number], -np.sort(-exact)[:5], atol=1e-6)


def test_equal_scores_come_in_row_order(tmp_path):
    vectors = np.eye(DIM, dtype=np.float32)[np.random.default_rng(0).integers(0, 3, 200)]
    index = make(tmp_path, vectors, "int8")
    queries = np.float32([[1, 0.5, 0.25, *[0] * 9]])
    np.testing.assert_array_equal(CompactSearch(index)(queries, 100), ExactSearch(index)(queries, 100))


def test_without_float32_vectors_the_compact_ones_are_searched(tmp_path):
    vectors, queries = unit(120, 0), unit(5, 1)
    before = make(tmp_path, vectors, "int8:4")
    expected = CompactSearch(before, exact=False)(queries, 7)
    for shard in before.shards:
        (tmp_path / shard.name).unlink()
    index = Index.open(tmp_path)
    assert isinstance(default_search(index), ExactSearch)
    np.testing.assert_array_equal(default_search(index)(index.fitted(queries), 7), expected)


def test_the_summary_tells_bytes_and_recall(tmp_path):
    assert compact_summary(make(tmp_path, unit(100, 0), "int8:4")).startswith(
        "int8:4: 8 bytes a vector instead of 48; recall@10 against exact search 1.000, without the float32 vectors 0."
    )
