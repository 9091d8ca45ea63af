"""The recall of an approximate search, measured on an index of its own. NumPy only."""

from __future__ import annotations

import numpy as np

from vse_tf.artifacts.index import Index
from vse_tf.indexing.search import Search
from vse_tf.models.folding import fold

QUERIES = 200


def recall(search: Search, exact: Search, query: np.ndarray, k: int = 10) -> float:
    """The share of the exact k best rows that a search finds, averaged over the queries."""
    expected, rows = exact(query, k)[0], search(query, k)[0]
    shares = [len(set(a) & set(b)) / max(1, len(a)) for a, b in zip(expected.tolist(), rows.tolist(), strict=True)]
    return float(np.mean(shares)) if shares else 1.0


def sample_queries(index: Index) -> np.ndarray:
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
