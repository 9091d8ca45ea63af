"""A predict request's JSON to arrays, by TensorFlow Serving's rules. No HTTP and no TensorFlow is imported here."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from itertools import chain
from reprlib import repr as shortened
from typing import Any, Literal

import numpy as np

from vse_tf.serving.cost import check_count
from vse_tf.serving.request_error import RequestError

Format = Literal["instances", "inputs"]
Arrays = dict[str, np.ndarray]

# The smallest and largest integer that TensorFlow Serving accepts. Types of less than 32 bits take any value of 32 bits
# and drop the upper ones.
_INT32 = (-(2**31), 2**31 - 1)
_INTEGERS = {
    "int8": _INT32,
    "uint8": _INT32,
    "int16": _INT32,
    "int32": _INT32,
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
# NumPy's type, and the largest integer below which all are exact
_FLOATS: dict[str, tuple[type[np.floating[Any]], int]] = {
    "float": (np.float32, 2**24 - 1),
    "double": (np.float64, 2**53 - 1),
}
_TYPES = {"string", "bool", *_INTEGERS, *_FLOATS}
_MAX_LEVELS = 32


def parse(body: bytes) -> dict[str, Any]:
    """Parse a request's JSON object.

    Like TensorFlow Serving, it accepts NaN and Infinity, strings that are not UTF-8, and anything after the object.

    Args:
        body: the request's body.

    Raises:
        RequestError: not JSON, or not an object.

    Example:
        >>> parse(b'{"instances": ["a"]} and more')
        {'instances': ['a']}
    """
    try:
        text, errors = body.decode(), "strict"
    except UnicodeDecodeError:
        text, errors = body.decode("utf-8", "surrogateescape"), "surrogateescape"
    try:
        value, _ = json.JSONDecoder().raw_decode(text.removeprefix("\ufeff").lstrip(" \t\r\n"))
    except json.JSONDecodeError as error:
        raise RequestError(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except RecursionError:
        raise RequestError("JSON Parse error: Values are nested too deeply.") from None
    except ValueError:
        # Python's own limit on the digits of an integer
        raise RequestError("JSON Parse error: Number too big to be stored in double.") from None
    if (b"\\ud" in body or b"\\uD" in body) and _has_lone_surrogate(value, errors):
        raise RequestError("JSON Parse error: The surrogate pair in string is invalid.")
    if not isinstance(value, dict):
        raise RequestError(f"JSON Value: {shortened(value)} is not an object")
    return value


def signature_name(document: dict[str, Any]) -> str:
    """The signature that a request asks for; `serving_default` by default.

    Raises:
        RequestError: it is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise RequestError(f"'signature_name' must be a string, not {shortened(name)}")
    return name or "serving_default"


def read_inputs(document: dict[str, Any], inputs: Mapping[str, str]) -> tuple[Arrays, Format]:
    """Convert a predict request to tensors.

    Args:
        document: the request's JSON object.
        inputs: type of each of the signature's inputs by name, as Serving calls it: `string`, `float`, `int32`, …

    Returns:
        An array for each input (strings as an object array of bytes), and the format that the answer has to have.

    Raises:
        RequestError: neither or both of `instances` and `inputs`, a wrong name, type or shape, broken base64, or too
            many inputs.

    Example:
        >>> read_inputs({"instances": ["a", "b"]}, {"text": "string"})
        ({'text': array([b'a', b'b'], dtype=object)}, 'instances')
    """
    if "instances" in document and "inputs" in document:
        raise RequestError("Expecting only one of the keys 'inputs' and 'instances'")
    if "instances" in document:
        return _from_instances(document["instances"], inputs), "instances"
    if "inputs" in document:
        return _from_inputs(document["inputs"], inputs), "inputs"
    raise RequestError("Missing 'inputs' or 'instances' key")


def _from_instances(items: object, inputs: Mapping[str, str]) -> Arrays:
    if not isinstance(items, list) or not items:
        raise RequestError(f"'instances' must be a list with at least one item, not {shortened(items)}")
    check_count(len(items))
    if not isinstance(items[0], dict) and len(inputs) > 1:
        raise RequestError(f"'instances' must be a list of objects with the keys {_names(inputs)}")
    named = _names_inputs(items[0])
    for number, item in enumerate(items):
        if _names_inputs(item) != named:
            expected, got = ("an object", "a value") if named else ("a value", "an object")
            raise RequestError(f"Item {number} of 'instances' is {got}, where item 0 is {expected}")
        if named and item.keys() != inputs.keys():
            raise RequestError(
                f"Item {number} of 'instances' has the keys {shortened(list(item))}; they must be {_names(inputs)}"
            )
    if not named:
        name = min(inputs)
        return {name: _array(items, inputs[name], f"'instances', input {name}")}
    return {
        name: _array([item[name] for item in items], kind, f"'instances', input {name}")
        for name, kind in inputs.items()
    }


def _from_inputs(value: Any, inputs: Mapping[str, str]) -> Arrays:
    if not _names_inputs(value):
        if len(inputs) > 1:
            raise RequestError(f"'inputs' must be an object with the keys {_names(inputs)}")
        value = {min(inputs): value}
    for name in sorted(inputs):
        if name not in value:
            raise RequestError(f"Missing named input: {name} in 'inputs' object.")
        check_count(len(value[name]) if isinstance(value[name], list) else 1)
    return {name: _array(value[name], kind, f"'inputs', input {name}", 501) for name, kind in inputs.items()}


def _names(inputs: Mapping[str, str]) -> str:
    return ", ".join(sorted(inputs))


def _is_base64(value: object) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _names_inputs(value: object) -> bool:
    """Whether it is an object whose keys are inputs, and not bytes in base64."""
    return isinstance(value, dict) and not _is_base64(value)


def _array(value: Any, kind: str, where: str, unsupported: int = 400) -> np.ndarray:
    """Convert nested lists, level by level instead of value by value.

    Args:
        value: a value or nested lists of values.
        kind: the tensor's type.
        where: key and input, for the error message.
        unsupported: HTTP status where the type has no form in JSON.
    """
    if kind not in _TYPES:
        raise RequestError(f"{where}: JSON values cannot be converted to type: {kind}", unsupported)
    shape = _shape(value)
    level = [value]
    for size in shape:
        for number, each in enumerate(level):
            if not isinstance(each, list) or len(each) != size:
                at = _position(number, len(level), shape)
                raise RequestError(f"{where}{at}: expected a list of size {size}, not {shortened(each)}")
        level = list(chain.from_iterable(level))
    flat = _convert(level, kind)
    if flat is None:
        number = _first_misfit(level, kind)
        at = _position(number, len(level), shape)
        form = " (text, or bytes in base64)" if kind == "string" else ""
        raise RequestError(f"{where}{at}: {shortened(level[number])} is not of type {kind}{form}")
    return flat.reshape(shape)


def _shape(value: object) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        if len(shape) == _MAX_LEVELS:
            raise RequestError(f"Lists of more than {_MAX_LEVELS} levels are not a tensor")
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _position(number: int, count: int, shape: list[int]) -> str:
    """The item that holds value `number` of `count` values on one level."""
    return f", item {number * shape[0] // count}" if count > 1 else ""


def _first_misfit(values: list[Any], kind: str) -> int:
    """Index of the first value that cannot be converted; there is one."""
    start, end = 0, len(values)
    while end - start > 1:
        middle = (start + end) // 2
        if _convert(values[start:middle], kind) is None:
            end = middle
        else:
            start = middle
    return start


def _convert(values: list[Any], kind: str) -> np.ndarray | None:
    """Values as a flat array; None if one of them is of another type or out of range."""
    types = set(map(type, values))
    if kind == "string":
        return None if types - {str, dict} else _strings(values)
    if kind == "bool":
        return None if types - {bool} else np.array(values, np.bool_)
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        if types - {int} or (values and not low <= min(values) <= max(values) <= high):
            return None
        return np.array(values, np.uint64 if kind == "uint64" else np.int64).astype(kind)
    dtype, exact = _FLOATS[kind]
    if types - {int, float} or any(type(value) is int and abs(value) > exact for value in values):
        return None
    doubles = np.array(values, np.float64)
    too_large = np.isfinite(doubles) & (np.abs(doubles) > np.finfo(dtype).max)
    return None if too_large.any() else doubles.astype(dtype)


def _strings(values: list[Any]) -> np.ndarray | None:
    result = np.empty(len(values), object)
    try:
        # Bytes that were not UTF-8 in the request's body reach the graph unchanged.
        result[:] = [
            value.encode("utf-8", "surrogateescape") if isinstance(value, str) else _decode_base64(value)
            for value in values
        ]
    except ValueError:
        return None
    return result


def _decode_base64(value: dict[str, Any]) -> bytes:
    """Decode `{"b64": text}` in the standard alphabet, padded completely or not at all."""
    if not _is_base64(value):
        raise ValueError("not an object of the key b64")
    text = "".join(value["b64"].split())
    bare = text.rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    if text not in (bare, padded):
        raise ValueError("wrong padding")
    return base64.b64decode(padded, validate=True)


def _has_lone_surrogate(value: object, errors: str) -> bool:
    """Whether a string holds an escaped half of a surrogate pair, which no bytes stand for."""
    left = [value]
    try:
        while left:
            each = left.pop()
            if isinstance(each, str):
                each.encode("utf-8", errors)
            elif isinstance(each, list):
                left.extend(each)
            elif isinstance(each, dict):
                left.extend(chain(each, each.values()))
    except UnicodeEncodeError:
        return True
    return False
