"""What one request may cost, and all of them together. No TensorFlow is imported here.

A request of a few MB can ask for many GB: a million empty strings, or images whose headers announce 50 million pixels
in 60 KB. What is asked for is estimated before it is made: refused where it is too much for one request, and otherwise
waits until it fits next to the requests that are being worked on.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from vse_tf.preprocessing.image_headers import read_header
from vse_tf.serving.request_error import RequestError

# Rows: the captions of COCO's 5,000 test images, one each, fit. Every row is computed.
MAX_INPUTS = 8192
# Encoding an image costs a hundred times a caption; 1,024 inputs are what the serving kit's batching allows too.
MAX_IMAGES = 1024
# Five images of the most that `export` lets in; decoding takes some 10 ns per pixel.
MAX_PIXELS = 250_000_000
# The vectors of MAX_INPUTS inputs of 1,024 dimensions.
MAX_ANSWER_BYTES = 128 * 2**20
# Bytes that all requests being worked on may take, by estimate. The process stays below 1 GB more than when idle.
MEMORY = 700_000_000
# What took less leaves nothing behind that is worth giving back.
LARGE = 64_000_000
# What Python and NumPy hold for each of these bytes of JSON, at most (measured: benchmarks/amplification.py), …
_STRUCTURE = {b",": 45, b"[": 100, b"{": 100, b'"': 30, b":": 60}
# … and for each byte of text: plain ASCII, or in characters of four bytes each.
_PLAIN, _WIDE = 3, 12
# Bytes for each pixel of the largest image, decoded and resized; for each row of a slice, what the layers of a network
# take (of images: a ResNet's at 224 x 224; ten make a slice); for each row, its vector and the vector's text.
_OF_PIXEL, _OF_ANSWER = 10, 16_000
_OF_ROW, _ROWS = 1_000_000, 64
_OF_IMAGE, _IMAGES = 16_000_000, 10


class Budget:
    """Memory that requests share: who asks for more than is free waits, in the order of arrival.

    Args:
        total: bytes.

    Attributes:
        large: how often `LARGE` bytes and more have been held.

    Example:
        >>> budget = Budget()
        >>> with budget.hold(json_cost(b'{"instances": ["a dog"]}')):
        ...     text = "work that takes memory"
    """

    def __init__(self, total: int = MEMORY) -> None:
        self.large = 0
        self._total = total
        self._free = total
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextlib.contextmanager
    def hold(self, cost: int) -> Iterator[None]:
        """Hold a number of bytes, at most the total.

        Not to be nested: two who hold some and wait for more would wait for each other.
        """
        cost, ticket = min(cost, self._total), object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= cost)
            self._waiting.popleft()
            self._free -= cost
            self.large += cost >= LARGE
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += cost
                self._changed.notify_all()


def json_cost(body: bytes) -> int:
    """Bytes that a body's JSON and the arrays made of it take at most, by the number of its values.

    Raises:
        RequestError: 413, more than `MEMORY`.

    Example:
        >>> json_cost(b'{"instances": ["a dog"]}')
        452
    """
    values = sum(body.count(part) * each for part, each in _STRUCTURE.items())
    if values > MEMORY:
        raise RequestError(
            f"The request's JSON would take {values / 1e6:.0f} MB in memory, the limit is {MEMORY / 1e6:.0f} MB; send "
            "fewer values in a request",
            413,
        )
    wide = not body.isascii() or b"\\u" in body
    return values + len(body) * (_WIDE if wide else _PLAIN)


def check_count(count: int) -> None:
    """Refuse a request of too many inputs.

    Raises:
        RequestError: 413, more than `MAX_INPUTS`.
    """
    if count > MAX_INPUTS:
        raise RequestError(f"The request has {count} inputs, the limit is {MAX_INPUTS}; send them in several", 413)


def work_cost(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes that computing these inputs takes, roughly.

    Args:
        arrays: by name; strings as object arrays of bytes.

    Raises:
        RequestError: 413, too many images, or too many pixels in them together.

    Example:
        >>> work_cost({"text": np.array([b"a dog"], object)})
        1016010
    """
    rows = max((len(array) if array.ndim else 1 for array in arrays.values()), default=1)
    images = sum(len(array) for array in arrays.values() if array.ndim == 4)
    largest = total = size = 0
    for array in arrays.values():
        if array.dtype != object:
            size += array.nbytes
            continue
        sizes = [_pixels(value) for value in array.reshape(-1)]
        images += sum(each > 0 for each in sizes)
        largest = max([largest, *sizes])
        # An image that is too large by itself is left to the model: it refuses that one, by its number, undecoded.
        total += sum(each for each in sizes if each <= MAX_PIXELS)
        size += sum(map(len, array.reshape(-1)))
    if images > MAX_IMAGES:
        raise RequestError(f"The request has {images} images, the limit is {MAX_IMAGES}; send them in several", 413)
    if total > MAX_PIXELS:
        raise RequestError(
            f"The headers of the request's {images} images announce {total} pixels together, the limit is "
            f"{MAX_PIXELS}; send them in several requests",
            413,
        )
    layers = min(rows, _ROWS) * _OF_ROW + min(images, _IMAGES) * _OF_IMAGE
    return 2 * size + largest * _OF_PIXEL + layers + rows * _OF_ANSWER


def joined(parts: Iterable[bytes]) -> bytes:
    """An answer of its parts.

    Raises:
        RequestError: 413, more than `MAX_ANSWER_BYTES`.
    """
    result = bytearray()
    for part in parts:
        result += part
        if len(result) > MAX_ANSWER_BYTES:
            raise RequestError(
                f"The answer has more than the limit of {MAX_ANSWER_BYTES} bytes; send fewer inputs in a request", 413
            )
    return bytes(result)


def give_back() -> None:
    """Return freed memory to the system, where the C library can: glibc keeps what threads have freed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _pixels(value: bytes) -> int:
    """Pixels that an image's header announces; 0 where it is none, or one that will not be decoded."""
    try:
        return read_header(value).pixels
    except ValueError:
        return 0
