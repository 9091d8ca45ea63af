"""Vectors stored as float32, float16 or int8. Needs only NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Storage = Literal["float32", "float16", "int8"]
STORAGES: tuple[str, ...] = get_args(Storage)


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
