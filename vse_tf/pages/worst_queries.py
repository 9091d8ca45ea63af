"""The queries of a split that did worst, as HTML: what was ranked before the correct item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vse_tf.evaluation.neighbours import nearest
from vse_tf.evaluation.ranking import ranks
from vse_tf.pages.split_items import SplitItems

if TYPE_CHECKING:
    from vse_tf.plain_embedder import EncodedSplit

LISTED = 5  # number of gallery items in a failure


@dataclass(frozen=True)
class Failure:
    """A query for which an incorrect item was ranked first.

    Args:
        query: row of the query among the queries.
        rank: number of incorrect items that score at least as high as the best correct one.
        margin: score of the first item minus score of the best correct one, not negative.
        correct: gallery row of the best correct item.
        score: similarity of the best correct item.
        rows: gallery rows of the first items, best first.
        scores: similarities of the first items.
    """

    query: int
    rank: int
    margin: float
    correct: int
    score: float
    rows: tuple[int, ...]
    scores: tuple[float, ...]


def worst(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    rank: NDArray[np.int64],
    correct: Callable[[int], NDArray[np.int64]],
    count: int,
) -> list[Failure]:
    """The queries with the highest rank, worst first; among equal ranks by larger margin, then by lower row.

    Args:
        query: embeddings `(q, d)`, float32.
        gallery: embeddings `(N, d)`, float32.
        rank: 0-based rank of each query's best correct item (see `vse_tf.evaluation.ranking.ranks`); a query of rank 0
            or below is not a failure.
        correct: returns the gallery rows that are correct for a query.
        count: maximum number of failures.
    """
    ordered = np.sort(rank[rank > 0])
    if not ordered.size or count < 1:
        return []
    # The margin decides among all queries whose rank equals that of the last one on the page.
    tied = np.flatnonzero(rank >= ordered[-min(count, ordered.size)])
    first = nearest(query[tied], gallery, 1)[1][:, 0]
    candidates = []
    for row, top in zip(tied.tolist(), first.tolist(), strict=True):
        rows = correct(row)
        # Computed as the ranks were, so that ties are the same.
        best, score = nearest(query[row][None], gallery[rows], 1)
        similarity = float(score[0, 0])
        candidates.append(Failure(row, int(rank[row]), top - similarity, int(rows[best[0, 0]]), similarity, (), ()))
    chosen = sorted(candidates, key=lambda failure: (-failure.rank, -failure.margin, failure.query))[:count]
    rows, scores = nearest(query[[failure.query for failure in chosen]], gallery, LISTED)
    return [
        replace(failure, rows=tuple(near.tolist()), scores=tuple(near_scores.tolist()))
        for failure, near, near_scores in zip(chosen, rows, scores, strict=True)
    ]


def failures(encoded: EncodedSplit, count: int) -> tuple[list[Failure], list[Failure]]:
    """The worst failures of a split, from image to text and from text to image.

    Args:
        encoded: embeddings of the split.
        count: maximum number of failures per direction.

    Raises:
        NonFiniteError: an embedding is not finite.
    """
    image_id = encoded.image_id
    found = ranks(encoded.image, encoded.text, image_id)
    order = np.argsort(image_id, kind="stable")
    starts = np.searchsorted(image_id[order], np.arange(len(encoded.image) + 1))
    return (
        worst(encoded.image, encoded.text, found.i2t, lambda row: order[starts[row] : starts[row + 1]], count),
        worst(encoded.text, encoded.image, found.t2i, lambda row: image_id[row : row + 1], count),
    )


def worst_queries(items: SplitItems, count: int = 50) -> str:
    """Show the worst queries of a split: a section for each direction.

    Args:
        items: the split.
        count: maximum number of queries per direction.

    Returns:
        HTML.

    Raises:
        NonFiniteError: an embedding is not finite.
    """
    of_images, of_captions = failures(items.encoded, count)
    images, captions = len(items.encoded.image), len(items.encoded.text)
    return _section("i2t", "Image to text", [_image_query(items, one, captions) for one in of_images]) + _section(
        "t2i", "Text to image", [_caption_query(items, one, images) for one in of_captions]
    )


def _image_query(items: SplitItems, failure: Failure, gallery: int) -> str:
    image_id = items.encoded.image_id
    first = "".join(
        items.caption(row, score, bool(image_id[row] == failure.query))
        for row, score in zip(failure.rows, failure.scores, strict=True)
    )
    best = items.caption(failure.correct, failure.score, True)
    return (
        f'<article><div class="query">{items.figure(failure.query)}<div>{_rank_line(failure, gallery)}'
        f"<h3>Ranked first</h3><ol>{first}</ol><h3>Best correct caption</h3><ol>{best}</ol>"
        "</div></div></article>\n"
    )


def _caption_query(items: SplitItems, failure: Failure, gallery: int) -> str:
    images = [*zip(failure.rows, failure.scores, strict=True), (failure.correct, failure.score)]
    shown = "".join(items.image(row, score, row == failure.correct) for row, score in images)
    return (
        f"<article>{items.query(failure.query)}"
        f"{_rank_line(failure, gallery)}<h3>Ranked first, and the correct image</h3>"
        f'<ol class="images">{shown}</ol></article>\n'
    )


def _section(name: str, title: str, articles: list[str]) -> str:
    subtitle = f"the {len(articles)} worst" if articles else "every query has a correct item first"
    return f'<section id="{name}"><h2>{title}: {subtitle}</h2>\n{"".join(articles)}</section>\n'


def _rank_line(failure: Failure, gallery: int) -> str:
    rank = f"best correct item at rank <b>{failure.rank + 1}</b> of {gallery}"
    return f"<p><small>{rank}, {failure.margin:.3f} below the first</small></p>"
