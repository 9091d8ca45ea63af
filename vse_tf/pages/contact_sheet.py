"""The answers of a search to look at: one HTML file with the pictures inside, or one picture of several queries."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np
from PIL import Image

from vse_tf.indexing.search import Hit
from vse_tf.pages import html_page
from vse_tf.pages.pictures import captions_to_images
from vse_tf.pages.thumbnails import thumbnail

_STYLE = """
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem; color: #222; background: #fff; }
h1 { font-size: 1.2rem; } h1 img { max-height: 6rem; vertical-align: middle; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; list-style: none;
  padding: 0; }
li { border: 1px solid #ddd; border-radius: 6px; padding: .5rem; overflow-wrap: anywhere; }
li img, .none { display: block; width: 100%; height: 11rem; object-fit: contain; background: #f4f4f4; }
.none { line-height: 11rem; text-align: center; color: #666; } small { color: #666; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; } li { border-color: #444; }
  li img, .none { background: #222; } small, .none { color: #aaa; } }
"""


Photo = Callable[[Hit], Path]


def contact_sheet(query: str | Path, answers: Sequence[Hit], side: int = 256, photo: Photo = attrgetter("path")) -> str:
    """Lay out answers as a page that needs nothing beside it.

    Args:
        query: the words, or the path of the photo that was searched by.
        answers: best first.
        side: the longer side of a picture in pixels.
        photo: the file to open for an answer; it may raise OSError or ValueError. For an index from elsewhere this is
            `Index.photo`.

    Returns:
        HTML; a photo that cannot be shown leaves its place empty.

    Example:
        >>> Path("out.html").write_text(contact_sheet("two dogs in the snow", answers), encoding="utf-8")
    """
    title = query.name if isinstance(query, Path) else query
    picture = html_page.picture("query", lambda: thumbnail(query, side)) if isinstance(query, Path) else ""
    cells = "".join(f"<li>{_answer(answer, side, photo)}</li>\n" for answer in answers)
    return html_page.page(title, _STYLE, f"<h1>{picture} {html_page.text(title)}</h1>\n<ol>\n{cells}</ol>\n")


def answers_picture(
    found: Sequence[tuple[str, Sequence[Hit]]],
    suffix: str = ".png",
    side: int = 160,
    photo: Photo = attrgetter("path"),
) -> bytes:
    """Queries, each with the photos that answer it below, best first, as one picture.

    Args:
        found: the words of each query and its answers; an answer without a photo leaves its place empty.
        suffix: `.jpg` or `.jpeg` gives a JPEG, anything else a PNG.
        side: the longer side of a photo in pixels.
        photo: as for `contact_sheet`.

    Returns:
        The picture file's bytes.

    Example:
        >>> Path("answers.png").write_bytes(answers_picture([("two dogs in the snow", answers)]))
    """
    rows = [(words, [(_pixels(hit, side, photo), hit.score, False) for hit in hits]) for words, hits in found]
    buffer = io.BytesIO()
    kind = "JPEG" if suffix.lower() in (".jpg", ".jpeg") else "PNG"
    Image.fromarray(captions_to_images(rows)).save(buffer, kind, optimize=True, quality=85)
    return buffer.getvalue()


def _pixels(hit: Hit, side: int, photo: Photo) -> np.ndarray:
    with contextlib.suppress(OSError, ValueError):
        if hit.path is not None:
            return np.asarray(Image.open(io.BytesIO(thumbnail(photo(hit), side))))
    return np.full([1, 1, 3], 200, np.uint8)


def _answer(answer: Hit, side: int, photo: Photo) -> str:
    what = answer.item.caption if answer.path is None else answer.item.id
    picture = "" if answer.path is None else html_page.picture(answer.item.id, lambda: thumbnail(photo(answer), side))
    return f"{picture}{html_page.text(what or '')}<br><small>{answer.rank} · {answer.score:.3f}</small>"
