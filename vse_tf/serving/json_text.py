"""JSON as TensorFlow Serving reads it, and as its error messages quote it. No TensorFlow is imported here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from vse_tf.serving.request_error import RequestError

# Python's words for a parse error, and Serving's.
_WORDS = {
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma or closing bracket after a member or element.",
    "Expecting value": "Invalid value.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
}
_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
# An error message is for reading: a long value in it is cut.
_TEXT, _ITEMS, _LEVELS, _VALUES = 200, 16, 8, 500


def parse(body: bytes) -> dict[str, Any]:
    """A request's JSON object.

    As the server does, it takes NaN and Infinity as numbers, bytes in strings that are no UTF-8, and anything behind
    the object.

    Args:
        body: the request's body.

    Raises:
        RequestError: not JSON, or not an object.

    Example:
        >>> parse(b'{"instances": ["a"]} and more')
        {'instances': ['a']}
    """
    try:
        text, broken = body.decode(), "strict"
    except UnicodeDecodeError:
        text, broken = body.decode("utf-8", "surrogateescape"), "surrogateescape"
    text = text.removeprefix("\ufeff").lstrip(_SPACE)
    if not text:
        raise RequestError("JSON Parse error: The document is empty")
    try:
        value, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        at = len(text[: error.pos].encode("utf-8", "surrogateescape"))
        raise RequestError(f"JSON Parse error: {_WORDS.get(error.msg, error.msg)} at offset: {at}") from None
    except RecursionError:
        raise RequestError("JSON Parse error: Values are nested too deeply.") from None
    except ValueError:
        # Python's own limit on the digits of a whole number
        raise RequestError("JSON Parse error: Number too big to be stored in double.") from None
    if (b"\\ud" in body or b"\\uD" in body) and _has_lone_surrogate(value, broken):
        raise RequestError("JSON Parse error: The surrogate pair in string is invalid.")
    if not isinstance(value, dict):
        raise RequestError(f"JSON Value: {shown(value)} Is not object")
    return value


def shown(value: Any) -> str:
    """A value for an error message: objects over several lines, lists on one; what is long is cut.

    Args:
        value: what `json` made of it.

    Example:
        >>> print(shown({"title": "a"}))
        {
            "title": "a"
        }
    """
    return _shown(value, 1, iter(range(_VALUES)))


def _shown(value: Any, level: int, left: Iterator[int]) -> str:
    if next(left, None) is None or (isinstance(value, (dict, list)) and level > _LEVELS):
        return "..."
    if isinstance(value, dict):
        lines = [
            f"{'    ' * level}{_shown(name, level, left)}: {_shown(item, level + 1, left)}"
            for name, item in islice(value.items(), _ITEMS)
        ]
        lines += ["    " * level + "..."] if len(value) > _ITEMS else []
        return "{\n" + ",\n".join(lines) + "\n" + "    " * (level - 1) + "}" if lines else "{}"
    if isinstance(value, list):
        items = [_shown(item, level + 1, left) for item in value[:_ITEMS]]
        return f"[{', '.join([*items, '...'] if len(value) > _ITEMS else items)}]"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= _TEXT else value[:_TEXT] + "...", ensure_ascii=False)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return json.dumps(value)


def _has_lone_surrogate(value: Any, broken: str) -> bool:
    """Whether a string holds an escaped half of a pair, which no bytes stand for."""
    left = [value]
    try:
        while left:
            each = left.pop()
            if isinstance(each, str):
                each.encode("utf-8", broken)
            elif isinstance(each, list):
                left.extend(each)
            elif isinstance(each, dict):
                left.extend(chain(each, each.values()))
    except UnicodeEncodeError:
        return True
    return False
