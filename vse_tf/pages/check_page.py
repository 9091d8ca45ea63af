"""The page of a data check: counts, problems, copies and unlikely captions, with their pictures inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vse_tf.data.records import EncodedImages
from vse_tf.evaluation.data_check import DataCheck
from vse_tf.pages import html_page
from vse_tf.pages.style import STYLE
from vse_tf.pages.thumbnails import thumbnail_of_contents, thumbnail_of_pixels

_SIDE = 256


def check_page(found: DataCheck, max_pixels: int, count: int = 50) -> str:
    """Show the results of a check on a self-contained HTML page.

    Args:
        found: the results.
        max_pixels: image files whose header announces more pixels are not opened.
        count: maximum number of pairs and captions of each kind.

    Returns:
        HTML, with a placeholder for an image that cannot be shown.
    """
    pictures = _Pictures(found, max_pixels)
    title = f"Check of the {found.collection.source} data"
    body = [f"<h1>{html_page.text(title)}</h1>\n", _counts(found), _problems(found)]
    pairs = [
        _pair(pictures, pair.splits, pair.rows, f"{pair.similarity:.3f}{', mirrored' if pair.mirrored else ''}")
        for pair in found.copies[:count]
    ]
    body.append(_section("Near-duplicates in different splits", len(found.copies), pairs))
    if found.unlikely is not None:
        cards = [
            f'<article><div class="query">{pictures.figure(one.split, one.row)}<div>'
            f'<p class="caption" dir="auto">{html_page.text(one.caption)}</p><p><small>{one.nearer} of '
            f"{one.images - 1} other images are nearer to it</small></p></div></div></article>\n"
            for one in found.unlikely[:count]
        ]
        body.append(_section("Captions unlike their own image", len(found.unlikely), cards))
    return html_page.page(title, STYLE, "".join(body))


class _Pictures:
    def __init__(self, found: DataCheck, max_pixels: int) -> None:
        self.found, self.max_pixels = found, max_pixels

    def figure(self, split: str, row: int) -> str:
        images = self.found.collection.splits[split].images
        name = self.found.name(split, row)
        picture = ""
        if isinstance(images, EncodedImages):
            picture = html_page.picture(name, lambda: thumbnail_of_contents(images.read(row), _SIDE, self.max_pixels))
        elif images.kind == "pixels":
            pixels = images.load(np.array([row]))[0]
            picture = html_page.picture(name, lambda: thumbnail_of_pixels(pixels, _SIDE))
        label = f"{html_page.text(split)}: <bdi>{html_page.text(name)}</bdi>"
        return f"<figure>{picture}<figcaption>{label}</figcaption></figure>"


def _counts(found: DataCheck) -> str:
    rows = []
    for name, each in found.statistics.splits.items():
        rows.append(
            [
                name,
                f"{each.images:,}",
                f"{each.captions:,}",
                f"{each.per_image[0]} / {each.per_image[1]:g} / {each.per_image[2]}",
                f"{each.words[0]} / {each.words[1]:g} / {each.words[3]}",
                f"{each.unknown:.1f} %",
                " ".join(word for word, _ in each.unknown_words),
                str(each.shared_captions),
            ]
        )
    head = ["split", "images", "captions", "captions per image", "words per caption", "unknown words"]
    head += ["the most frequent", "captions in other splits too"]
    known = found.statistics
    return (
        html_page.table(head, rows)
        + "<p><small>Smallest / median / largest. The vocabulary has the "
        + f"{known.vocabulary:,} words that are {known.min_count} times or more in train.</small></p>\n"
    )


def _problems(found: DataCheck) -> str:
    rows = [[kind, str(count), found.statistics.examples[kind]] for kind, count in found.statistics.problems.items()]
    parts = ["<h2>Problems</h2>\n", html_page.table(["kind", "number", "the first"], rows) if rows else "<p>None.</p>"]
    equal = [[", ".join(f"{split}: {Path(path).name}" for split, path in group)] for group in found.equal]
    if equal:
        parts += [f"<h2>Equal files in different splits: {len(equal)}</h2>\n", html_page.table(["files"], equal[:50])]
    parts += [f"<p>{html_page.text(note)}</p>\n" for note in found.collection.notes]
    return "".join(parts)


def _pair(pictures: _Pictures, splits: Sequence[str], rows: Sequence[int], what: str) -> str:
    figures = "".join(f"<li>{pictures.figure(split, row)}</li>" for split, row in zip(splits, rows, strict=True))
    return f'<article><p><small>correlation {what}</small></p><ol class="images">{figures}</ol></article>\n'


def _section(title: str, number: int, cards: list[str]) -> str:
    shown = f", the first {len(cards)}" if len(cards) < number else ""
    return f"<section><h2>{title}: {number}{shown}</h2>\n{''.join(cards)}</section>\n"
