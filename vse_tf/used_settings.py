"""Which runs use a setting: a mark on its type, next to its default. No TensorFlow is imported here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import cache
from operator import attrgetter
from typing import Any, get_type_hints

from vse_tf.setting_types import Section

NUMBER = "n"
"""Stands for any whole number among the values of a mark."""


class UsedIf:
    """A mark on a setting: a run uses it only if another setting has one of these values.

    Of several marks on a setting all must hold.

    Args:
        key: key of the other setting; of several, one suffices.
        values: its values; of an encoder's name such as `hub:resnet_50_imagenet` the part before the colon counts.
        named: the setting that a message names (default: `key`), where `key` is a property that follows from it.

    Example:
        >>> from vse_tf.config import Settings
        >>> UsedIf("text.encoder", "transformer").holds(Settings())
        False
    """

    def __init__(self, key: str | tuple[str, ...], *values: object, named: str = "") -> None:
        self.keys = (key,) if isinstance(key, str) else key
        self.values = values
        self.named = (named,) if named else self.keys

    def holds(self, settings: Section) -> bool:
        """Whether a run with these settings uses the marked one."""
        return any(_kind(attrgetter(key)(settings)) in self.values for key in self.keys)

    def needed(self) -> str:
        """What a run must have, in words."""
        *others, last = map(_in_yaml, self.values)
        values = f"{', '.join(others)} or {last}" if others else last
        return f"{' or '.join(self.named)} {values}"

    def found(self, settings: Section) -> str:
        """What a run has instead, in words."""
        return " and ".join(f"{key} is {_in_yaml(attrgetter(key)(settings))}" for key in self.named)


def unused(settings: Section, keys: Iterable[str]) -> dict[str, UsedIf]:
    """The settings among these that a run does not use, each with the mark that does not hold.

    Args:
        settings: all settings of the run.
        keys: keys of settings.

    Example:
        >>> from vse_tf.config import Settings
        >>> list(unused(Settings(), ["text.layers", "text.units"]))
        ['text.layers']
    """
    marks = used_if(type(settings))
    failed = {key: next((mark for mark in marks[key] if not mark.holds(settings)), None) for key in keys}
    return {key: mark for key, mark in failed.items() if mark}


@cache
def used_if(kind: Any) -> dict[str, tuple[UsedIf, ...]]:
    """The marks of every setting by key, those of its section included.

    Args:
        kind: a dataclass of settings.
    """
    return dict(_marks(kind, "", ()))


def _marks(kind: Any, prefix: str, above: tuple[UsedIf, ...]) -> Iterator[tuple[str, tuple[UsedIf, ...]]]:
    plain, full = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    for name, section in plain.items():
        marks = (*above, *(mark for mark in getattr(full[name], "__metadata__", ()) if isinstance(mark, UsedIf)))
        if dataclasses.is_dataclass(section):
            yield from _marks(section, f"{prefix}{name}.", marks)
        else:
            yield f"{prefix}{name}", marks


def _kind(value: object) -> object:
    if isinstance(value, str):
        return value.partition(":")[0]
    return NUMBER if type(value) is int else value


def _in_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
