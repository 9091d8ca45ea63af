"""A request's JSON to arrays, by TensorFlow Serving's rules. No HTTP and no TensorFlow is imported here."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Literal

import numpy as np

from vse_tf.serving.cost import check_count
from vse_tf.serving.json_text import shown
from vse_tf.serving.request_error import RequestError

Format = Literal["instances", "inputs"]
Arrays = dict[str, np.ndarray]

# Serving's names of the types that JSON can fill, with numpy's type and the bounds of what is let in. An integer of
# less than 32 bits may be anything that fits 32 and is cut off, as the server does it.
_INTEGERS: dict[str, tuple[type, int, int]] = {
    "int8": (np.int8, -(2**31), 2**31 - 1),
    "uint8": (np.uint8, -(2**31), 2**31 - 1),
    "int16": (np.int16, -(2**31), 2**31 - 1),
    "int32": (np.int32, -(2**31), 2**31 - 1),
    "int64": (np.int64, -(2**63), 2**63 - 1),
    "uint32": (np.uint32, 0, 2**32 - 1),
    "uint64": (np.uint64, 0, 2**64 - 1),
}
# numpy's type, the largest finite value, and the largest whole number that is held exactly
_DECIMALS: dict[str, tuple[type, float, int]] = {
    "float": (np.float32, float(np.finfo(np.float32).max), 2**24 - 1),
    "double": (np.float64, float(np.finfo(np.float64).max), 2**53 - 1),
}
_MOST_LEVELS = 32
_KINDS = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}


def signature_name(document: dict[str, Any]) -> str:
    """The signature that a request asks for; `serving_default` where it names none.

    Raises:
        RequestError: it is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise RequestError(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or "serving_default"


def read_inputs(document: dict[str, Any], inputs: Mapping[str, str]) -> tuple[Arrays, Format]:
    """The tensors of a predict request.

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
        raise RequestError(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        items = document["instances"]
        if not isinstance(items, list):
            raise RequestError(f"JSON Value: {shown(document)} Expecting 'instances' to be an list/array")
        if not items:
            raise RequestError(f"JSON Value: {shown(document)} No values in 'instances' array")
        check_count(len(items))
        return _from_instances(items, inputs), "instances"
    if "inputs" in document:
        return _from_inputs(document["inputs"], inputs), "inputs"
    raise RequestError("Missing 'inputs' or 'instances' key")


def _from_instances(items: list[Any], inputs: Mapping[str, str]) -> Arrays:
    if not isinstance(items[0], dict) and len(inputs) > 1:
        raise RequestError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named = _is_object(items[0])
    if all(_is_object(item) == named for item in items):
        if not named:
            name = min(inputs)
            array = _array(items, inputs[name])
            if array is not None:
                return {name: array}
        elif all(item.keys() == inputs.keys() for item in items):
            arrays = {name: _array([item[name] for item in items], kind) for name, kind in inputs.items()}
            if all(array is not None for array in arrays.values()):
                return {name: array for name, array in arrays.items() if array is not None}
    raise _reason_in_instances(items, inputs, named)


def _from_inputs(value: Any, inputs: Mapping[str, str]) -> Arrays:
    if _is_object(value):
        for name in sorted(inputs):
            if name not in value:
                raise RequestError(f"Missing named input: {name} in 'inputs' object.")
        return {name: _tensor(value[name], kind) for name, kind in inputs.items()}
    if len(inputs) > 1:
        raise RequestError(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    name = min(inputs)
    return {name: _tensor(value, inputs[name])}


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value: Any) -> bool:
    """Whether it is an object that names inputs, not bytes in base64."""
    return isinstance(value, dict) and not _is_base64(value)


def _tensor(value: Any, kind: str) -> np.ndarray:
    check_count(len(value) if isinstance(value, list) else 1)
    array = _array(value, kind)
    if array is None:
        raise _reason(value, kind)
    return array


def _array(value: Any, kind: str) -> np.ndarray | None:
    """The value as an array; None where anything is wrong with it."""
    return _of_shape(value, _shape(value), kind)


def _of_shape(value: Any, shape: list[int], kind: str) -> np.ndarray | None:
    """The value as an array, level by level instead of leaf by leaf; None where it is not of that shape and type."""
    level = [value]
    for size in shape:
        if set(map(type, level)) - {list} or set(map(len, level)) - {size}:
            return None
        level = list(chain.from_iterable(level))
    leaves = _leaves(level, kind)
    return None if leaves is None else leaves.reshape(shape)


def _shape(value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
        if len(shape) > _MOST_LEVELS:
            raise RequestError(f"Lists of more than {_MOST_LEVELS} levels are no tensor")
    return shape


def _leaves(values: list[Any], kind: str) -> np.ndarray | None:
    """Values without lists as a flat array; None where one is of another type or out of bounds."""
    found = set(map(type, values))
    if kind == "string":
        return None if found - {str, dict} else _strings(values)
    if kind == "bool":
        return None if found - {bool} else np.array(values, np.bool_)
    if kind in _INTEGERS:
        return None if found - {int} else _integers(values, *_INTEGERS[kind])
    if kind in _DECIMALS:
        return None if found - {int, float} else _decimals(values, *_DECIMALS[kind])
    return None


def _strings(values: list[Any]) -> np.ndarray | None:
    result = np.empty(len(values), object)
    try:
        result[:] = [_bytes(value) for value in values]
    except RequestError:
        return None
    return result


def _integers(values: list[int], dtype: type, low: int, high: int) -> np.ndarray | None:
    if values and not low <= min(values) <= max(values) <= high:
        return None
    return np.array(values, np.uint64 if dtype is np.uint64 else np.int64).astype(dtype)


def _decimals(values: list[int | float], dtype: type, limit: float, exact: int) -> np.ndarray | None:
    whole = [value for value in values if type(value) is int]
    if whole and not -exact <= min(whole) <= max(whole) <= exact:
        return None
    wide = np.array(values, np.float64)
    return None if np.any(np.isfinite(wide) & (np.abs(wide) > limit)) else wide.astype(dtype)


def _bytes(value: str | dict[str, Any]) -> bytes:
    """A string's bytes, or what base64 stands for: standard alphabet, padded fully or not at all."""
    if isinstance(value, str):
        # Bytes that were no UTF-8 in the request's body go to the graph as they came.
        return value.encode("utf-8", "surrogateescape")
    if not _is_base64(value):
        raise RequestError(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    bare = text.rstrip("=")
    whole = bare + "=" * (-len(bare) % 4)
    try:
        if len(text) not in (len(bare), len(whole)):
            raise ValueError("wrong padding")
        return base64.b64decode(whole, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("Unable to base64 decode") from None


def _reason(value: Any, kind: str) -> RequestError:
    """The first thing wrong with a value of which `_array` made nothing, in reading order."""
    try:
        _walk(value, 0, _shape(value), kind)
    except RequestError as reason:
        return reason
    raise AssertionError(f"no fault found in {shown(value)} as {kind}")


def _walk(value: Any, level: int, shape: list[int], kind: str) -> int:
    """Go through a value leaf by leaf; returns the number of leaves."""
    if not isinstance(value, list):
        if level != len(shape):
            raise RequestError(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        _check_leaf(value, kind)
        return 1
    if level >= len(shape):
        raise RequestError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise RequestError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    # All below at once, which is much faster than leaf by leaf, unless the fault is there.
    array = _of_shape(value, shape[level:], kind)
    if array is not None:
        return array.size
    return sum(_walk(item, level + 1, shape, kind) for item in value)


def _check_leaf(value: Any, kind: str) -> None:
    if kind not in _INTEGERS and kind not in _DECIMALS and kind not in ("string", "bool"):
        raise RequestError(f"Conversion of JSON Value: {shown(value)} to type: {kind}", 501)
    if kind == "string" and isinstance(value, dict):
        _bytes(value)
    if _leaves([value], kind) is not None:
        return
    if kind in _DECIMALS and type(value) in (int, float):
        raise RequestError(f"Cannot convert JSON value: {shown(value)} to {kind} without loss of precision.")
    name = str(value) if isinstance(value, bool) else _KINDS[type(value)]
    raise RequestError(f"JSON Value: {shown(value)} Type: {name} is not of expected type: {kind}")


def _reason_in_instances(items: list[Any], inputs: Mapping[str, str], named: bool) -> RequestError:
    """The first thing wrong in a list of instances."""
    sizes: dict[str, int] = {}
    shapes: dict[str, list[int]] = {}

    def check(value: Any, name: str) -> None:
        if name not in inputs:
            raise RequestError(f"JSON object: does not have named input: {name}")
        shape = _shape(value)
        size = _walk(value, 0, shape, inputs[name])
        if sizes.setdefault(name, size) != size:
            raise RequestError(f"Expecting tensor size: {sizes[name]} but got: {size}")
        if shapes.setdefault(name, shape) != shape:
            told = [f"[{','.join(map(str, each))}]" for each in (shapes[name], shape)]
            raise RequestError(f"Expecting shape {told[0]} but got: {told[1]}")

    for number, item in enumerate(items):
        if _is_object(item) != named:
            wanted, got = ("object", "list") if named else ("value/list", "object")
            return RequestError(f"Expecting {wanted} but got {got} at item {number} of input list")
        if not named:
            reason = _caught(check, item, min(inputs))
            if reason:
                return RequestError(f"Failed to process element: {number} of 'instances' list. Error: {reason}")
            continue
        for name, value in item.items():
            reason = _caught(check, value, name)
            if reason:
                return RequestError(
                    f"Failed to process element: {number} key: {name} of 'instances' list. Error: {reason}"
                )
        if item.keys() != inputs.keys():
            return RequestError(
                f"Failed to process element: {number} of 'instances' list. JSON object: {shown(item)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    raise AssertionError(f"no fault found in {shown(items)}")


def _caught(check: Callable[[Any, str], None], value: Any, name: str) -> str | None:
    try:
        check(value, name)
    except RequestError as reason:
        return f"INVALID_ARGUMENT: {reason.message}"
    return None
