"""The hits of a search: as an HTML page with embedded pictures, or as one picture for several queries."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vse_tf.files import read_regular
from vse_tf.indexing.search import Hit
from vse_tf.pages import html_page
from vse_tf.pages.pictures import captions_to_images
from vse_tf.pages.thumbnails import thumbnail, thumbnail_of_contents
from vse_tf.preprocessing.image_limits import MAX_BYTES

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


Contents = Callable[[Hit], bytes]


def contents_of(hit: Hit) -> bytes:
    """The contents of a hit's image file; of an image in a shard, `Index.contents` has them."""
    return read_regular(str(hit.path), MAX_BYTES)


def contact_sheet(
    title: str,
    hits: Sequence[Hit],
    side: int = 256,
    contents: Contents = contents_of,
    image: Path | None = None,
) -> str:
    """Show the hits of a query on a self-contained HTML page.

    Args:
        title: what was searched for.
        hits: best first.
        side: longer side of a picture in pixels.
        contents: returns the contents of a hit's image file; it may raise OSError or ValueError. For an index from
            somebody else it should refuse the files that `Index.contents` refuses.
        image: path of the image that was searched for.

    Returns:
        HTML, with a placeholder for an image that cannot be shown.

    Example:
        >>> from vse_tf.artifacts.index import Item
        >>> hits = [Hit(1, 17, 0.412, Item("18", caption="a dog runs"))]
        >>> "a dog runs" in contact_sheet("two dogs in the snow", hits)
        True
    """
    picture = "" if image is None else html_page.picture("query", lambda: thumbnail(image, side))
    cells = "".join(f"<li>{_cell(hit, side, contents)}</li>\n" for hit in hits)
    return html_page.page(title, _STYLE, f"<h1>{picture} {html_page.text(title)}</h1>\n<ol>\n{cells}</ol>\n")


def hits_picture(
    results: Sequence[tuple[str, Sequence[Hit]]],
    suffix: str = ".png",
    side: int = 160,
    contents: Contents = contents_of,
) -> bytes:
    """Show several queries, each with its hits below it, best first, in one picture.

    Args:
        results: the text of each query and its hits; a hit without an image is a grey square.
        suffix: `.jpg` or `.jpeg` for a JPEG file, anything else for a PNG file.
        side: longer side of an image in pixels.
        contents: see `contact_sheet`.

    Returns:
        Contents of the picture file.

    Example:
        >>> hits_picture([("two dogs in the snow", [])])[:4]
        b'\\x89PNG'
    """
    rows = [(query, [(_pixels(hit, side, contents), hit.score, False) for hit in hits]) for query, hits in results]
    buffer = io.BytesIO()
    file_format = "JPEG" if suffix.lower() in (".jpg", ".jpeg") else "PNG"
    Image.fromarray(captions_to_images(rows)).save(buffer, file_format, optimize=True, quality=85)
    return buffer.getvalue()


def _pixels(hit: Hit, side: int, contents: Contents) -> np.ndarray:
    with contextlib.suppress(OSError, ValueError):
        if hit.path is not None:
            return np.asarray(Image.open(io.BytesIO(thumbnail_of_contents(contents(hit), side))))
    return np.full([1, 1, 3], 200, np.uint8)


def _cell(hit: Hit, side: int, contents: Contents) -> str:
    label = hit.item.caption if hit.path is None else hit.item.id
    picture = ""
    if hit.path is not None:
        picture = html_page.picture(hit.item.id, lambda: thumbnail_of_contents(contents(hit), side))
    relevance = "" if hit.relevance is None else f" · {hit.relevance:.0%}"
    return f"{picture}{html_page.text(label or '')}<br><small>{hit.rank} · {hit.score:.3f}{relevance}</small>"
