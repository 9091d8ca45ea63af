"""The HTTP server: WSGI by werkzeug, sockets by waitress. What is answered is decided in `rest`."""

from __future__ import annotations

import errno
import logging
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import waitress
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask
from werkzeug.wrappers import Request, Response

from vse_tf.errors import UserError
from vse_tf.serving.cost import give_back
from vse_tf.serving.request_error import RequestError
from vse_tf.serving.rest import Answer, RestApi, error_answer
from vse_tf.serving.same_origin import HEADERS, check_origin, own_names

Route = Callable[[Request], Response | None]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# A body above the limit is read to its end and then refused, so that the client hears why; what exceeds the limit by
# more than this is cut off.
OVERRUN = 64 * 2**20
_LOG = logging.getLogger(__name__)
_NOT_FOUND = """<HTML><HEAD>
<TITLE>404 Not Found</TITLE>
</HEAD><BODY>
<H1>Not Found</H1>
</BODY></HTML>
"""


def make_app(
    api: RestApi, max_body_bytes: int, routes: Sequence[Route] = (), names: Collection[str] | None = None
) -> WsgiApp:
    """The WSGI application.

    Args:
        api: answers everything below `/v1/`.
        max_body_bytes: larger bodies are refused, before and after inflating.
        routes: asked in their order about every other path; the first that returns a response gives it.
        names: the host names of this server (default: `same_origin.own_names()`); requests for others are refused.

    Example:
        status = werkzeug.test.Client(make_app(api, 2**20)).get("/v1/models/text_tower").status_code
    """
    names = own_names() if names is None else names

    @Request.application
    def application(request: Request) -> Response:
        large = api.budget.large
        response = answer(request)
        if api.budget.large != large:
            give_back()
        response.headers.update(HEADERS)
        return response

    def answer(request: Request) -> Response:
        # The path as it was sent: a server that unquotes it first cannot tell a model's name from its address.
        target = request.environ.get("REQUEST_URI", request.full_path)
        try:
            check_origin(request.environ, names)
            if api.is_ours(target):
                return _response(api.answer(request.method, target, _body(request, max_body_bytes)))
            for route in routes:
                response = route(request)
                if response is not None:
                    return response
            return Response(_NOT_FOUND, 404, mimetype="text/html")
        except RequestError as refusal:
            return _response(error_answer(refusal))
        except Exception:
            _LOG.exception("%s %s", request.method, target)
            return _response(error_answer(RequestError("Internal error; the server's log says more", 500)))

    return application


def make_server(app: WsgiApp, host: str, port: int, workers: int, max_body_bytes: int, timeout: float) -> Any:
    """A bound server; its `run()` serves until SystemExit or KeyboardInterrupt, `effective_port` is its port.

    Args:
        app: the application.
        host: address to bind.
        port: port to bind; 0 takes a free one.
        workers: requests worked on at once; those beyond wait in a queue.
        max_body_bytes: see `make_app`.
        timeout: seconds that a request may take to arrive, and that a connection may be idle.

    Raises:
        UserError: the address cannot be bound.
    """
    channel = type("Channel", (_Channel,), {"timeout": timeout, "error_task_class": _ErrorTask})
    seconds = max(1, round(timeout))
    try:
        server = waitress.create_server(
            app,
            host=host,
            port=port,
            threads=workers,
            max_request_body_size=max_body_bytes + OVERRUN,
            connection_limit=500,
            channel_timeout=seconds,
            cleanup_interval=min(30, seconds),
            ident="vse_tf",
            # select() ends at 1,024 file descriptors
            asyncore_use_poll=True,
        )
    except (OSError, ValueError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "something is listening there; choose another with --port" if taken else error
        raise UserError(f"--host and --port: cannot serve at {host}:{port}: {reason}") from None
    if not hasattr(server, "channel_class"):
        server.close()
        raise UserError(f"--host: {host} stands for several addresses; name one of them, such as 127.0.0.1")
    server.channel_class = channel
    # A full queue is no mishap here: requests wait for a worker.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    return server


class _Channel(HTTPChannel):
    """A connection on which a request has to arrive within a time, however slowly its bytes come."""

    timeout = 0.0
    _since: float | None = None

    def received(self, data: bytes) -> bool:
        now = time.monotonic()
        if self._since is not None and now - self._since > self.timeout:
            self.will_close = True
        begun = self.request
        result = super().received(data)
        # waitress takes empty lines for an empty request and begins anew: they are no request, so the clock runs on.
        empty = (begun is None or begun.empty) and not data.strip(b"\r\n")
        self._since = None if self.request is None and not empty else self._since or now
        return result


class _ErrorTask(ErrorTask):
    """What waitress itself answers to a request that it cannot read."""

    def execute(self) -> None:
        self.response_headers.extend(HEADERS.items())
        super().execute()


def _body(request: Request, limit: int) -> bytes:
    # waitress has counted the bytes of a chunked body too
    length = request.content_length or 0
    if length > limit:
        raise RequestError(f"The request's body has {length} bytes, the limit is {limit}", 413)
    body = request.get_data(cache=False)
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    return _inflated(body, limit) if "gzip" in coding else body


def _inflated(body: bytes, limit: int) -> bytes:
    parts, size = [], 0
    try:
        while body:
            stream = zlib.decompressobj(wbits=31)
            part = stream.decompress(body, limit - size + 1)
            size += len(part)
            if size > limit:
                raise RequestError(f"The request's body inflates to more than the limit of {limit} bytes", 413)
            if not stream.eof:
                raise RequestError("The request's gzip body ends too early")
            parts.append(part)
            body = stream.unused_data
    except zlib.error as error:
        raise RequestError(f"The request's gzip body cannot be inflated: {error}") from None
    return b"".join(parts)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, mimetype="application/json")
