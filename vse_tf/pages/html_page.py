"""Common parts of the HTML pages: a self-contained file in which no text from captions or file names is interpreted."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape

# The browser loads nothing and runs nothing, whatever captions and file names contain.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, style: str, body: str) -> str:
    """An HTML document.

    Args:
        title: plain text, which is escaped here.
        style: CSS.
        body: HTML.
    """
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n{body}</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], escaped: bool = False) -> str:
    """A table with the names of its rows in the first column.

    Args:
        head: names of the columns, which are escaped here.
        rows: cells, which are escaped here unless they are HTML.
        escaped: the cells are HTML.
    """
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    shown = [list(row) if escaped else [text(cell) for cell in row] for row in rows]
    lines = [f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, *cells in shown]
    return f'<div class="table"><table><tr>{top}</tr>{"".join(lines)}</table></div>\n'


def picture(name: str, jpeg: Callable[[], bytes]) -> str:
    """An `<img>` that embeds its file, or a placeholder where the file cannot be made.

    Args:
        name: alternative text, which is escaped here.
        jpeg: returns the contents of a JPEG file; it may raise OSError or ValueError.
    """
    try:
        return f'<img alt="{text(name)}" src="data:image/jpeg;base64,{b64encode(jpeg()).decode()}">'
    except (OSError, ValueError):
        return '<div class="none">no picture</div>'


def text(value: str) -> str:
    """Plain text as HTML; lone surrogates become question marks."""
    return escape(value.encode("utf-8", "replace").decode())
