"""The relevance of a hit: what its score means, between 0 and 1. Needs only NumPy.

A score has no meaning of its own: in one space nonsense has 0.2, in another 0.5, and some items are near to everything.
A hit's relevance is the share of ordinary queries that find something worse in the same collection. An index of images
is calibrated when it is written:

1. The *background* is up to 1,000 ordinary captions, as queries; for queries by an image, up to `MEASURED` images of
   the index itself; for mixed queries, both together.
2. The normalised score of a query and an item is their score less the item's mean score with its `NEAREST` nearest
   background queries.
3. The levels are the distribution of the normalised scores that background queries have with their second-best item: an
   image finds itself, and a caption may find the very photo that it was written for.

The relevance is the place of the hit's normalised score in that distribution. Only the hits of a search are compared
with the background, so a search takes no longer, with any backend.

The normalisation is the Z-norm of speaker verification (Auckenthaler et al., 2000, DOI 10.1006/dspr.1999.0360) with the
nearest of a cohort instead of all of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np

from vse_tf.artifacts.calibration import STEPS, Calibration
from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_base import IndexBase
from vse_tf.evaluation.neighbours import Nearest
from vse_tf.models.folding import Floats, search_queries
from vse_tf.models.mixing import Of, Part, Query, mix

MEASURED = 300
NEAREST = 20
BATCH = 256
MIN_RELEVANCE = 0.05
"""Below it, a hit is not relevant: of 100 ordinary queries, 95 find something better."""
NOTHING = "no relevant result; the nearest:"


def calibrate(
    shards: Callable[[], Iterable[Floats]], count: int, kind: str, plain_dim: int, texts: Floats | None
) -> Calibration:
    """Measure the levels of a collection.

    Args:
        shards: gives its vectors, in parts.
        count: number of its rows.
        kind: `images` or `captions`.
        plain_dim: dimensions of the space.
        texts: background captions, float32 `(n, dim)`, of an index of images.
    """
    own = _gather(shards, sample(count))
    levels: dict[Of, list[float]] = {}
    for of, queries in backgrounds(own, texts, kind, plain_dim).items():
        found = Nearest(search_queries(queries[_spread(len(queries), MEASURED)], kind, plain_dim), min(2, count))
        for part in shards():
            found.add(part, unit=True)
        rows, scores = found.result()
        hits = _gather(shards, rows[:, -1])
        values = scores[:, -1] - hubness(hits, search_queries(queries, kind, plain_dim))
        levels[of] = [float(level) for level in np.quantile(values, np.linspace(0, 1, STEPS))]
    return Calibration(texts, levels)


def backgrounds(own: Floats, texts: Floats | None, kind: str, plain_dim: int) -> dict[Of, Floats]:
    """Background queries, by what a query is of.

    Args:
        own: rows of the index, `sample` of them.
        texts: background captions, of an index of images.
        kind: `images` or `captions`.
        plain_dim: dimensions of the space.
    """
    if kind == "captions":
        return {"captions": own}
    found: dict[Of, Floats] = {"images": own}
    if texts is not None:
        found["captions"] = texts
        both = []
        for text, image in zip(texts[_spread(len(texts), len(own))], own, strict=False):
            # Two opposite vectors make no query.
            with contextlib.suppress(ValueError):
                both.append(mix([Part(text, "captions"), Part(image, "images")], kind, plain_dim).vector)
        if both:
            found["mixed"] = np.stack(both)
    return found


def sample(count: int) -> np.ndarray:
    """The rows of an index that are background queries, evenly spread."""
    return _spread(count, MEASURED)


def hubness(items: Floats, queries: Floats) -> Floats:
    """Mean score of items `(k, dim)` with their nearest background queries `(n, dim)`, `(k,)`."""
    scores = items @ queries.T
    nearest = min(NEAREST, len(queries))
    return np.partition(scores, len(queries) - nearest, axis=1)[:, -nearest:].mean(axis=1)


class Relevance:
    """The relevance of an index's hits.

    Args:
        index: the index.

    Example:
        rows, scores = ExactSearch(index)(query.vector[None], k=10)
        Relevance(index)(query, rows[0], scores[0])  # [0.93, 0.88, …]
    """

    def __init__(self, index: IndexBase) -> None:
        self.index = index

    def __call__(self, query: Query, rows: np.ndarray, scores: np.ndarray) -> Floats | None:
        """The relevance of the hits of one query.

        Args:
            query: the query.
            rows: their rows, int64 `(k,)`.
            scores: their scores, float32 `(k,)`.

        Returns:
            float32 `(k,)` in 0..1, 0 for a query without a known word; None where the index is not calibrated for such
            queries.
        """
        return self.of_all([query], rows[np.newaxis], scores[np.newaxis])[0]

    def of_all(self, queries: Sequence[Query], rows: np.ndarray, scores: np.ndarray) -> list[Floats | None]:
        """The relevance of the hits of several queries; together they take less time.

        Args:
            queries: the queries.
            rows: rows of their hits, int64 `(q, k)`.
            scores: their scores, float32 `(q, k)`.

        Returns:
            For each query what a call for it alone returns.
        """
        found: list[Floats | None] = [None] * len(queries)
        calibration = self.index.calibration
        if calibration is None or not rows.shape[1]:
            return found
        assert isinstance(self.index, Index)
        for start in range(0, len(queries), BATCH):
            part = range(start, min(start + BATCH, len(queries)))
            for of in sorted({queries[number].of for number in part} & calibration.levels.keys()):
                numbers = [number for number in part if queries[number].of == of]
                wanted, places = np.unique(rows[numbers], return_inverse=True)
                of_items = hubness(self.index.gather(wanted), self._backgrounds[of])
                values = scores[numbers] - of_items[places.reshape(len(numbers), -1)]
                shares = np.interp(values, calibration.levels[of], np.linspace(0, 1, STEPS)).astype(np.float32)
                for number, share in zip(numbers, shares, strict=True):
                    # All texts of unknown words have one vector, which may be near to anything.
                    found[number] = share if queries[number].known else np.zeros_like(share)
        return found

    def of_vectors(self, query: Query, vectors: Floats, scores: np.ndarray) -> Floats | None:
        """The relevance of hits by their vectors, float32 `(k, dim)`; otherwise as a call."""
        calibration = self.index.calibration
        if calibration is None or query.of not in calibration.levels or not len(vectors):
            return None
        if not query.known:
            # All texts of unknown words have one vector, which may be near to anything.
            return np.zeros(len(vectors), np.float32)
        values = scores - hubness(vectors, self._backgrounds[query.of])
        return np.interp(values, calibration.levels[query.of], np.linspace(0, 1, STEPS)).astype(np.float32)

    def own(self) -> Floats:
        """The rows of the index that are background queries."""
        assert isinstance(self.index, Index)
        return self.index.gather(sample(self.index.count))

    @cached_property
    def _backgrounds(self) -> dict[Of, Floats]:
        index, calibration = self.index, self.index.calibration
        assert calibration is not None
        found = backgrounds(self.own(), calibration.texts, index.kind, index.plain_dim)
        return {of: search_queries(queries, index.kind, index.plain_dim) for of, queries in found.items()}


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(0, count - 1), min(count, most)).astype(np.int64))


def _gather(shards: Callable[[], Iterable[Floats]], rows: np.ndarray) -> Floats:
    """Rows of vectors that come in parts."""
    found: list[Floats] = []
    places: list[np.ndarray] = []
    start = 0
    for part in shards():
        here = np.flatnonzero((rows >= start) & (rows < start + len(part)))
        found.append(np.asarray(part[rows[here] - start]))
        places.append(here)
        start += len(part)
    vectors = np.concatenate(found)
    return vectors[np.argsort(np.concatenate(places), kind="stable")]
