"""Search of an index by its compact vectors. NumPy only."""

from __future__ import annotations

import numpy as np

from vse_tf.artifacts.index import Index
from vse_tf.evaluation.neighbours import Nearest
from vse_tf.evaluation.similarity import BLOCK_BYTES, pair_dots
from vse_tf.indexing.search import ExactSearch, Search
from vse_tf.models.folding import search_queries, truncated

CANDIDATES = 10
"""Rows for each hit that are looked at exactly, …"""
LEAST = 100
"""… and at least so many."""


class CompactSearch:
    """Finds candidates by the compact vectors, and ranks them by the scores of the float32 ones.

    Scores are exact; a row may be missed whose compact vector has a far lower score. Rows whose scores are equal in
    float32 are in ascending order.

    Args:
        index: the index, with compact and float32 vectors.
        exact: rank by the float32 vectors; without, by the compact ones alone.
        block_bytes: see `vse_tf.evaluation.neighbours.nearest`.

    Example:
        rows, scores = CompactSearch(Index.open("photos.index"))(query.vector[None], k=10)
    """

    def __init__(self, index: Index, exact: bool = True, block_bytes: int = BLOCK_BYTES) -> None:
        self.index = index
        self.exact = exact
        self.block_bytes = block_bytes

    def __call__(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of each query that the compact vectors find.

        Args:
            query: float32 `(q, dim)`.
            k: maximum number of rows per query.

        Returns:
            Rows, int64 `(q, min(k, count))`, and their scores, float32 of the same shape, best first.

        Raises:
            NonFiniteError: a query is not finite.
        """
        index, compact = self.index, self.index.compact
        assert compact is not None
        count = min(k, index.count)
        short = search_queries(truncated(query, compact.form.dims, index.plain_dim), index.kind, compact.form.dims)
        most = min(max(CANDIDATES * count, LEAST), index.count) if self.exact else count
        best = Nearest(short, most, self.block_bytes)
        for _, vectors in compact.vectors():
            best.add(vectors, unit=True)
        if not self.exact:
            return best.result()
        query = search_queries(query, index.kind, index.plain_dim)
        rows = np.empty([len(query), count], np.int64)
        scores = np.empty([len(query), count], np.float32)
        for number, candidates in enumerate(best.result()[0]):
            vectors, places = index.gather(candidates), np.arange(len(candidates))
            exact = pair_dots(query, vectors, np.full(len(candidates), number), places).astype(np.float32)
            order = np.lexsort((candidates, -exact))[:count]
            rows[number], scores[number] = candidates[order], exact[order]
        return rows, scores


def default_search(index: Index) -> Search:
    """Search by the compact vectors where there are any, else by all vectors.

    Args:
        index: the index.
    """
    return CompactSearch(index) if index.compact is not None and index.complete else ExactSearch(index)
