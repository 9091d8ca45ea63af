"""The search page and the gallery behind it: routes next to TensorFlow Serving's. No TensorFlow is imported here."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from werkzeug.wrappers import Request, Response

from vse_tf.artifacts import manifest
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_paths import OutsideError
from vse_tf.artifacts.versions import versions
from vse_tf.errors import UserError, shell_path
from vse_tf.evaluation.similarity import NonFiniteError
from vse_tf.indexing.compact_search import default_search
from vse_tf.indexing.relevance import MIN_RELEVANCE, relevance
from vse_tf.models.mixing import Part, mix
from vse_tf.pages.thumbnails import thumbnail_of_contents

PAGE = Path(__file__).parent / "page"
MAX_BODY_BYTES = 2**20
MAX_ANSWERS = 1000
MAX_PARTS = 10
CAPTION_CHARACTERS = 10_000
# Pixels of the longer side of the pictures that the page shows, by the address that they are at, and how many of them
# are kept in memory.
SIDES = {"thumbnails": 320, "images": 1600}
KEPT = {"thumbnails": 1024, "images": 32}
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
_FILES = {"/": "index.html", "/page/page.css": "page.css", "/page/page.js": "page.js"}
# Nothing from elsewhere is loaded and nothing foreign runs, whatever captions and file names hold.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def check_towers(index: Index, models: Path, names: Sequence[str] = ("text_tower", "image_tower")) -> None:
    """Refuse towers whose vectors are not of the index's space.

    Args:
        index: the index.
        models: folder of the served models; those without a manifest of an export are taken as they are.
        names: the towers.

    Raises:
        UserError: the newest version of a tower is of another model than the index.
    """
    for name in names:
        newest = models / name / str(max(versions(models / name), default=0))
        if (newest / manifest.MANIFEST).is_file() and manifest.read(newest).get("id") != index.model.get("id"):
            raise UserError(
                f"--gallery: {index.folder} was not made by {newest}; make it with these models: "
                f"python -m vse_tf.embed --models {shell_path(models)}"
            )


def page_route(request: Request) -> Response | None:
    """The page's files.

    Args:
        request: the request.

    Returns:
        The file; None for any other path.
    """
    name = _FILES.get(request.path)
    if name is None or request.method not in ("GET", "HEAD"):
        return None
    return Response((PAGE / name).read_bytes(), content_type=_TYPES[Path(name).suffix], headers=_HEADERS)


class GalleryRoute:
    """What the page asks about an index: how large it is, what is nearest to a vector or a row, small pictures.

    `GET /gallery` gives kind, count and dim, and which models embed texts and images.
    `POST /gallery/nearest` takes `{"vector": [...]}`, `{"row": 7}` or `{"parts": [...]}` with several of these, and
    `"k"`, and gives `{"items": [{"row", "id", "caption", "path", "score", "relevance"}]}`, best first, the relevance
    null where it is not known; asked by row it gives the row's own item as `query`. A part may have a `weight`, which
    is negative for what is excluded (`mix`), `"of": "images"` marks the vector of an image, and `"known": false`
    that of a text without a word of the vocabulary.
    `GET /gallery/thumbnails/7` is a small JPEG of the image of row 7, where it may be opened (`ImageRoot`), and
    `GET /gallery/images/7` a large one.

    Args:
        index: the index.
        text_model: name of the served model that embeds texts.
        image_model: name of the served model that embeds images.
        full_paths: give the full paths of images that may be opened, to a user at this machine.
        min_relevance: below it, the page reports that there is no relevant result.

    Example:
        make_app(api, limit, routes=[page_route, GalleryRoute(Index.open("images.index"))])
    """

    def __init__(
        self,
        index: Index,
        text_model: str = "text_tower",
        image_model: str = "image_tower",
        full_paths: bool = False,
        min_relevance: float = MIN_RELEVANCE,
    ) -> None:
        self.index = index
        self.text_model = text_model
        self.image_model = image_model
        self.full_paths = full_paths
        self.min_relevance = min_relevance
        self._search = default_search(index)
        self._pictures = {kind: lru_cache(maxsize=size)(partial(self._make, kind)) for kind, size in KEPT.items()}
        self._one_at_a_time = threading.Lock()

    def __call__(self, request: Request) -> Response | None:
        """Answer a request below `/gallery`; None for any other path."""
        if request.path == "/gallery" and request.method == "GET":
            return _json(self._facts())
        if request.path == "/gallery/nearest" and request.method == "POST":
            return self._nearest(request)
        found = re.fullmatch(r"/gallery/(thumbnails|images)/([0-9]{1,18})", request.path)
        if found and request.method == "GET":
            return self._picture(found[1], int(found[2]))
        return None

    def _facts(self) -> dict[str, Any]:
        models = {"text": self.text_model, "image": self.image_model}
        facts = {"kind": self.index.kind, "count": self.index.count, "dim": self.index.model_dim}
        return {**facts, "min_relevance": self.min_relevance, "models": models}

    def _nearest(self, request: Request) -> Response:
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return _refusal(f"the body is above the limit of {MAX_BODY_BYTES} bytes", 413)
        try:
            asked = _question(request.get_data(cache=False))
            parts = asked.get("parts", [asked])
            query = mix([self._part(part) for part in parts], self.index.kind, self.index.plain_dim)
            rows, scores = self._search(query.vector[None], asked.get("k", 10))
            own = next((self.index.item(part["row"]) for part in parts if "row" in part), None)
            known = relevance(self.index.calibration, query, scores[0])
            shares = [None] * len(rows[0]) if known is None else known.tolist()
            # One item at a time: each may be large, and only a part of it is sent.
            items = [
                {"row": int(row), **self._described(self.index.item(row)), "score": float(score), "relevance": value}
                for row, score, value in zip(rows[0], scores[0], shares, strict=True)
            ]
        except (ValueError, IndexError, RecursionError, OverflowError) as error:
            return _refusal(str(error), 400)
        except UserError:
            return _refusal("the index has changed on the disk; start the server again", 409)
        return _json({"items": items, **({"query": self._described(own)} if own else {})})

    def _described(self, item: Item) -> dict[str, Any]:
        described = {"id": item.id}
        if item.caption is not None:
            described["caption"] = _shortened(item.caption)
        if self.full_paths and item.path is not None:
            with contextlib.suppress(OSError, ValueError):
                described["path"] = str(self.index.image(item))
        return described

    def _part(self, asked: dict[str, Any]) -> Part:
        weight = float(asked.get("weight", 1))
        if "row" in asked:
            return Part(self.index.gather([asked["row"]])[0], self.index.kind, weight)
        vector = np.array(asked["vector"], np.float64)
        if vector.shape != (self.index.model_dim,):
            raise ValueError(f"vector has shape {vector.shape}; the gallery's have ({self.index.model_dim},)")
        with np.errstate(over="ignore"):
            length = float(np.linalg.norm(vector))
        if not 0 < length < np.inf:
            raise NonFiniteError("query", 0, "has no direction" if length == 0 else "is not finite")
        unit = self.index.fitted((vector / length).astype(np.float32)[None])[0]
        return Part(unit, asked.get("of", "captions"), weight, asked.get("known", True))

    def _picture(self, kind: str, row: int) -> Response:
        try:
            jpeg = self._pictures[kind](row)
        except OutsideError as error:
            return _refusal(f"no picture of that row: {error.filename}: {error.strerror}", 404)
        except (OSError, ValueError, IndexError, UserError):
            return _refusal("no picture of that row", 404)
        return Response(jpeg, content_type="image/jpeg", headers={**_HEADERS, "Cache-Control": "max-age=300"})

    def _make(self, kind: str, row: int) -> bytes:
        # Decoded, an image takes a hundred times its file.
        with self._one_at_a_time:
            return thumbnail_of_contents(self.index.contents(self.index.item(row)), SIDES[kind])


def _question(body: bytes) -> dict[str, Any]:
    """The JSON of a question.

    Raises:
        ValueError: it is none.
    """
    asked = json.loads(body)
    if not isinstance(asked, dict) or sum(key in asked for key in ("vector", "row", "parts")) != 1:
        raise ValueError("give an object with one of vector, row and parts")
    if type(asked.get("k", 10)) is not int or not 1 <= asked.get("k", 10) <= MAX_ANSWERS:
        raise ValueError(f"k is not an integer in 1 to {MAX_ANSWERS}")
    parts = asked.get("parts", [asked])
    if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
        raise ValueError(f"parts is not a list of 1 to {MAX_PARTS} objects")
    for part in parts:
        _check_part(part)
    return asked


def _check_part(part: object) -> None:
    if not isinstance(part, dict) or ("vector" in part) == ("row" in part):
        raise ValueError("a part is no object with either vector or row")
    if type(part.get("row", 0)) is not int:
        raise ValueError("row is not an integer")
    if not 0 <= part.get("row", 0) < 2**63:
        raise ValueError("there is no such row")
    if "vector" in part and not (
        isinstance(part["vector"], list) and all(type(value) in (int, float) for value in part["vector"])
    ):
        raise ValueError("vector is not a list of numbers")
    if type(part.get("weight", 1)) not in (int, float):
        raise ValueError("weight is not a number")
    if part.get("of", "captions") not in ("images", "captions"):
        raise ValueError("of is neither images nor captions")
    if type(part.get("known", True)) is not bool:
        raise ValueError("known is neither true nor false")


def _shortened(caption: str) -> str:
    return caption if len(caption) <= CAPTION_CHARACTERS else f"{caption[:CAPTION_CHARACTERS]}…"


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, content_type="application/json", headers=_HEADERS)


def _refusal(message: str, status: int) -> Response:
    return _json({"error": message}, status)
