"""Stores vectors as float32, float16 or int8, and measures the recall that this loses. Needs only NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from vse_tf.evaluation.neighbours import nearest

Storage = Literal["float32", "float16", "int8"]
STORAGES: tuple[str, ...] = get_args(Storage)
# Number of rows of the gallery that are the queries if there are no others.
QUERIES = 1000


@dataclass(frozen=True)
class Stored:
    """Stored vectors.

    Args:
        values: `(rows, dim)` in the stored type.
        scales: float32 `(rows,)` for int8, where a row is `values * scale`; else None.
        exact: float32 `(rows, n)`, last coordinates that are stored as they are; None: there are none.
    """

    values: np.ndarray
    scales: np.ndarray | None = None
    exact: np.ndarray | None = None

    def restored(self) -> np.ndarray:
        """The vectors as float32 `(rows, dim)`."""
        values = self.values.astype(np.float32, copy=False)
        if self.scales is not None:
            values = values * self.scales[:, np.newaxis]
        return values if self.exact is None else np.concatenate([values, self.exact], axis=1)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(part.nbytes for part in (self.values, self.scales, self.exact) if part is not None)


def store(vectors: np.ndarray, storage: Storage, plain_dim: int | None = None) -> Stored:
    """Convert unit vectors to a storage type.

    int8 has one scale per row, the row's largest component being 127: `x ≈ round(127 x / max|x|) · max|x| / 127`.

    Args:
        vectors: float32 `(rows, dim)`.
        storage: the type.
        plain_dim: dimensions of the space; those after them, of a hubness correction, stay float32: they are larger
            than the others, which would lose most of the digits of an int8.

    Example:
        >>> store(np.float32([[0.6, -0.8]]), "int8").values
        array([[  95, -127]], dtype=int8)
    """
    if storage == "float32":
        return Stored(vectors)
    exact = None
    if plain_dim is not None and plain_dim < vectors.shape[1]:
        vectors, exact = vectors[:, :plain_dim], vectors[:, plain_dim:]
    if storage == "float16":
        return Stored(vectors.astype(np.float16), exact=exact)
    largest = np.abs(vectors).max(axis=1)
    largest[largest == 0] = 1
    values = np.rint(vectors * (127 / largest)[:, np.newaxis]).astype(np.int8)
    return Stored(values, (largest / 127).astype(np.float32), exact)


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
