#!/usr/bin/env python3
"""Embed images and texts and search a gallery over TensorFlow Serving's REST API.

One file, nothing but Python's standard library (3.10 or newer): copy it to where it is needed.

    >>> client = Client("http://127.0.0.1:8501")
    >>> client.embed_texts(["a dog in the snow"])         # [[0.021, -0.043, …]]
    >>> client.embed_images(["dog.jpg", open("cat.png", "rb").read()])
    >>> client.search_text("two dogs playing", top=5)     # [Hit(id='1007.jpg', score=0.41, caption='Two dogs …'), …]

    $ python client.py --url http://127.0.0.1:8501 search "two dogs playing"

Embeddings have unit length. The dot product of two is their score: the cosine, or that corrected for hubs where the
model was trained with `model.hubness_correction`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import random
import re
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, urlsplit

Image = str | Path | bytes

# Nothing was computed. Not 504: the server is still at work on the request, and would be on another one.
RETRIED = frozenset({429, 502, 503})
LONGEST_PAUSE = 30.0


class ServingError(Exception):
    """A request that got no useful answer."""


class BadRequestError(ServingError):
    """The server refused the request (400): the message is the server's. `item` is the number of the input at fault."""

    def __init__(self, message: str, item: int | None = None) -> None:
        super().__init__(message if item is None else f"item {item}: {message}")
        self.reason = message
        self.item = item


class NotFoundError(ServingError):
    """There is no such model, version or address (404)."""


class TooLargeError(ServingError):
    """The request is larger than the server or the proxy before it allows (413)."""


class UnavailableError(ServingError):
    """Nobody answers, or the server is too busy, after all retries."""


class TimedOutError(ServingError):
    """No answer in time, from the server or from the proxy before it (504). Not tried again: the server may still be at
    work on it."""


class BadAnswerError(ServingError):
    """An answer that is none: not JSON, not of the expected form, or an error of the server's own (5xx)."""


class Hit(NamedTuple):
    """One item of the gallery that was found.

    The relevance is the share of ordinary queries that find something worse, from 0 to 1; below 0.15 the item is not a
    relevant result. It is None where the gallery is not calibrated for such queries, as in exports of earlier versions.
    """

    id: str
    score: float
    caption: str
    relevance: float | None = None


class Client:
    """Speaks to a TensorFlow Serving REST API that serves the exported models. Any number of threads may share it.

    Args:
        url: where the server is, such as `http://127.0.0.1:8501`; a path before `/v1` is allowed.
        timeout: seconds to wait for a connection and for every part of an answer.
        retries: how often a request is tried again when nobody listens, the connection breaks or the server is busy.
        pause: seconds before the first retry; every further one waits twice as long, all with some chance.
        batch: inputs in one request at most.
        max_request_bytes: bytes of images in one request at most; keep it below the proxy's limit.
        version: ask for this version instead of the newest.
        label: ask for the version with this label instead.
        image_model, text_model, retrieval_model: names of the models.
        headers: sent with every request, for a proxy that asks for a token.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8501",
        *,
        timeout: float = 30.0,
        retries: int = 4,
        pause: float = 0.25,
        batch: int = 32,
        max_request_bytes: int = 16 * 2**20,
        version: int | None = None,
        label: str | None = None,
        image_model: str = "image_tower",
        text_model: str = "text_tower",
        retrieval_model: str = "retrieval",
        headers: dict[str, str] | None = None,
    ) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url: {url} is no http(s) address")
        if version is not None and label is not None:
            raise ValueError("give a version or a label, not both")
        self.url = url
        self.timeout = timeout
        self.retries = retries
        self.pause = pause
        self.batch = batch
        self.max_request_bytes = max_request_bytes
        self.image_model = image_model
        self.text_model = text_model
        self.retrieval_model = retrieval_model
        self.headers = dict(headers or {})
        self._parts = parts
        self._which = f"/versions/{version}" if version is not None else f"/labels/{quote(label)}" if label else ""
        self._local = threading.local()

    def embed_texts(self, texts: Sequence[str]) -> list[list[float]]:
        """A unit vector for each text, in order.

        Raises:
            ServingError: see its subclasses.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one string; pass a list of strings")
        rows = self._embed(self.text_model, "text", texts, str, False)
        return [row for row in rows if row is not None]

    def embed_images(self, images: Sequence[Image], skip_bad: bool = False) -> list[list[float] | None]:
        """A unit vector for each image, in order.

        Args:
            images: paths or the bytes of JPEG, PNG, GIF, BMP or WebP files.
            skip_bad: give None for images that the server cannot decode instead of raising.

        Raises:
            BadRequestError: an image cannot be decoded; `item` says which.
            OSError: a file cannot be read.
            ServingError: see its subclasses.
        """
        if isinstance(images, (str, bytes, Path)):
            raise TypeError("images is one image; pass a list")
        return self._embed(self.image_model, "image_bytes", images, lambda each: _encoded(_contents(each)), skip_bad)

    def search_text(self, text: str, top: int | None = None) -> list[Hit]:
        """The gallery's items nearest to a text, best first.

        Args:
            text: what to look for.
            top: how many (default: as many as were exported).
        """
        return self._search("serving_default", {"text": [text]}, top)

    def search_image(self, image: Image, top: int | None = None) -> list[Hit]:
        """The gallery's items nearest to an image, best first."""
        return self._search("search_image", {"image_bytes": [_encoded(_contents(image))]}, top)

    def search_mixed(
        self, text: str = "", image: Image | None = None, without: str = "", top: int | None = None
    ) -> list[Hit]:
        """The gallery's items nearest to a text and an image together, less what is excluded, best first.

        Args:
            text: what to look for, or
            image: an image to look for, or both.
            without: a text for what the items shall not show.
            top: how many (default: as many as were exported).
        """
        if not text and image is None:
            raise ValueError("give a text, an image or both to search for")
        contents = b"" if image is None else _contents(image)
        inputs = {"text": [text], "image_bytes": [_encoded(contents)], "without": [without]}
        return self._search("search_mixed", inputs, top)

    def status(self, model: str) -> dict[int, str]:
        """State of each of a model's versions: `AVAILABLE` answers requests."""
        answer = self.request("GET", f"/v1/models/{quote(model, safe='')}")
        try:
            return {int(each["version"]): str(each["state"]) for each in answer["model_version_status"]}
        except (KeyError, TypeError, ValueError):
            raise BadAnswerError(f"{self.url}: not the status of a model: {_short(answer)}") from None

    def wait(self, model: str, seconds: float = 60.0) -> None:
        """Wait until a model answers.

        Raises:
            UnavailableError: it does not in that time.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                if "AVAILABLE" in self.status(model).values():
                    return
                reason = "no version is available"
            except (UnavailableError, NotFoundError, TimedOutError) as error:
                reason = str(error)
            if time.monotonic() > end:
                raise UnavailableError(f"{model} does not answer after {seconds:g} s: {reason}")
            time.sleep(min(0.5, self.pause))

    def predict(self, model: str, inputs: dict[str, Any], signature: str = "serving_default") -> Any:
        """Run a signature on columns.

        Args:
            model: its name.
            inputs: a list for each input; bytes as `{"b64": …}`.
            signature: the signature.

        Returns:
            The output, or a dictionary of several.
        """
        path = f"/v1/models/{quote(model, safe='')}{self._which}:predict"
        answer = self.request("POST", path, {"signature_name": signature, "inputs": inputs})
        if "outputs" not in answer:
            raise BadAnswerError(f"{self.url}: an answer without outputs: {_short(answer)}")
        return answer["outputs"]

    def request(self, method: str, path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request, again where that helps, and return the JSON object of the answer."""
        body = None if document is None else json.dumps(document).encode()
        for attempt in range(self.retries + 1):
            wait = None
            try:
                status, reason, wait, data = self._send(method, path, body)
            except TimeoutError:
                raise TimedOutError(f"{self.url}: no answer within {self.timeout:g} s") from None
            except ssl.SSLCertVerificationError as error:
                raise UnavailableError(f"{self.url}: {error}") from None
            except (OSError, http.client.HTTPException) as error:
                problem = f"{self.url}: {str(error) or type(error).__name__}"
                if isinstance(error, (BrokenPipeError, ConnectionResetError)) and body:
                    problem += f"; it may not take a request of {len(body)} bytes"
            else:
                if status not in RETRIED:
                    return self._read(status, reason, data)
                problem = self._problem(status, reason, data)
            if attempt < self.retries:
                # Chance keeps clients that failed together from coming back together.
                pause = self.pause * 2**attempt * random.uniform(0.5, 1.0)
                time.sleep(min(LONGEST_PAUSE, max(pause, wait or 0.0)))
        raise UnavailableError(problem + (f" (tried {self.retries + 1} times)" if self.retries else ""))

    def close(self) -> None:
        """Close this thread's connection."""
        connection = self._local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, str, float | None, bytes]:
        """One exchange over this thread's connection; an idle one that the server has closed is reopened."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self.headers}
        while True:
            idle = getattr(self._local, "connection", None)
            connection = idle or self._connection()
            try:
                try:
                    connection.request(method, self._parts.path.rstrip("/") + path, body, headers)
                except (BrokenPipeError, ConnectionResetError):
                    # Closed while sending: the server may have said why (413) before.
                    if idle is None:
                        response = connection.getresponse()
                    else:
                        raise
                else:
                    response = connection.getresponse()
                data = response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                connection.close()
                if idle is None:
                    raise
                continue
            except BaseException:
                self.close()
                connection.close()
                raise
            if response.will_close:
                self.close()
                connection.close()
            else:
                self._local.connection = connection
            return response.status, response.reason, _seconds(response.getheader("Retry-After")), data

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self.timeout)
        return http.client.HTTPConnection(host, port, timeout=self.timeout)

    def _read(self, status: int, reason: str, data: bytes) -> dict[str, Any]:
        if status == 200:
            try:
                answer = json.loads(data)
            except ValueError:
                answer = None
            if isinstance(answer, dict):
                return answer
            raise BadAnswerError(f"{self.url}: not the answer of a model server: {_words(data) or 'a page'}")
        if status == 400:
            raise BadRequestError(_words(data) or reason)
        kind = {404: NotFoundError, 413: TooLargeError, 504: TimedOutError}.get(status, BadAnswerError)
        raise kind(self._problem(status, reason, data))

    def _problem(self, status: int, reason: str, data: bytes) -> str:
        return ": ".join(part for part in (self.url, f"{status} {reason}".rstrip(), _words(data)) if part)

    def _embed(
        self, model: str, name: str, items: Sequence[Any], encode: Callable[[Any], Any], skip_bad: bool
    ) -> list[list[float] | None]:
        rows: list[list[float] | None] = []
        for start, values in self._batches(items, encode):
            rows += self._rows(model, name, start, values, skip_bad)
        return rows

    def _batches(self, items: Sequence[Any], encode: Callable[[Any], Any]) -> Iterator[tuple[int, list[Any]]]:
        """As many inputs together as a request may hold, and the number of the first; files are read in their turn."""
        values: list[Any] = []
        size = start = 0
        for number, item in enumerate(items):
            value = encode(item)
            length = len(value["b64"]) if isinstance(value, dict) else len(value)
            if values and (len(values) == self.batch or size + length > self.max_request_bytes):
                yield start, values
                values, size, start = [], 0, number
            values.append(value)
            size += length
        if values:
            yield start, values

    def _rows(self, model: str, name: str, start: int, values: list[Any], skip_bad: bool) -> list[list[float] | None]:
        """Vectors of one batch. One bad input fails its batch: halving finds it."""
        try:
            rows = self.predict(model, {name: values})
        except BadRequestError as error:
            if len(values) > 1:
                middle = len(values) // 2
                first = self._rows(model, name, start, values[:middle], skip_bad)
                return first + self._rows(model, name, start + middle, values[middle:], skip_bad)
            if skip_bad:
                return [None]
            raise BadRequestError(error.reason, start) from None
        if isinstance(rows, dict):
            rows = rows.get("embedding")
        if not isinstance(rows, list) or len(rows) != len(values):
            raise BadAnswerError(f"{self.url}: {len(values)} inputs, but not as many vectors: {_short(rows)}")
        return rows

    def _search(self, signature: str, inputs: dict[str, Any], top: int | None) -> list[Hit]:
        found = self.predict(self.retrieval_model, inputs, signature)
        try:
            columns = (found["ids"][0], found["scores"][0], found["captions"][0])
            relevance = found["relevance"][0] if "relevance" in found else [None] * len(columns[0])
            hits = [
                Hit(str(item), float(score), str(caption), None if known is None else float(known))
                for item, score, caption, known in zip(*columns, relevance, strict=True)
            ]
        except (KeyError, IndexError, TypeError, ValueError):
            raise BadAnswerError(f"{self.url}: not the answer of a retrieval model: {_short(found)}") from None
        return hits[:top]


def _contents(image: Image) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _encoded(contents: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(contents).decode("ascii")}


def _words(data: bytes) -> str:
    """What an answer says: the server's error, or the beginning of a text, but nothing of a page in HTML."""
    try:
        return " ".join(str(json.loads(data)["error"]).split())
    except (ValueError, KeyError, TypeError):
        return "" if re.search(rb"<[!?/a-zA-Z]", data) else _short(data)


def _short(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def _seconds(retry_after: str | None) -> float | None:
    try:
        return float(retry_after or "")
    except ValueError:
        return None


def main(argv: list[str] | None = None) -> None:
    """The command line: a JSON line for every result."""
    parser = argparse.ArgumentParser(description="Embed and search over TensorFlow Serving's REST API.")
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="address of the server (%(default)s)")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for an answer (%(default)s)")
    parser.add_argument("--retries", type=int, default=4, help="tries after the first one (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="inputs in one request (%(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, help="ask this version of the model")
    which.add_argument("--label", help="ask the version with this label")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("status", help="states of the models' versions")
    command.add_argument(
        "models", nargs="*", metavar="MODEL", help="names of models (image_tower, text_tower, and retrieval if there)"
    )
    command.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="wait until the models answer")
    command = commands.add_parser("text", help="embed texts")
    command.add_argument("texts", nargs="+", metavar="TEXT", help="a text; - reads one per line")
    command = commands.add_parser("image", help="embed image files")
    command.add_argument("images", nargs="+", metavar="FILE")
    command = commands.add_parser("compare", help="score of an image with each of some texts")
    command.add_argument("image", metavar="FILE")
    command.add_argument("texts", nargs="+", metavar="TEXT")
    command = commands.add_parser("search", help="find the gallery's items nearest to a text, an image or both")
    command.add_argument("text", nargs="?", metavar="TEXT")
    command.add_argument("--image", metavar="FILE", help="look for an image, or for it and the text together")
    command.add_argument("--without", default="", metavar="TEXT", help="what the items shall not show")
    command.add_argument("--top", type=int, help="how many")
    arguments = parser.parse_args(argv)
    if arguments.command == "search" and not (arguments.text or arguments.image):
        parser.error("search: give a text, --image FILE or both")
    try:
        client = Client(
            arguments.url,
            timeout=arguments.timeout,
            retries=arguments.retries,
            batch=arguments.batch,
            version=arguments.version,
            label=arguments.label,
        )
        for line in _lines(client, arguments):
            print(json.dumps(line, ensure_ascii=False))
    except (ServingError, OSError, ValueError) as error:
        _fail(" ".join(str(error).split()))


def _lines(client: Client, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if arguments.command == "status":
        for model in arguments.models or [client.image_model, client.text_model]:
            if arguments.wait:
                client.wait(model, arguments.wait)
            yield {"model": model, "versions": client.status(model)}
        if not arguments.models:
            # An export without --gallery has none.
            with contextlib.suppress(NotFoundError):
                yield {"model": client.retrieval_model, "versions": client.status(client.retrieval_model)}
    elif arguments.command == "text":
        given = (sys.stdin if text == "-" else [text] for text in arguments.texts)
        texts = [line.rstrip("\r\n") for lines in given for line in lines]
        for text, row in zip(texts, client.embed_texts(texts), strict=True):
            yield {"text": text, "embedding": row}
    elif arguments.command == "image":
        for name, vector in zip(arguments.images, client.embed_images(arguments.images), strict=True):
            yield {"image": name, "embedding": vector}
    elif arguments.command == "compare":
        (image,) = client.embed_images([arguments.image])
        for text, row in zip(arguments.texts, client.embed_texts(arguments.texts), strict=True):
            yield {"text": text, "score": sum(a * b for a, b in zip(image or [], row, strict=True))}
    else:
        for hit in _found(client, arguments):
            yield {key: value for key, value in hit._asdict().items() if value is not None}


def _found(client: Client, arguments: argparse.Namespace) -> list[Hit]:
    text, image, top = arguments.text or "", arguments.image, arguments.top
    if arguments.without or (text and image):
        return client.search_mixed(text, image, arguments.without, top)
    return client.search_image(image, top) if image else client.search_text(text, top)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
