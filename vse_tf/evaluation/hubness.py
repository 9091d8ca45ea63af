"""How uneven a gallery is retrieved: hubs come up for most queries, other items never. NumPy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from vse_tf.evaluation.neighbours import nearest
from vse_tf.evaluation.similarity import Ints

if TYPE_CHECKING:
    from vse_tf.plain_embedder import EncodedSplit

NEAREST = 10
"""First items of a query that count as retrieved."""
MOST = 10
"""Number of items that are listed."""


@dataclass(frozen=True)
class Hubness:
    """How often the items of a gallery are retrieved.

    Args:
        k: first items of a query that count as retrieved.
        skewness: third standardised moment of the counts; 0 is even, above 1 there are hubs.
        never: share of the items that no query retrieves, in percent.
        most: the most frequent items: gallery row and number of queries.
    """

    k: int
    skewness: float
    never: float
    most: tuple[tuple[int, int], ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def occurrences(query: ArrayLike, gallery: ArrayLike, k: int = NEAREST) -> Ints:
    """The number of queries that have each item among their first k, `(N,)`: its k-occurrence.

    Args:
        query: embeddings `(q, d)`, float32.
        gallery: embeddings `(N, d)`, float32.
        k: number of first items.

    Example:
        >>> occurrences(np.float32([[1, 0], [0.9, 0.1]]), np.float32([[0, 1], [1, 0]]), k=1)
        array([0, 2])
    """
    counts: Ints = np.bincount(nearest(query, gallery, k)[0].reshape(-1), minlength=len(np.asarray(gallery)))
    return counts


def hubness(counts: Ints, k: int = NEAREST, most: int = MOST) -> Hubness:
    """Describe the k-occurrences of a gallery.

    The skewness is the field's measure of hubness (Radovanovic, Nanopoulos and Ivanovic, JMLR 11, 2010).

    Args:
        counts: see `occurrences`.
        k: the k of the counts.
        most: number of items to list, the most frequent first, of equal ones the lower row first.

    Example:
        >>> hubness(np.array([0, 0, 4, 4]), k=1, most=1)
        Hubness(k=1, skewness=0.0, never=50.0, most=((2, 4),))
    """
    apart = counts - counts.mean()
    spread = float(np.sqrt(np.mean(apart**2)))
    skewness = float(np.mean(apart**3)) / spread**3 if spread else 0.0
    first = np.argsort(-counts, kind="stable")[:most]
    return Hubness(
        k, skewness, 100.0 * float(np.mean(counts == 0)), tuple((int(row), int(counts[row])) for row in first)
    )


def split_hubness(encoded: EncodedSplit) -> dict[str, Hubness]:
    """The hubness of a split's captions (`i2t`: images ask) and of its images (`t2i`: captions ask).

    Args:
        encoded: the embeddings.

    Raises:
        NonFiniteError: an embedding is not finite.
    """
    return {
        "i2t": hubness(occurrences(encoded.image, encoded.text)),
        "t2i": hubness(occurrences(encoded.text, encoded.image)),
    }
