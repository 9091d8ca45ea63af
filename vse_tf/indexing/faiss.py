"""Search backends by name: exact, or FAISS (extra `faiss`) on a file that is built once from the index's vectors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_paths import own_file
from vse_tf.atomic import write_text
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_regular, read_json
from vse_tf.indexing.search import ExactSearch, Search
from vse_tf.models.folding import fold, search_queries

BACKENDS = ("exact", "faiss", "faiss-flat", "faiss-ivf", "faiss-hnsw")
QUERIES = 200
TRAINING_ROWS = 100_000


class FaissIndex(Protocol):
    """What is used of FAISS's classes."""

    d: int
    ntotal: int

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows, each `(q, k)`; the row is -1 where fewer were found."""


def search_backend(name: str, index: Index, note: Callable[[str], object] = lambda line: None) -> Search:
    """The search backend of that name.

    Args:
        name: one of `BACKENDS`; `faiss` is `faiss-hnsw`.
        index: the index.
        note: called with each message while a FAISS index is built.

    Raises:
        UserError: FAISS is not installed, or its index cannot be written.
    """
    return ExactSearch(index) if name == "exact" else FaissSearch.of(index, name.partition("-")[2] or "hnsw", note)


class FaissSearch:
    """Searches a FAISS index.

    Args:
        index: the index whose vectors it contains.
        faiss_index: FAISS's index, inner product, rows in the index's order.

    Example:
        search = FaissSearch.of(index, "hnsw")
        rows, scores = search(query, k=10)
    """

    def __init__(self, index: Index, faiss_index: FaissIndex) -> None:
        self.index = index
        self.faiss_index = faiss_index

    @classmethod
    def of(cls, index: Index, kind: str, note: Callable[[str], object] = lambda line: None) -> FaissSearch:
        """Open the FAISS index in the index's folder; build it if it is missing or the vectors have changed.

        Args:
            index: the index.
            kind: `flat` (exact), `ivf` (clusters) or `hnsw` (a graph).
            note: called with the recall against exact search, which is measured once per build.

        Raises:
            UserError: FAISS is not installed, or the file cannot be written.
        """
        faiss = _faiss()
        vectors = hashlib.sha256("".join(shard.sha256 for shard in index.shards).encode()).hexdigest()[:16]
        path = index.folder / f"faiss-{kind}-{vectors}.bin"
        if os.path.lexists(path):
            try:
                open_regular(own_file(index.folder, path.name)).close()
                existing = faiss.read_index(str(path))
                if (existing.d, existing.ntotal) == (index.dim, index.count):
                    search = cls(index, existing)
                    note(f"{kind}: recall@10 against exact search {search._recall(path):.3f}")
                    return search
            except (OSError, RuntimeError):
                pass
            note(f"{path}: damaged, building it again")
        built = build(index, kind)
        for old in index.folder.glob(f"faiss-{kind}-*"):
            old.unlink(missing_ok=True)
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        with file_errors(path, "written"):
            try:
                faiss.write_index(built, str(temporary))
            except RuntimeError as error:
                raise OSError(str(error)) from None
            temporary.replace(path)
        search = cls(index, built)
        note(f"built {path}; recall@10 against exact search {search._recall(path):.3f}")
        return search

    def _recall(self, path: Path) -> float:
        """The recall@10 of FAISS's index in a file: what the file beside it says, or measured and written there."""
        beside = path.with_suffix(".json")
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            known = read_json(own_file(self.index.folder, beside.name))["recall_at_10"]
            if 0 <= known <= 1:
                return float(known)
        measured = recall(self, ExactSearch(self.index), recall_queries(self.index))
        with contextlib.suppress(OSError):
            write_text(beside, json.dumps({"recall_at_10": measured}))
        return measured

    def __call__(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best rows of each query that FAISS finds.

        Args:
            query: float32 `(q, dim)`.
            k: maximum number of rows per query.

        Returns:
            Rows, int64 `(q, n)` with `n <= k`, and their scores, float32 of the same shape, best first.
        """
        query = search_queries(np.ascontiguousarray(query, np.float32), self.index.kind, self.index.plain_dim)
        scores, rows = self.faiss_index.search(query, min(k, self.index.count))
        found = int(((rows >= 0) & (rows < self.index.count)).all(axis=0).sum())
        return rows[:, :found], scores[:, :found]


def build(index: Index, kind: str) -> FaissIndex:
    """Build FAISS's index of an index's vectors, with its defaults for searching.

    Args:
        index: the index.
        kind: `flat`, `ivf` or `hnsw`.
    """
    faiss = _faiss()
    if kind == "flat":
        built = faiss.IndexFlatIP(index.dim)
    elif kind == "hnsw":
        built = faiss.IndexHNSWFlat(index.dim, 32, faiss.METRIC_INNER_PRODUCT)
        built.hnsw.efConstruction, built.hnsw.efSearch = 100, 128
    else:
        # FAISS's guidelines: 4 to 16 times the square root of the number of vectors, 39 training vectors per cluster.
        clusters = max(1, min(int(4 * index.count**0.5), index.count // 39))
        built = faiss.IndexIVFFlat(faiss.IndexFlatIP(index.dim), index.dim, clusters, faiss.METRIC_INNER_PRODUCT)
        rows = np.random.default_rng(0).choice(index.count, min(index.count, TRAINING_ROWS), replace=False)
        built.train(index.gather(np.sort(rows)))
        built.nprobe = max(8, clusters // 16)
    for _, vectors in index.vectors():
        built.add(np.ascontiguousarray(vectors))
    return built


def recall(search: Search, exact: Search, query: np.ndarray, k: int = 10) -> float:
    """The share of the exact k best rows that a search finds, averaged over the queries."""
    expected, rows = exact(query, k)[0], search(query, k)[0]
    shares = [len(set(a) & set(b)) / max(1, len(a)) for a, b in zip(expected.tolist(), rows.tolist(), strict=True)]
    return float(np.mean(shares)) if shares else 1.0


def recall_queries(index: Index) -> np.ndarray:
    """Unit vectors between two random vectors of the index: similar to its vectors, but not in it.

    With a hubness correction they are queries of the other modality, whose hits are corrected.
    """
    random = np.random.default_rng(1)
    pairs = random.integers(0, index.count, [2, min(QUERIES, index.count)])
    mixed = 0.7 * index.gather(pairs[0])[:, : index.plain_dim] + 0.3 * index.gather(pairs[1])[:, : index.plain_dim]
    lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
    queries = (mixed / np.maximum(lengths, 1e-6)).astype(np.float32)
    if index.plain_dim == index.dim:
        return queries
    return fold(queries, np.zeros(len(queries), np.float32), "caption" if index.kind == "images" else "image")


def _faiss() -> ModuleType:
    try:
        import faiss  # noqa: PLC0415
    except ImportError:
        raise UserError("--backend faiss needs FAISS: pip install 'vse_tf[faiss]', or use --backend exact") from None
    return faiss
