"""An HTML page of the queries of a split that did worst: what was ranked before the correct item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vse_tf.data.features import CachedFeatures
from vse_tf.data.records import EncodedImages, Record, Split
from vse_tf.evaluation.metrics import RECALL_METRICS
from vse_tf.evaluation.neighbours import nearest
from vse_tf.evaluation.ranking import ranks
from vse_tf.pages import html_page
from vse_tf.pages.thumbnails import thumbnail_of_contents, thumbnail_of_pixels

if TYPE_CHECKING:
    from vse_tf.embedder import EncodedSplit

LISTED = 5  # number of gallery items in a failure
_STYLE = """
:root { color-scheme: light dark; --text: #222; --quiet: #61616a; --back: #fff; --card: #f4f4f6; --line: #d5d5dc;
  --correct: #08701f; }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --quiet: #a5a5b0; --back: #181818; --card: #242429;
  --line: #47474f; --correct: #6fd98a; } }
* { box-sizing: border-box; }
body { font: 16px/1.4 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; color: var(--text);
  background: var(--back); overflow-wrap: anywhere; }
h1 { font-size: 1.25rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
h3 { font-size: .875rem; margin: .75rem 0 .25rem; }
p { margin: .25rem 0; } a { color: inherit; } small, .none { color: var(--quiet); }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line); overflow-wrap: normal; }
th:first-child { text-align: left; }
article { margin: 1rem 0; padding: .75rem; border: 1px solid var(--line); border-radius: .5rem; }
.query { display: grid; grid-template-columns: minmax(8rem, 16rem) 1fr; gap: 0 1rem; }
img, .none { display: block; width: 100%; height: 9rem; object-fit: contain; background: var(--card); }
.query > figure img, .query > figure .none { height: 13rem; }
.none { display: grid; place-items: center; font-size: .875rem; }
figure { margin: 0; } figcaption, .score { font-size: .8125rem; font-variant-numeric: tabular-nums; }
.caption { font-size: 1.1rem; }
ol { margin: 0; padding: 0; list-style: none; } li { padding: .15rem 0; }
.images { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: .5rem; }
.correct, .correct .score { color: var(--correct); font-weight: 600; }
.correct img, .correct .none { outline: 3px solid var(--correct); }
@media (max-width: 40rem) {
  body { padding: .5rem; } .query { grid-template-columns: 1fr; } .images { grid-template-columns: repeat(2, 1fr); }
}
"""


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


def error_page(
    run: str,
    split: Split,
    encoded: EncodedSplit,
    metrics: Mapping[str, float],
    max_pixels: int,
    count: int = 50,
    side: int = 256,
) -> str:
    """Show the worst queries of a split on a self-contained HTML page.

    Args:
        run: name of the run.
        split: the split that was encoded.
        encoded: embeddings of the split.
        metrics: recalls of the split.
        max_pixels: image files whose header announces more pixels are not opened.
        count: maximum number of queries per direction.
        side: longer side of a picture in pixels.

    Returns:
        HTML, with a placeholder for an image that cannot be shown; precomputed features are shown by name.

    Raises:
        NonFiniteError: an embedding is not finite.

    Example:
        Path("errors.html").write_text(error_page("runs/a", split, encoded, metrics, 10**8), encoding="utf-8")
    """
    of_images, of_captions = failures(encoded, count)
    html = _FailureHtml(split, encoded, max_pixels, side)
    images, captions = len(encoded.image), len(encoded.text)
    title = f"Errors of {run} on {split.name}"
    body = [
        f"<h1>{html_page.text(title)}</h1>\n{_recalls(metrics)}\n",
        f"<p>{images} images, {captions} captions; ranks are among all of them. Jump to "
        '<a href="#i2t">image to text</a> or <a href="#t2i">text to image</a>.</p>\n',
        _section("i2t", "Image to text", [html.image_query(failure, captions) for failure in of_images]),
        _section("t2i", "Text to image", [html.caption_query(failure, images) for failure in of_captions]),
    ]
    return html_page.page(title, _STYLE, "".join(body))


class _FailureHtml:
    """Makes the HTML of failures; for the arguments see `error_page`."""

    def __init__(self, split: Split, encoded: EncodedSplit, max_pixels: int, side: int) -> None:
        self.split = split
        self.encoded = encoded
        self.max_pixels = max_pixels
        self.side = side
        self.captions = [caption for row in encoded.rows for caption in split.records[row].captions]

    def image_query(self, failure: Failure, gallery: int) -> str:
        image_id = self.encoded.image_id
        first = "".join(
            self._caption(row, score, bool(image_id[row] == failure.query))
            for row, score in zip(failure.rows, failure.scores, strict=True)
        )
        best = self._caption(failure.correct, failure.score, True)
        return (
            f'<article><div class="query">{self._figure(failure.query)}<div>{_rank_line(failure, gallery)}'
            f"<h3>Ranked first</h3><ol>{first}</ol><h3>Best correct caption</h3><ol>{best}</ol>"
            "</div></div></article>\n"
        )

    def caption_query(self, failure: Failure, gallery: int) -> str:
        images = [*zip(failure.rows, failure.scores, strict=True), (failure.correct, failure.score)]
        items = "".join(
            f"<li{_class(row == failure.correct)}>{self._figure(row, score, row == failure.correct)}</li>"
            for row, score in images
        )
        return (
            f'<article><p class="caption" dir="auto">{html_page.text(self.captions[failure.query])}</p>'
            f"{_rank_line(failure, gallery)}<h3>Ranked first, and the correct image</h3>"
            f'<ol class="images">{items}</ol></article>\n'
        )

    def _caption(self, row: int, score: float, correct: bool) -> str:
        caption = html_page.text(self.captions[row])
        return f'<li{_class(correct)} dir="auto">{_score(score, correct)} {caption}</li>'

    def _figure(self, position: int, score: float | None = None, correct: bool = False) -> str:
        name = html_page.text(Path(self._record(position).image).name)
        line = "" if score is None else f"{_score(score, correct)}<br>"
        return f"<figure>{self._picture(position)}<figcaption>{line}<bdi>{name}</bdi></figcaption></figure>"

    def _picture(self, position: int) -> str:
        record, images = self._record(position), self.split.images
        name, row = Path(record.image).name, record.row
        encoded = images.images if isinstance(images, CachedFeatures) else images
        if isinstance(encoded, EncodedImages):
            return html_page.picture(name, lambda: thumbnail_of_contents(encoded.read(row), self.side, self.max_pixels))
        if images.kind == "pixels":
            rows = np.array([row])
            return html_page.picture(name, lambda: thumbnail_of_pixels(images.load(rows)[0], self.side))
        return ""

    def _record(self, position: int) -> Record:
        """The record of an image embedding; positions are not rows of the split where images could not be read."""
        return self.split.records[self.encoded.rows[position]]


def _section(name: str, title: str, articles: list[str]) -> str:
    subtitle = f"the {len(articles)} worst" if articles else "every query has a correct item first"
    return f'<section id="{name}"><h2>{title}: {subtitle}</h2>\n{"".join(articles)}</section>\n'


def _rank_line(failure: Failure, gallery: int) -> str:
    rank = f"best correct item at rank <b>{failure.rank + 1}</b> of {gallery}"
    return f"<p><small>{rank}, {failure.margin:.3f} below the first</small></p>"


def _score(score: float, correct: bool) -> str:
    return f'<span class="score">{score:.3f}{" ✓" if correct else ""}</span>'


def _class(correct: bool) -> str:
    return ' class="correct"' if correct else ""


def _recalls(metrics: Mapping[str, float]) -> str:
    names: Sequence[str] = [name for name in RECALL_METRICS if name in metrics]
    head = "".join(f"<th>{name.replace('_r', ' R@')}</th>" for name in names)
    row = "".join(f"<td>{metrics[name]:.1f}</td>" for name in names)
    rsum = metrics["rsum"]
    return f'<div class="table"><table><tr>{head}<th>rsum</th></tr><tr>{row}<td>{rsum:.1f}</td></tr></table></div>'
