"""The worst queries of a split to look at: what came first in place of the right answer, as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vse_tf.data.features import CachedFeatures
from vse_tf.data.records import FileImages, Split
from vse_tf.evaluation.metrics import RECALL_METRICS
from vse_tf.evaluation.neighbours import nearest
from vse_tf.evaluation.ranking import ranks
from vse_tf.pages import html_page
from vse_tf.pages.thumbnails import thumbnail, thumbnail_of_pixels

if TYPE_CHECKING:
    from vse_tf.embedder import EncodedSplit

SHOWN = 5
_STYLE = """
:root { color-scheme: light dark; --text: #222; --quiet: #61616a; --back: #fff; --card: #f4f4f6; --line: #d5d5dc;
  --right: #08701f; }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --quiet: #a5a5b0; --back: #181818; --card: #242429;
  --line: #47474f; --right: #6fd98a; } }
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
.words { font-size: 1.1rem; }
ol { margin: 0; padding: 0; list-style: none; } li { padding: .15rem 0; }
.photos { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: .5rem; }
.own, .own .score { color: var(--right); font-weight: 600; } .own img, .own .none { outline: 3px solid var(--right); }
@media (max-width: 40rem) {
  body { padding: .5rem; } .query { grid-template-columns: 1fr; } .photos { grid-template-columns: repeat(2, 1fr); }
}
"""


@dataclass(frozen=True)
class Failure:
    """A query whose right answer did not come first.

    Args:
        query: its row among the queries.
        rank: how many wrong answers score at least as high as the best right one.
        margin: how far the best right one lies below the first, not negative.
        right: the gallery row of the best right one.
        score: its similarity.
        rows: the gallery rows that came first, best first.
        scores: their similarities.
    """

    query: int
    rank: int
    margin: float
    right: int
    score: float
    rows: tuple[int, ...]
    scores: tuple[float, ...]


def worst(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    rank: NDArray[np.int64],
    own: Callable[[int], NDArray[np.int64]],
    count: int,
    shown: int = SHOWN,
) -> list[Failure]:
    """The queries with the highest rank, worst first; of equal ranks those that lost by more, then the first rows.

    Args:
        query: embeddings `(q, d)`, float32.
        gallery: embeddings `(N, d)`, float32.
        rank: 0-based rank of each query's best right answer (see `vse_tf.evaluation.ranking.ranks`); queries at 0 and
            below are no failures.
        own: the gallery rows that are right for a query.
        count: most failures to give.
        shown: gallery items to list for each.
    """
    ordered = np.sort(rank[rank > 0])
    if not ordered.size or count < 1:
        return []
    # All that tie with the last one to be shown take part in the choice by margin.
    tied = np.flatnonzero(rank >= ordered[-min(count, ordered.size)])
    first = nearest(query[tied], gallery, 1)[1][:, 0]
    candidates = []
    for row, top in zip(tied.tolist(), first.tolist(), strict=True):
        rows = own(row)
        # Scored as the ranks are, so that what ties there ties here.
        best, score = nearest(query[row][None], gallery[rows], 1)
        similarity = float(score[0, 0])
        candidates.append(Failure(row, int(rank[row]), top - similarity, int(rows[best[0, 0]]), similarity, (), ()))
    chosen = sorted(candidates, key=lambda one: (-one.rank, -one.margin, one.query))[:count]
    rows, scores = nearest(query[[one.query for one in chosen]], gallery, shown)
    return [
        replace(one, rows=tuple(near.tolist()), scores=tuple(near_scores.tolist()))
        for one, near, near_scores in zip(chosen, rows, scores, strict=True)
    ]


def failures(encoded: EncodedSplit, count: int) -> tuple[list[Failure], list[Failure]]:
    """The worst images (answered by captions) and the worst captions (answered by images) of a split.

    Args:
        encoded: its embeddings.
        count: most failures of each direction.

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
    """Lay out a split's worst queries as a page that needs nothing beside it.

    Args:
        run: what the run is called.
        split: the split that was encoded.
        encoded: its embeddings.
        metrics: its recalls.
        max_pixels: image files whose header announces more are not opened.
        count: most queries of each direction.
        side: the longer side of a picture in pixels.

    Returns:
        HTML; an image that cannot be shown leaves its place empty, precomputed features show the image's name.

    Raises:
        NonFiniteError: an embedding is not finite.

    Example:
        >>> Path("errors.html").write_text(error_page("runs/a", split, encoded, metrics, 10**8), encoding="utf-8")
    """
    of_images, of_captions = failures(encoded, count)
    show = _Show(split, encoded, max_pixels, side)
    images, captions = len(encoded.image), len(encoded.text)
    title = f"Errors of {run} on {split.name}"
    body = [
        f"<h1>{html_page.text(title)}</h1>\n{_recalls(metrics)}\n",
        f"<p>{images} images, {captions} captions; ranks are those among all of them. Jump to "
        '<a href="#i2t">image to text</a> or <a href="#t2i">text to image</a>.</p>\n',
        _section("i2t", "Image to text", len(of_images), *(show.image_query(one, captions) for one in of_images)),
        _section("t2i", "Text to image", len(of_captions), *(show.caption_query(one, images) for one in of_captions)),
    ]
    return html_page.page(title, _STYLE, "".join(body))


class _Show:
    """Failures as HTML.

    Args:
        split: the split that was encoded.
        encoded: its embeddings.
        max_pixels: larger image files are not opened.
        side: the longer side of a picture.
    """

    def __init__(self, split: Split, encoded: EncodedSplit, max_pixels: int, side: int) -> None:
        self.split = split
        self.encoded = encoded
        self.max_pixels = max_pixels
        self.side = side
        self.captions = [caption for row in encoded.rows for caption in split.records[row].captions]

    def image_query(self, failure: Failure, gallery: int) -> str:
        rows = self.encoded.image_id
        answers = "".join(
            self._caption(row, score, bool(rows[row] == failure.query))
            for row, score in zip(failure.rows, failure.scores, strict=True)
        )
        right = self._caption(failure.right, failure.score, True)
        return (
            f'<article><div class="query">{self._figure(failure.query)}<div>{_lost(failure, gallery)}'
            f"<h3>Came first</h3><ol>{answers}</ol><h3>Best right caption</h3><ol>{right}</ol></div></div></article>\n"
        )

    def caption_query(self, failure: Failure, gallery: int) -> str:
        answers = "".join(
            f"<li{_own(row == failure.right)}>{self._figure(row, score, row == failure.right)}</li>"
            for row, score in zip(failure.rows, failure.scores, strict=True)
        )
        right = f"<li{_own(True)}>{self._figure(failure.right, failure.score, True)}</li>"
        return (
            f'<article><p class="words" dir="auto">{html_page.text(self.captions[failure.query])}</p>'
            f'{_lost(failure, gallery)}<h3>Came first, and the right image</h3><ol class="photos">{answers}{right}</ol>'
            "</article>\n"
        )

    def _caption(self, row: int, score: float, own: bool) -> str:
        words = html_page.text(self.captions[row])
        return f'<li{_own(own)} dir="auto"><span class="score">{_score(score, own)}</span> {words}</li>'

    def _figure(self, position: int, score: float | None = None, own: bool = False) -> str:
        record = self.split.records[self.encoded.rows[position]]
        name = html_page.text(Path(record.image).name)
        told = "" if score is None else f'<span class="score">{_score(score, own)}</span><br>'
        return f"<figure>{self._picture(position)}<figcaption>{told}<bdi>{name}</bdi></figcaption></figure>"

    def _picture(self, position: int) -> str:
        row = int(self.encoded.rows[position])
        image, images = self.split.records[row].image, self.split.images
        name = Path(image).name
        if isinstance(images, (FileImages, CachedFeatures)):  # kept features are those of files
            return html_page.picture(name, lambda: thumbnail(Path(image), self.side, self.max_pixels))
        if images.kind == "pixels":
            return html_page.picture(name, lambda: thumbnail_of_pixels(images.load(np.array([row]))[0], self.side))
        return ""


def _section(name: str, title: str, count: int, *articles: str) -> str:
    told = f"the {count} worst" if count else "every query has its right answer first"
    return f'<section id="{name}"><h2>{title}: {told}</h2>\n{"".join(articles)}</section>\n'


def _lost(failure: Failure, gallery: int) -> str:
    return (
        f"<p><small>right answer at rank <b>{failure.rank + 1}</b> of {gallery}, {failure.margin:.3f} below the first"
        "</small></p>"
    )


def _score(score: float, own: bool) -> str:
    return f"{score:.3f}{' ✓' if own else ''}"


def _own(own: bool) -> str:
    return ' class="own"' if own else ""


def _recalls(metrics: Mapping[str, float]) -> str:
    names: Sequence[str] = [name for name in RECALL_METRICS if name in metrics]
    head = "".join(f"<th>{name.replace('_r', ' R@')}</th>" for name in names)
    row = "".join(f"<td>{metrics[name]:.1f}</td>" for name in names)
    rsum = metrics["rsum"]
    return f'<div class="table"><table><tr>{head}<th>rsum</th></tr><tr>{row}<td>{rsum:.1f}</td></tr></table></div>'
