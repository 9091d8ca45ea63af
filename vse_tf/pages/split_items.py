"""Images and captions of a split, as HTML."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vse_tf.data.features import CachedFeatures
from vse_tf.data.records import EncodedImages, Record, Split
from vse_tf.pages import html_page
from vse_tf.pages.thumbnails import thumbnail_of_contents, thumbnail_of_pixels
from vse_tf.plain_embedder import EncodedSplit


class SplitItems:
    """Makes the HTML of a split's images and captions.

    Args:
        split: the split that was encoded.
        encoded: embeddings of the split; positions are those of its rows.
        max_pixels: image files whose header announces more pixels are not opened.
        side: longer side of a picture in pixels.
    """

    def __init__(self, split: Split, encoded: EncodedSplit, max_pixels: int, side: int = 256) -> None:
        self.split = split
        self.encoded = encoded
        self.max_pixels = max_pixels
        self.side = side
        self.captions = [caption for row in encoded.rows for caption in split.records[row].captions]

    def caption(self, row: int, score: float, correct: bool) -> str:
        """A list item: a caption with its similarity, marked where it is correct."""
        caption = html_page.text(self.captions[row])
        return f'<li{mark(correct)} dir="auto">{_score(score, correct)} {caption}</li>'

    def image(self, position: int, score: float, correct: bool) -> str:
        """A list item: an image with its similarity, marked where it is correct."""
        return f"<li{mark(correct)}>{self.figure(position, score, correct)}</li>"

    def query(self, row: int) -> str:
        """A caption that is a query."""
        return f'<p class="caption" dir="auto">{html_page.text(self.captions[row])}</p>'

    def figure(self, position: int, score: float | None = None, correct: bool = False) -> str:
        """An image with its name below it; precomputed features are shown by name.

        Args:
            position: its position among the embeddings.
            score: similarity to show.
            correct: mark the score.
        """
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


def mark(correct: bool) -> str:
    """The class of a correct item."""
    return ' class="correct"' if correct else ""


def _score(score: float, correct: bool) -> str:
    return f'<span class="score">{score:.3f}{" ✓" if correct else ""}</span>'
