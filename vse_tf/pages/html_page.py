"""What the written pages share: one file that needs nothing beside it and obeys nothing it shows."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from vse_tf.pages.thumbnails import data_uri

# Nothing is loaded and nothing runs, whatever captions and file names hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, style: str, body: str) -> str:
    """A whole page.

    Args:
        title: as text; it is escaped.
        style: its style sheet.
        body: its contents as HTML.
    """
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n{body}</html>\n"
    )


def picture(name: str, jpeg: Callable[[], bytes]) -> str:
    """A picture with its file inside, or an empty place where it cannot be read.

    Args:
        name: what it is called; it is escaped.
        jpeg: gives the file; it may raise OSError or ValueError.
    """
    try:
        return f'<img alt="{text(name)}" src="{data_uri(jpeg())}">'
    except (OSError, ValueError):
        return '<div class="none">no picture</div>'


def text(value: str) -> str:
    """Text as HTML; half a surrogate pair becomes a question mark."""
    return escape(value.encode("utf-8", "replace").decode())
