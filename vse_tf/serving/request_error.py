"""Why a request gets no answer, with the HTTP status that says so. No TensorFlow is imported here."""

from __future__ import annotations


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        message: what is wrong, with the input, key or model concerned; sent as `{"error": message}`.
        status: the HTTP status: 400 for anything wrong in the request or raised by the graph, 404 for an unknown
            model or version, 413 for a body above the limit.

    Example:
        >>> RequestError("Missing 'inputs' or 'instances' key").status
        400
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
