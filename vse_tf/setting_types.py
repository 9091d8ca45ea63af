"""What a setting's type says besides `int` or `str`: its range, that it is a path, that it may differ on resume.

jsonargparse checks the plain type; `check_values` the rest. No TensorFlow is imported here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, TypeGuard, TypeVar, get_args, get_type_hints

from vse_tf.addresses import PLACES, allow, is_address, shown
from vse_tf.errors import UserError

# The largest count that TensorFlow's 32-bit integers hold.
LARGEST = 2**31 - 1
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Of one name between two slashes, in bytes; Linux, macOS and Windows agree.
_NAME_BYTES, _PATH_BYTES = 255, 4095
T = TypeVar("T")


class Section(Protocol):
    """A dataclass of settings."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class OnResume(Enum):
    """Whether a resumed run may have another value of a setting; without a mark it may not.

    FREE: it may. The setting changes what is logged or stored or how far the run goes, not what a step does.
    RATE: it may as long as every finished step keeps the learning rate that it had.
    KEPT: `auto` stands for what the run has chosen.
    """

    FREE = "free"
    RATE = "rate"
    KEPT = "kept"


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

    def problem(self, value: object) -> str:
        """Why a value is refused; empty where it is not. Other types than numbers are somebody else's matter."""
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value in self:
            return ""
        shown = str(value) if isinstance(value, float) or abs(value) < 10**30 else "it"
        return f"{shown} is not {'a whole number' if isinstance(value, int) else 'a number'} {self!r}"


@dataclass(frozen=True)
class PathText:
    """The path of a local file or folder.

    Args:
        preset: the value is an encoder, whose path, preset name or address stands behind `hub:`.
        names: values that are not paths.
        output: the path is written to and stays as the user gave it.
        remote: an address of a bucket or web server is read too.
        bucket: it is the address of a folder in a bucket.
    """

    preset: bool = False
    names: tuple[str, ...] = ()
    output: bool = False
    remote: bool = False
    bucket: bool = False

    def problem(self, value: object) -> str:
        """Why a value is refused; empty where it is not."""
        if not isinstance(value, str):
            return ""
        if "\0" in value:
            return "the path holds a NUL"
        if self.bucket or (self.remote and is_address(value)):
            return "" if is_address(value) else f"{value[:80]!r} is not an address such as s3://BUCKET/FOLDER"
        if not self.preset and _ADDRESS.match(value):
            places = f"a local file or folder{f', or one at {PLACES}' if self.remote else ''}"
            return f"{shown(value)[:80]!r} is an address; name {places}"
        path = os.fsencode(value)
        if len(path) > _PATH_BYTES or any(len(name) > _NAME_BYTES for name in path.split(b"/")):
            return f"{value[:40]!r}… is too long for a path; one name in it has at most {_NAME_BYTES} bytes"
        return ""

    def allowed(self, value: str) -> str:
        """The value; what is shown of it where it is an address, which may then be opened."""
        kind, colon, place = value.partition(":") if self.preset and value.startswith("hub:") else ("", "", value)
        # Presets of other places, such as hf://, are not of this package.
        return f"{kind}{colon}{allow(place)}" if is_address(place) else value

    def absolute(self, value: str) -> str:
        """The value with its path made absolute; what is not a path stays."""
        if self.output or value in self.names or is_address(value):
            return value
        kind, _, path = value.partition(":") if self.preset else ("", "", value)
        if self.preset and not (kind == "hub" and Path(path).expanduser().is_dir()):
            return value
        absolute = str(Path(path).expanduser().absolute())
        return f"{kind}:{absolute}" if self.preset else absolute


Free = Annotated[T, OnResume.FREE]
Rate = Annotated[T, OnResume.RATE]
Kept = Annotated[T, OnResume.KEPT]
Count = Annotated[int, Range(1)]
CountOrNone = Annotated[int, Range()]
Epochs = Annotated[int, Range(1, 10**6)]
EpochsOrNone = Annotated[int, Range(0, 10**6)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
# Numbers of layers, queries or workers: a network is built, or a thread started, for each.
Few = Annotated[int, Range(1, 1024)]
# Captions in tokens, images in pixels, layers in units.
Length = Annotated[int, Range(1, 2**16)]
Side = Annotated[int, Range(1, 2**14)]
Width = Annotated[int, Range(1, 2**20)]
WidthOrNone = Annotated[int, Range(0, 2**20)]
Above0 = Annotated[float, Range(above=True)]
From0 = Annotated[float, Range()]
Share = Annotated[float, Range(0, 1, below=True)]
Unit = Annotated[float, Range(0, 1)]
LocalPath = Annotated[str, PathText()]
RemotePath = Annotated[str, PathText(remote=True)]
BucketAddress = Annotated[str, PathText(bucket=True)]
OutputPath = Annotated[str, PathText(output=True)]
EncoderName = Annotated[str, PathText(preset=True)]
Weights = Annotated[str, PathText(names=("imagenet", "none"))]
Paths = list[LocalPath] | LocalPath | None
RemotePaths = list[RemotePath] | RemotePath | None


def check_values(section: Section, prefix: str = "") -> None:
    """Refuse values that the types of a settings dataclass rule out, nested sections included.

    Args:
        section: the dataclass.
        prefix: its key, followed by a dot.

    Raises:
        UserError: the first such value, with its key.

    Example:
        >>> from vse_tf.config import TrainSettings
        >>> check_values(TrainSettings(epochs=-1), "train.")
        Traceback (most recent call last):
            ...
        vse_tf.errors.UserError: train.epochs: -1 is not a whole number from 0 to 1000000
    """
    for key, value, kind in _fields(section, prefix):
        rules = [mark for mark in set(_marks(kind)) if not isinstance(mark, OnResume)]
        for item in _items(value):
            problem = next(filter(None, (rule.problem(item) for rule in rules)), "")
            if problem:
                raise UserError(f"{key}: {problem}")


def absolute_paths(section: T) -> T:
    """A settings dataclass with all paths made absolute, so that a run folder works from any directory.

    Args:
        section: the dataclass; a relative path is relative to the current directory.

    Example:
        >>> from vse_tf.config import TrainSettings
        >>> absolute_paths(TrainSettings(init_from="/home/ada/../grace/base")).init_from
        '/home/ada/../grace/base'
    """
    return _with_paths(section, PathText.absolute)


def allowed_addresses(section: T) -> T:
    """A settings dataclass whose addresses the user has typed: they may be opened, and lose what is not shown of them.

    Args:
        section: the dataclass.

    Raises:
        UserError: an address is refused, see `vse_tf.addresses.allow`.
    """
    return _with_paths(section, PathText.allowed)


def _with_paths(section: T, change: Callable[[PathText, str], str]) -> T:
    kind: Any = type(section)
    types, changes = _types(kind), {}
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _with_paths(value, change)
        elif paths := [mark for mark in _marks(types[field.name]) if isinstance(mark, PathText)]:
            changes[field.name] = _mapped(partial(change, paths[0]), value)
    return dataclasses.replace(section, **changes)  # type: ignore[type-var]


def keys_marked(section: Section, mark: OnResume) -> frozenset[str]:
    """Keys of the settings whose type has a mark.

    Args:
        section: a settings dataclass.
        mark: the mark.

    Example:
        >>> from vse_tf.config import Settings
        >>> "train.learning_rate" in keys_marked(Settings(), OnResume.RATE)
        True
    """
    return frozenset(key for key, _, kind in _fields(section) if mark in _marks(kind))


def types_of(section: Section) -> dict[str, Any]:
    """The type of every setting, with its marks, by key.

    Args:
        section: a settings dataclass.
    """
    return {key: kind for key, _, kind in _fields(section)}


def _fields(section: Section, prefix: str = "") -> Iterator[tuple[str, object, Any]]:
    """Key, value and type of every setting."""
    types = _types(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if _is_section(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, types[field.name]


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _is_section(value: object) -> TypeGuard[Section]:
    return dataclasses.is_dataclass(value)


def _marks(kind: Any) -> Iterator[Range | PathText | OnResume]:
    yield from (mark for mark in getattr(kind, "__metadata__", ()) if isinstance(mark, (Range, PathText, OnResume)))
    for part in get_args(kind):
        yield from _marks(part)


def _items(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _items(item)
    else:
        yield value


def _mapped(function: Callable[[str], str], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(function, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(function, item) for item in value]
    return value if value is None else function(value)
