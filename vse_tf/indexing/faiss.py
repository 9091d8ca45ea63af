"""Approximate search by FAISS (extra `faiss`): built once from an index, kept beside its shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_paths import own_file
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_regular
from vse_tf.indexing.search import ExactSearch

KINDS = ("flat", "ivf", "hnsw")
QUERIES = 200
TRAINING_ROWS = 100_000


class FaissSearch:
    """Searches a FAISS index.

    Args:
        index: the index whose vectors it holds.
        faiss_index: FAISS's index, inner product, rows in the index's order.

    Example:
        >>> search = FaissSearch.of(index, "hnsw")
        >>> rows, scores = search(query, k=10)
    """

    def __init__(self, index: Index, faiss_index: Any) -> None:
        self.index = index
        self.faiss_index = faiss_index

    @classmethod
    def of(cls, index: Index, kind: str, note: Callable[[str], Any] = lambda line: None) -> FaissSearch:
        """The FAISS index kept beside the shards, built where it is missing or older than they are.

        Args:
            index: the index.
            kind: `flat` (exact), `ivf` (clusters) or `hnsw` (a graph).
            note: told the recall against exact search after a build.

        Raises:
            UserError: FAISS is not installed, or the file cannot be written.
        """
        faiss = _faiss()
        vectors = hashlib.sha256("".join(shard.sha256 for shard in index.shards).encode()).hexdigest()[:16]
        path = index.folder / f"faiss-{kind}-{vectors}.bin"
        if os.path.lexists(path):
            try:
                open_regular(own_file(index.folder, path.name)).close()
                found = faiss.read_index(str(path))
                if (found.d, found.ntotal) == (index.dim, index.count):
                    return cls(index, found)
            except (OSError, RuntimeError):
                pass
            note(f"{path}: damaged, building it again")
        built = build(index, kind)
        for old in index.folder.glob(f"faiss-{kind}-*.bin"):
            old.unlink(missing_ok=True)
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        with file_errors(path, "written"):
            try:
                faiss.write_index(built, str(temporary))
            except RuntimeError as error:
                raise OSError(str(error)) from None
            temporary.replace(path)
        search = cls(index, built)
        note(f"built {path}; recall@10 against exact search: {recall(search, ExactSearch(index), _queries(index)):.3f}")
        return search

    def __call__(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of every query that FAISS finds.

        Args:
            query: float32 `(q, dim)`.
            k: how many; more than there are rows gives all that are found.

        Returns:
            Rows `(q, found)` int64 and their scores, float32, best first.
        """
        scores, rows = self.faiss_index.search(np.ascontiguousarray(query, np.float32), min(k, self.index.count))
        found = int(((rows >= 0) & (rows < self.index.count)).all(axis=0).sum())
        return rows[:, :found], scores[:, :found]


def build(index: Index, kind: str) -> Any:
    """FAISS's index of an index's vectors.

    Args:
        index: the index.
        kind: one of `KINDS`.

    Returns:
        The FAISS index; its defaults for searching are chosen with it.
    """
    faiss = _faiss()
    if kind == "flat":
        built = faiss.IndexFlatIP(index.dim)
    elif kind == "hnsw":
        built = faiss.IndexHNSWFlat(index.dim, 32, faiss.METRIC_INNER_PRODUCT)
        built.hnsw.efConstruction, built.hnsw.efSearch = 100, 128
    else:
        # The authors' rule of thumb is 4 to 16 roots of the number of vectors, and 39 vectors a cluster to train on.
        clusters = max(1, min(int(4 * index.count**0.5), index.count // 39))
        built = faiss.IndexIVFFlat(faiss.IndexFlatIP(index.dim), index.dim, clusters, faiss.METRIC_INNER_PRODUCT)
        rows = np.random.default_rng(0).choice(index.count, min(index.count, TRAINING_ROWS), replace=False)
        built.train(index.gather(np.sort(rows)))
        built.nprobe = max(8, clusters // 16)
    for _, vectors in index.vectors():
        built.add(np.ascontiguousarray(vectors))
    return built


def recall(search: Callable, exact: Callable, queries: np.ndarray, k: int = 10) -> float:
    """The share of the exact k best rows that a search finds, mean over the queries."""
    wanted, got = exact(queries, k)[0], search(queries, k)[0]
    found = [len(set(a) & set(b)) / max(1, len(a)) for a, b in zip(wanted.tolist(), got.tolist(), strict=True)]
    return float(np.mean(found)) if found else 1.0


def _queries(index: Index) -> np.ndarray:
    """Vectors between two of the index's own each: like them, and not in it."""
    random = np.random.default_rng(1)
    pairs = random.integers(0, index.count, [2, min(QUERIES, index.count)])
    mixed = 0.7 * index.gather(pairs[0]) + 0.3 * index.gather(pairs[1])
    lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
    return (mixed / np.maximum(lengths, 1e-6)).astype(np.float32)


def _faiss() -> Any:
    try:
        import faiss  # noqa: PLC0415
    except ImportError:
        raise UserError("--backend faiss needs FAISS: pip install 'vse_tf[faiss]', or use --backend exact") from None
    return faiss
