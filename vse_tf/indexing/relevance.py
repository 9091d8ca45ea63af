"""The relevance of a hit: what its score means, between 0 and 1. Needs only NumPy.

A score has no meaning of its own: in one space nonsense has 0.2, in another 0.5. A hit's relevance is the share of
ordinary queries that find something worse in the same collection. An index is calibrated when it is written:

1. The *background* of an index of images is up to 1,000 ordinary captions, as queries; for queries by an image, up to
   `MEASURED` images of the index itself; for words and an image together, sums of both; for words of which others are
   left out, differences of two captions. An index of captions has captions of its own.
2. The levels are the distribution of the scores that background queries have with their second-best item: an image
   finds itself, and a caption may find the very photo that it was written for.

The relevance is the place of the hit's score in that distribution, so hits are in the order of their scores, with any
backend, and a search takes no longer. `python -m benchmarks.relevance` compared other definitions: see
`benchmarks/results/search.md`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import numpy as np

from vse_tf.artifacts.calibration import STEPS, Calibration
from vse_tf.evaluation.neighbours import Nearest
from vse_tf.models.folding import Floats, search_queries
from vse_tf.models.mixing import Of, Part, Query, mix

MEASURED = 300
MIN_RELEVANCE = 0.15
"""Below it, a hit is not relevant: of 100 ordinary queries, 85 find something better."""
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
    queries = backgrounds(_gather(shards, _spread(count, MEASURED)), texts, kind, plain_dim)
    found = Nearest(search_queries(np.concatenate(list(queries.values())), kind, plain_dim), min(2, count))
    for part in shards():
        found.add(part, unit=True)
    second = found.result()[1][:, -1]
    ends = np.cumsum([len(each) for each in queries.values()])[:-1]
    steps = np.linspace(0, 1, STEPS)
    levels = {
        of: [float(level) for level in np.quantile(scores, steps)]
        for of, scores in zip(queries, np.split(second, ends), strict=True)
    }
    return Calibration(texts, levels)


def backgrounds(own: Floats, texts: Floats | None, kind: str, plain_dim: int) -> dict[Of, Floats]:
    """Background queries, by what a query is of.

    Args:
        own: rows of the index, evenly spread.
        texts: background captions, of an index of images.
        kind: `images` or `captions`.
        plain_dim: dimensions of the space.
    """
    captions = own if kind == "captions" else texts
    found: dict[Of, Floats] = {} if kind == "captions" else {"images": own}
    if captions is None:
        return found
    found["captions"] = captions
    some = captions[_spread(len(captions), MEASURED)]
    pairs: dict[Of, list[list[Part]]] = {
        "texts": [
            [Part(wanted, "captions"), Part(other, "captions", -1)]
            for wanted, other in zip(some, np.roll(some, len(some) // 2, axis=0), strict=True)
        ]
    }
    if kind == "images":
        pairs["mixed"] = [
            [Part(text, "captions"), Part(image, "images")] for text, image in zip(some, own, strict=False)
        ]
    for of, every in pairs.items():
        mixed = []
        for parts in every:
            # Two opposite vectors make no query, and neither does a caption without itself.
            with contextlib.suppress(ValueError):
                mixed.append(mix(parts, kind, plain_dim).vector)
        if mixed:
            found[of] = np.stack(mixed)
    return found


def relevance(calibration: Calibration | None, query: Query, scores: np.ndarray) -> Floats | None:
    """The relevance of the hits of a query.

    Args:
        calibration: that of the index; None: it has none.
        query: the query.
        scores: the scores of its hits, float32 `(k,)`.

    Returns:
        float32 `(k,)` in 0..1, 0 for a query without a known word; None where the index is not calibrated for such
        queries.

    Example:
        query = Query(vector, "captions")
        rows, scores = ExactSearch(index)(query.vector[None], k=10)
        relevance(index.calibration, query, scores[0])  # [0.93, 0.88, …]
    """
    if calibration is None or query.of not in calibration.levels:
        return None
    if not query.known:
        # All texts of unknown words have one vector, which may be near to anything.
        return np.zeros(len(scores), np.float32)
    return np.interp(scores, calibration.levels[query.of], np.linspace(0, 1, STEPS)).astype(np.float32)


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(0, count - 1), min(count, most)).astype(np.int64))


def _gather(shards: Callable[[], Iterable[Floats]], rows: np.ndarray) -> Floats:
    """Rows of vectors that come in parts, in ascending order."""
    found: list[Floats] = []
    start = 0
    for part in shards():
        here = rows[(rows >= start) & (rows < start + len(part))]
        found.append(np.asarray(part[here - start]))
        start += len(part)
    return np.concatenate(found)
