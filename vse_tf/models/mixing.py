"""One query from several parts: words and images that are looked for, and what is excluded. Needs only NumPy.

Parts are added in the plain space: the unit vectors of what is looked for, each by its weight, minus those of what is
excluded. The sum has its length normalised. Where vectors have a hubness correction, it is appended afterwards, without
a hubness of the query itself: that is the same number for all items, and does not change their order.

Sums and differences of vectors as queries: Kiros et al., arXiv 1411.2539 ("multimodal linguistic regularities").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vse_tf.models.folding import Floats, Modality, fold, plain

Of = Literal["images", "captions", "texts", "mixed"]
"""What a query is of: images alone, a single text, several texts, or images and texts."""
LEAST = 1e-3
"""Shortest sum of parts that still has a direction."""


@dataclass(frozen=True)
class Part:
    """A part of a query.

    Args:
        vector: float32 `(dim,)` or, with the hubness correction, `(dim + 4,)`; of unit length.
        of: `images` or `captions` (any text).
        weight: its share of the sum; negative: excluded.
        known: false for a text without a word of the vocabulary.
    """

    vector: Floats
    of: Of
    weight: float = 1.0
    known: bool = True


@dataclass(frozen=True)
class Query:
    """What an index is searched for.

    Args:
        vector: float32 `(dim,)`, as wide as the index's vectors.
        of: what its parts are of; scores of one kind are not comparable with those of another.
        known: false where all that is looked for is texts without a word of the vocabulary.
    """

    vector: Floats
    of: Of
    known: bool = True


def mix(parts: Sequence[Part], kind: str, dim: int) -> Query:
    """The query that several parts make.

    Args:
        parts: at least one with a weight above 0.
        kind: `images` or `captions`, what the items searched are.
        dim: dimensions of the plain space.

    Raises:
        ValueError: nothing is looked for, a weight is not finite, or the parts cancel each other out.

    Example:
        >>> dogs, people = Part(np.float32([0.6, 0.8]), "captions"), Part(np.float32([0, 1]), "captions", -0.8)
        >>> mix([dogs, people], "images", dim=2).vector.round(3)
        array([1., 0.], dtype=float32)
    """
    if not all(math.isfinite(part.weight) for part in parts):
        raise ValueError("a weight is not a finite number")
    parts = [part for part in parts if part.weight]
    if not any(part.weight > 0 for part in parts):
        raise ValueError("nothing to look for: name a text or an image, not only what to leave out")
    of = parts[0].of if len({part.of for part in parts}) == 1 else "mixed"
    own_modality = of == kind
    if of == "captions" and len(parts) > 1:
        of = "texts"
    known = any(part.known for part in parts if part.weight > 0)
    vectors = np.stack([part.vector for part in parts])
    if len(parts) == 1:
        return Query(vectors[0], of, known)
    # No weight is too large for a float32 of its square.
    largest = max(abs(part.weight) for part in parts)
    weights = np.array([part.weight / largest for part in parts], np.float32)
    total = weights @ plain(vectors, dim)
    length = float(np.linalg.norm(total))
    if not length > LEAST * float(np.abs(weights).sum()):
        raise ValueError("nothing is left of the query: what is excluded is what is looked for")
    unit = (total / np.float32(length))[np.newaxis]
    if vectors.shape[1] != dim:
        # Of the items' modality it would be compared with them in the plain space: only where all its parts are of it.
        unit = without_hubness(unit, "image" if own_modality == (kind == "images") else "caption")
    return Query(unit[0].astype(np.float32), of, known)


def without_hubness(units: Any, modality: Modality, ops: Any = np) -> Any:
    """Unit vectors `(n, dim)` of the plain space with the hubness correction of queries that have no hubness."""
    return fold(units, ops.zeros_like(units[:, 0]), modality, ops)
