"""Arrays to an answer's JSON, by TensorFlow Serving's rules. No HTTP and no TensorFlow is imported here."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from vse_tf.serving.cost import joined
from vse_tf.serving.request_error import RequestError
from vse_tf.serving.tensors_in import Format

# Strings of outputs with such a name leave as base64.
BYTES_SUFFIX = "_bytes"
# Values whose texts are made at a time.
PART = 2**16
_SERVINGS_NAMES = {"float16": "half", "float32": "float", "float64": "double", "object": "string"}
_WRITABLE = {"int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"}


def write_outputs(outputs: Mapping[str, np.ndarray], form: Format) -> bytes:
    """The answer to a predict request.

    Args:
        outputs: the signature's outputs by name; strings as object arrays of bytes.
        form: the format of the request: `instances` gives `predictions`, an entry an item; `inputs` gives `outputs`, a
            tensor an output.

    Returns:
        JSON in UTF-8. One output comes bare, several as objects.

    Raises:
        RequestError: a type that JSON has no room for (float16), `instances` with outputs that have no common batch, or
            an answer above the limit.

    Example:
        >>> write_outputs({"embedding": np.ones([1, 2], np.float32)}, "instances")
        b'{"predictions": [[1.0, 1.0]]}'
    """
    return joined(part.encode("utf-8", "surrogateescape") for part in _parts(outputs, form))


def _parts(outputs: Mapping[str, np.ndarray], form: Format) -> Iterator[str]:
    # A string output that is no UTF-8 leaves as the bytes it is.
    if form == "inputs":
        yield '{"outputs": '
        for number, (name, array) in enumerate(outputs.items()):
            yield ("{", ", ")[number > 0] + f"{json.dumps(name)}: " if len(outputs) > 1 else ""
            if array.ndim:
                yield from _listed(len(array), {name: array})
            else:
                yield _nested(_texts(name, array), ())
        yield "}}" if len(outputs) > 1 else "}"
        return
    sizes: dict[str, int] = {}
    for name, array in outputs.items():
        if not array.ndim:
            raise RequestError(f"Tensor name: {name} has no shape information ")
        expected = next(iter(sizes.values()), len(array))
        if len(array) != expected:
            raise RequestError(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {expected}")
        sizes[name] = len(array)
    yield '{"predictions": '
    yield from _listed(next(iter(sizes.values()), 0), outputs)
    yield "}"


def _listed(count: int, outputs: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A list of the rows of outputs with a common batch, in parts: all texts of numbers at once would be many GB."""
    largest = max((math.prod(array.shape[1:]) for array in outputs.values()), default=1)
    step = max(1, PART // max(1, largest))
    yield "["
    for start in range(0, max(1, count), step):
        columns = {name: array[start : start + step] for name, array in outputs.items()}
        texts = {name: _rows(_texts(name, array), array.shape) for name, array in columns.items()}
        if len(texts) == 1:
            rows = next(iter(texts.values()))
        else:
            rows = [_object(dict(zip(texts, row, strict=True))) for row in zip(*texts.values(), strict=True)]
        yield ", " * (start > 0) + ", ".join(rows)
    yield "]"


def _object(parts: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in parts.items()) + "}"


def _rows(texts: list[str], shape: tuple[int, ...]) -> list[str]:
    size = math.prod(shape[1:])
    return [_nested(texts[row * size : (row + 1) * size], shape[1:]) for row in range(shape[0])]


def _nested(texts: list[str], shape: tuple[int, ...]) -> str:
    """Texts of all values as nested lists of the given shape."""
    for axis in reversed(range(len(shape))):
        values = iter(texts)
        texts = [f"[{', '.join(islice(values, shape[axis]))}]" for _ in range(math.prod(shape[:axis]))]
    return texts[0]


def _texts(name: str, array: np.ndarray) -> list[str]:
    values = array.reshape(-1)
    kind = array.dtype.name
    if kind == "object":
        return [_string(value, name.endswith(BYTES_SUFFIX)) for value in values]
    if kind == "float32":
        return _singles(values)
    if kind == "float64":
        return [_special(text) for text in map(repr, values.tolist())]
    if kind == "bool":
        return ["true" if value else "false" for value in values]
    if kind in _WRITABLE:
        return [str(value) for value in values.tolist()]
    raise RequestError(f"Failed to write JSON value for tensor type: {_SERVINGS_NAMES.get(kind, kind)}")


def _string(value: bytes, encode: bool) -> str:
    if encode:
        return f'{{"b64": "{base64.b64encode(value).decode()}"}}'
    return json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)


def _singles(values: np.ndarray) -> list[str]:
    """float32 as the server writes it: six digits where they are exact, else nine, always with a point or exponent."""
    numbers = values.tolist()
    texts = ("%.9g " * len(numbers) % tuple(numbers)).split()
    wide = values.astype(np.float64)
    with np.errstate(all="ignore"):
        scale = 10.0 ** (5 - np.floor(np.log10(np.abs(wide))))
        short = (np.rint(wide * scale) / scale).astype(np.float32) == values
    for at in np.flatnonzero(short):
        text = f"{numbers[at]:.6g}"
        if np.float32(text) == values[at]:
            texts[at] = text
    return [text if "." in text or "e" in text else _special(text) for text in texts]


def _special(text: str) -> str:
    """A number without a point gets one; what is none gets its JSON name."""
    named = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
    return named if named[-1].isalpha() or "." in named or "e" in named else f"{named}.0"
