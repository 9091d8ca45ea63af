"""FAISS search: what it finds, when its file is built again, and the error without it."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.indexing.test_search import index_of, unit
from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.indexing.faiss import BACKENDS, FaissSearch, recall_queries, search_backend
from vse_tf.indexing.search import ExactSearch
from vse_tf.models.folding import fold, search_queries

KINDS = [name for name in BACKENDS if name != "exact"]


@pytest.fixture
def index(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((800, 16)))
    return index_of(tmp_path / "index", vectors, [300, 500])


@pytest.mark.parametrize("name", KINDS)
def test_faiss_finds_what_exact_search_finds(index, name):
    pytest.importorskip("faiss")
    notes = []
    search = search_backend(name, index, notes.append)
    assert "recall@10 against exact search " in notes[0]
    measured = float(notes[0].rsplit(maxsplit=1)[1])
    assert measured > 0.9
    # Also where the index was built by an earlier call.
    search_backend(name, index, notes.append)
    assert notes[1] == f"{name.partition('-')[2] or 'hnsw'}: recall@10 against exact search {measured:.3f}"
    query = index.gather([5, 700])
    rows, scores = search(query, 10)
    assert rows[:, 0].tolist() == [5, 700]
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-5)
    if name == "faiss-flat":
        np.testing.assert_array_equal(rows, ExactSearch(index)(query, 10)[0])
    assert search(query, 5000)[0].shape[1] <= 800


def test_it_is_built_again_when_the_vectors_change(index, tmp_path):
    pytest.importorskip("faiss")
    notes = []
    search_backend("faiss", index, notes.append)
    changed = unit(np.random.default_rng(1).standard_normal((500, 16)))
    index = index_of(tmp_path / "index", changed, [500])
    rows, _ = search_backend("faiss", index, notes.append)(changed[17:18], 1)
    assert rows.tolist() == [[17]]
    assert "built" in notes[1]
    files = list((tmp_path / "index").glob("faiss-*.bin"))
    assert len(files) == 1
    files[0].write_bytes(files[0].read_bytes()[:100])
    search_backend("faiss", index, notes.append)
    assert "damaged" in notes[2]
    assert "built" in notes[3]


@pytest.mark.parametrize("kind", ["images", "captions"])
def test_corrected_vectors_are_searched_as_exact_search_does(tmp_path, kind):
    modality, other = ("image", "caption") if kind == "images" else ("caption", "image")
    rng = np.random.default_rng(0)
    vectors = fold(unit(rng.standard_normal((40, 6))), np.float32(rng.uniform(0, 0.9, 40)), modality)
    writer = IndexWriter(tmp_path, kind, 10, plain_dim=6)
    index = writer.commit([writer.write(vectors)], [Item(str(row), caption="") for row in range(40)], model={})

    class Flat:
        def search(self, query, k):
            scores = query @ vectors.T
            rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(scores, rows, axis=1), rows

    of_others = fold(unit(rng.standard_normal((5, 6))), np.float32(rng.uniform(0, 0.9, 5)), other)
    measured = recall_queries(index)
    assert (search_queries(measured, kind, 6) == measured).all(), "the recall is not that of corrected scores"
    for queries in (vectors[:5], of_others, measured):
        (rows, scores), (exact, exact_scores) = FaissSearch(index, Flat())(queries, 40), ExactSearch(index)(queries, 40)
        np.testing.assert_array_equal(rows, exact)
        np.testing.assert_allclose(scores, exact_scores, atol=1e-6)


def test_a_file_of_another_index_is_built_again(index, monkeypatch):
    class Flat:
        def __init__(self, dim, count=0):
            self.d, self.ntotal = dim, count

        def add(self, vectors):
            self.ntotal += len(vectors)

        def search(self, query, k):
            rows = np.tile(np.arange(k), (len(query), 1))
            rows[:, -1] = 10**9
            return np.zeros(rows.shape, np.float32), rows

    def write(built, path):
        Path(path).write_bytes(b"faiss")

    faiss = SimpleNamespace(IndexFlatIP=Flat, read_index=lambda path: Flat(16, 799), write_index=write)
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    notes = []
    search = search_backend("faiss-flat", index, notes.append)
    assert search(index.gather([0]), 5)[0].tolist() == [[0, 1, 2, 3]]
    search_backend("faiss-flat", index, notes.append)
    assert "damaged, building it again" in notes[1]
    (path,) = index.folder.glob("faiss-*.bin")
    path.unlink()
    os.mkfifo(path)
    search_backend("faiss-flat", index, notes.append)
    assert "damaged, building it again" in notes[3]


def test_without_faiss_the_error_names_the_extra(index, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'vse_tf\[faiss\]'"):
        search_backend("faiss", index)
