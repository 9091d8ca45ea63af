"""Measures the recall that a gallery's storage type loses. Needs only NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from vse_tf.artifacts.storage import Stored
from vse_tf.evaluation.neighbours import nearest

# Number of rows of the gallery that are the queries if there are no others.
QUERIES = 1000


def recall_loss(vectors: np.ndarray, stored: Stored, k: int, queries: np.ndarray | None = None) -> dict[str, Any]:
    """Measure the share of the exact nearest items that a storage type loses.

    Args:
        vectors: the gallery, float32 `(rows, dim)`.
        stored: the same vectors, stored.
        k: number of nearest items.
        queries: float32 `(n, dim)` (default: up to 1,000 evenly spread rows of the gallery, each without itself).

    Returns:
        Number and kind of the queries, `k`, and the mean share of the exact first `k` (and of the exact first one)
        that is missing among the stored first `k` (first one), in 0..1.

    Example:
        >>> vectors = np.float32([[1, 0], [0.8, 0.6], [0, 1]])
        >>> from vse_tf.artifacts.storage import store
        >>> recall_loss(vectors, store(vectors, "int8"), k=1)
        {'queries': 3, 'of': "the gallery's own rows", 'k': 1, 'loss_at_k': 0.0, 'loss_at_1': 0.0}
    """
    own = queries is None
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(QUERIES, len(vectors))).astype(np.int64)) if own else None
    searched = vectors[rows] if queries is None else queries
    # A row finds itself: one more item is searched for, and the row removed.
    count = min(k + own, len(vectors))
    exact, found = (nearest(searched, gallery, count)[0] for gallery in (vectors, stored.restored()))
    if rows is not None:
        exact, found = (_without(rows, indices) for indices in (exact, found))
    width = exact.shape[1]
    if not exact.size:
        lost, first = 0.0, 0.0
    else:
        found_shares = [len(np.intersect1d(a, b)) / width for a, b in zip(exact, found, strict=True)]
        lost, first = 1 - float(np.mean(found_shares)), float(np.mean(exact[:, 0] != found[:, 0]))
    return {
        "queries": len(searched),
        "of": "the gallery's own rows" if own else "the queries given",
        "k": width,
        "loss_at_k": round(lost, 6),
        "loss_at_1": round(first, 6),
    }


def _without(rows: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The indices of each row without the row itself, or without the last one if the row is not among them."""
    keep = indices != rows[:, np.newaxis]
    keep[keep.all(axis=1), -1] = False
    return indices[keep].reshape(len(rows), -1)
