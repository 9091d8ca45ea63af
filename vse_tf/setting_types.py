"""The values that settings may have, written into their types: ranges of numbers, paths of local files.

jsonargparse sees to the type itself; `check_values` to the rest. No TensorFlow is imported here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from vse_tf.errors import UserError

# The largest count that TensorFlow's 32-bit integers hold.
LARGEST = 2**31 - 1
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Of one name between two slashes, in bytes; Linux, macOS and Windows agree.
_NAME_BYTES, _PATH_BYTES = 255, 4095


@dataclass(frozen=True)
class Range:
    """The values that a number may have.

    Args:
        low: smallest value.
        high: largest value.
        above: `low` itself is too small.
        below: `high` itself is too large.

    Example:
        >>> 1.0 in Range(0, 1, below=True)
        False
    """

    low: float = 0
    high: float = LARGEST
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        # NaN compares with nothing and is in no range.
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __repr__(self) -> str:
        return f"{'above' if self.above else 'from'} {self.low} to {'below ' if self.below else ''}{self.high}"

    def problem(self, value: Any) -> str:
        """Why a value is refused; empty where it is not. Other types than numbers are somebody else's matter."""
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value in self:
            return ""
        shown = str(value) if isinstance(value, float) or abs(value) < 10**30 else "it"
        return f"{shown} is not {'a whole number' if isinstance(value, int) else 'a number'} {self!r}"


@dataclass(frozen=True)
class PathText:
    """The path of a local file or folder.

    Args:
        address: what has `://` in it is no path but the address of a preset, and may be.
    """

    address: bool = False

    def __repr__(self) -> str:
        return "path"

    def problem(self, value: Any) -> str:
        """Why a value is refused; empty where it is not."""
        if not isinstance(value, str):
            return ""
        if "\0" in value:
            return "the path holds a NUL"
        if not self.address and _ADDRESS.match(value):
            return f"{value[:80]!r} is an address; name a local file or folder"
        path = os.fsencode(value)
        if len(path) > _PATH_BYTES or any(len(name) > _NAME_BYTES for name in path.split(b"/")):
            return f"{value[:40]!r}… is too long for a path; one name in it has at most {_NAME_BYTES} bytes"
        return ""


Count = Annotated[int, Range(1)]
CountOrNone = Annotated[int, Range()]
Epochs = Annotated[int, Range(1, 10**6)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
# Of layers, queries, workers: a network is built, or a thread started, for each.
Few = Annotated[int, Range(1, 1024)]
# Of captions in tokens, images in pixels, layers in units.
Length = Annotated[int, Range(1, 2**16)]
Side = Annotated[int, Range(1, 2**14)]
Width = Annotated[int, Range(1, 2**20)]
WidthOrNone = Annotated[int, Range(0, 2**20)]
Above0 = Annotated[float, Range(above=True)]
From0 = Annotated[float, Range()]
Share = Annotated[float, Range(0, 1, below=True)]
Unit = Annotated[float, Range(0, 1)]
LocalPath = Annotated[str, PathText()]
Encoder = Annotated[str, PathText(address=True)]
Paths = list[LocalPath] | LocalPath | None


def check_values(section: Any, prefix: str = "") -> None:
    """Refuse values that the types of a settings dataclass rule out, sections below it included.

    Args:
        section: the dataclass.
        prefix: its key, with a dot behind it.

    Raises:
        UserError: the first such value, with its key.

    Example:
        >>> check_values(TrainSettings(epochs=0), "train.")
        Traceback (most recent call last):
        UserError: train.epochs: 0 is not a whole number from 1 to 1000000
    """
    types = get_type_hints(type(section), include_extras=True)
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            check_values(value, f"{prefix}{field.name}.")
            continue
        rules = set(_rules(types[field.name]))
        for item in _items(value):
            problem = next(filter(None, (rule.problem(item) for rule in rules)), "")
            if problem:
                raise UserError(f"{prefix}{field.name}: {problem}")


def _rules(kind: Any) -> Iterator[Range | PathText]:
    yield from (rule for rule in getattr(kind, "__metadata__", ()) if isinstance(rule, (Range, PathText)))
    for part in get_args(kind):
        yield from _rules(part)


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _items(item)
    else:
        yield value
