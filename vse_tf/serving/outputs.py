"""Arrays to an answer's JSON, by TensorFlow Serving's rules. No HTTP and no TensorFlow is imported here."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vse_tf.serving.cost import joined
from vse_tf.serving.inputs import Format
from vse_tf.serving.request_error import RequestError

# Strings of outputs with such a name are sent as base64.
BYTES_SUFFIX = "_bytes"
# Number of values that are converted at a time.
PART = 2**16
_SERVING_NAMES = {"float16": "half"}
_WRITABLE = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "float64"}


def write_outputs(outputs: Mapping[str, np.ndarray], form: Format) -> bytes:
    """The answer to a predict request.

    Args:
        outputs: the signature's outputs by name; strings as object arrays of bytes.
        form: the format of the request: `instances` gives `predictions`, one entry per item; `inputs` gives `outputs`,
            one tensor per output.

    Returns:
        JSON in UTF-8. A single output is written without its name, several as objects.

    Raises:
        RequestError: a type that JSON cannot represent (float16), `instances` with outputs that have no common batch,
            or an answer above the limit.

    Example:
        >>> write_outputs({"embedding": np.ones([1, 2], np.float32)}, "instances")
        b'{"predictions": [[1.0, 1.0]]}'
    """
    parts = _tensors(outputs) if form == "inputs" else _predictions(outputs)
    # A string output that is not UTF-8 is sent unchanged.
    return joined(part.encode("utf-8", "surrogateescape") for part in parts)


def _tensors(outputs: Mapping[str, np.ndarray]) -> Iterator[str]:
    yield '{"outputs": '
    for number, (name, array) in enumerate(outputs.items()):
        yield ("{", ", ")[number > 0] + f"{json.dumps(name)}: " if len(outputs) > 1 else ""
        if array.ndim:
            yield from _rows({name: array}, len(array))
        else:
            yield _dumps(_values(name, array[None])[0])
    yield "}}" if len(outputs) > 1 else "}"


def _predictions(outputs: Mapping[str, np.ndarray]) -> Iterator[str]:
    sizes: dict[str, int] = {}
    for name, array in outputs.items():
        if not array.ndim:
            raise RequestError(f"Tensor name: {name} has no shape information")
        sizes[name] = len(array)
        expected = next(iter(sizes.values()))
        if len(array) != expected:
            raise RequestError(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {expected}")
    yield '{"predictions": '
    yield from _rows(outputs, next(iter(sizes.values()), 0))
    yield "}"


def _rows(outputs: Mapping[str, np.ndarray], count: int) -> Iterator[str]:
    """A list of the rows of outputs with a common batch, in parts: all values at once would be many GB."""
    largest = max((math.prod(array.shape[1:]) for array in outputs.values()), default=1)
    step = max(1, PART // max(1, largest))
    yield "["
    # Once for an empty batch too: its type may be one that JSON does not have.
    for start in range(0, max(1, count), step):
        columns = [_values(name, array[start : start + step]) for name, array in outputs.items()]
        rows = columns[0]
        if len(columns) > 1:
            rows = [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]
        yield ", " * (start > 0) + _dumps(rows)[1:-1]
    yield "]"


def _values(name: str, array: np.ndarray) -> list[Any]:
    """An array as nested lists of JSON values."""
    kind = array.dtype.name
    if kind == "object":
        write = _base64 if name.endswith(BYTES_SUFFIX) else _text
        return np.frompyfunc(write, 1, 1)(array).tolist()
    if kind == "float32":
        return _nine_digits(array).tolist()
    if kind in _WRITABLE:
        return array.tolist()
    raise RequestError(f"Failed to write JSON value of {name} for tensor type: {_SERVING_NAMES.get(kind, kind)}")


def _nine_digits(array: np.ndarray) -> np.ndarray:
    """float32 as the float64 of nine digits, which identify it: unrounded, its JSON would be twice as long."""
    texts = ("%.9g " * array.size % tuple(array.reshape(-1).tolist())).split()
    return np.array(list(map(float, texts)), np.float64).reshape(array.shape)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
