"""Exact nearest neighbours by blockwise products, whatever the block size and the BLAS: see `similarity`. NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vse_tf.evaluation.similarity import (
    BLOCK_BYTES,
    Floats,
    Ints,
    as_embeddings,
    below,
    blocks,
    check_overflow,
    check_width,
    norms,
    pair_dots,
    proven_error,
)


def nearest(query: ArrayLike, gallery: ArrayLike, k: int, block_bytes: int = BLOCK_BYTES) -> tuple[Ints, Floats]:
    """The k best-scoring gallery items of every query, best first.

    Scores that are equal in float32 keep the gallery's order (the lower index first). The gallery may be a memory map.

    Args:
        query: embeddings `(q, d)`, float32.
        gallery: embeddings `(N, d)`, float32.
        k: number of items; more than `N` gives all `N`.
        block_bytes: size of a block of scores in bytes. It changes speed and memory, not the result.

    Returns:
        Gallery indices `(q, min(k, N))` int64 and their scores, float32 of the same shape.

    Raises:
        NonFiniteError: an embedding is not finite.
        ValueError: shapes do not fit, or `k` is negative.

    Example:
        >>> nearest(np.float32([[1, 0]]), np.float32([[0, 1], [1, 0], [0.5, 0]]), k=2)
        (array([[1, 2]]), array([[1. , 0.5]], dtype=float32))
    """
    found = Nearest(query, min(k, len(np.asarray(gallery))), block_bytes)
    found.add(gallery)
    return found.result()


class Nearest:
    """The k best-scoring items of every query, over a gallery that arrives in parts; `nearest` is its short form.

    Args:
        query: embeddings `(q, d)`, float32.
        k: number of items.
        block_bytes: see `nearest`.

    Raises:
        NonFiniteError: a query is not finite.
        ValueError: `query` has another shape, or `k` is negative.

    Example:
        >>> found = Nearest(np.float32([[1, 0]]), k=2)
        >>> for shard in (np.float32([[0, 1], [1, 0]]), np.float32([[0.5, 0]])):
        ...     found.add(shard)
        >>> found.result()
        (array([[1, 2]]), array([[1. , 0.5]], dtype=float32))
    """

    def __init__(self, query: ArrayLike, k: int, block_bytes: int = BLOCK_BYTES) -> None:
        if k < 0:
            raise ValueError(f"k is {k}; it must not be negative")
        self.query = as_embeddings(query, "query")
        self.k = k
        self.block_bytes = block_bytes
        self.count = 0
        self._norm = norms("query", self.query)
        self._index = np.zeros((len(self.query), k), np.int64)
        self._score = np.full((len(self.query), k), -np.inf, np.float32)

    def add(self, gallery: ArrayLike, unit: bool = False) -> None:
        """Search the next part of the gallery; its rows are numbered after those of the parts before.

        Args:
            gallery: embeddings `(n, d)`, float32; a memory map is fine.
            unit: they have unit length, so their lengths need not be computed.

        Raises:
            NonFiniteError: an embedding is not finite; not noticed if `unit`.
            ValueError: shapes do not fit.
        """
        gallery = as_embeddings(gallery, "gallery")
        check_width(self.query, gallery)
        gallery_norm = np.array([1.01]) if unit else norms("gallery", gallery)
        check_overflow("query", self._norm, gallery_norm)
        first, self.count = self.count, self.count + len(gallery)
        if not self.k:
            return
        # Without a sample of right pairs only the proven error is known; it costs a few more candidates per query.
        slack = proven_error(gallery.shape[1]) * self._norm * gallery_norm.max(initial=0.0)
        for q, g, block in blocks(self.query, gallery, self.block_bytes):
            floor = below(self._score[q, -1].astype(np.float64) - slack[q])
            # Finding the k-th best score of a block costs as much as its product, so a quarter of the block is searched
            # first, and the complete block only if that leaves many candidates.
            for share in (4, 1):
                above = np.count_nonzero(block >= floor[:, None], axis=1)
                many = np.flatnonzero(above > max(128, 8 * self.k))
                if not many.size:
                    break
                part = max(block.shape[1] // share, self.k)
                kth = np.partition(block[many, :part], part - self.k, axis=1)[:, -self.k]
                floor[many] = np.maximum(floor[many], below(kth - 2 * slack[q][many]))
            for i in np.flatnonzero(block.max(axis=1) >= floor):
                row = q.start + int(i)
                near = g.start + np.flatnonzero(block[i] >= floor[i])
                dots = pair_dots(self.query, gallery, np.full(len(near), row), near)
                indices = np.concatenate([self._index[row], first + near])
                scores = np.concatenate([self._score[row], dots.astype(np.float32)])
                order = np.lexsort((indices, -scores))[: self.k]  # empty places hold -inf and sort last
                self._index[row], self._score[row] = indices[order], scores[order]

    def result(self) -> tuple[Ints, Floats]:
        """Gallery indices `(q, min(k, count))` int64 and their scores, float32 of the same shape, best first."""
        k = min(self.k, self.count)
        return self._index[:, :k].copy(), self._score[:, :k].copy()
