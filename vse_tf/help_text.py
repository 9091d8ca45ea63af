"""`--help` in plain words: what a command does, examples, its options with ranges and defaults. No TensorFlow."""

from __future__ import annotations

import json
import types
from argparse import SUPPRESS, Action, HelpFormatter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from vse_tf.setting_types import LARGEST, PathText, Range

WIDTH, INDENT = 100, 30


def help_text(
    prog: str,
    description: str,
    examples: Iterable[str],
    sections: Mapping[str, Iterable[Action]],
    types_of: Mapping[str, Any],
    more: str = "",
) -> str:
    """The help of a command.

    Args:
        prog: how the command is called.
        description: what it does.
        examples: complete command lines.
        sections: the options by title.
        types_of: types of settings by their key; other options have the type that argparse knows.
        more: last line.
    """
    formatter = _Formatter(prog, types_of)
    formatter.add_text(description)
    if examples := list(examples):
        formatter.start_section("examples")
        formatter.add_text("\n".join(examples))
        formatter.end_section()
    for title, actions in sections.items():
        formatter.start_section(title)
        formatter.add_arguments(actions)
        formatter.end_section()
    formatter.add_text(more)
    return formatter.format_help()


def values_in_words(kind: Any) -> str:
    """What values a type allows, in words; empty where its name says enough.

    Args:
        kind: a type, perhaps annotated with a `Range`.

    Example:
        >>> values_in_words(Annotated[int, Range(1)]), values_in_words(bool), values_in_words(list[Literal["a", "b"]])
        ('1 or more', 'true or false', 'list of a, b')
    """
    origin, parts = get_origin(kind), [part for part in get_args(kind) if part is not type(None)]
    if kind is bool:
        return "true or false"
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(values_in_words, parts))))
    words = values_in_words(parts[0]) if parts else ""
    if origin is Annotated:
        return next((_range(mark) for mark in kind.__metadata__ if isinstance(mark, Range)), words)
    if origin is tuple:
        return f"{len(parts)} values{words and f', each {words}'}"
    return f"list of {words}" if origin is list and words else ""


def expected_in_words(kind: Any) -> str:
    """What a value has to be, for error messages.

    Args:
        kind: a type, as in `values_in_words`.

    Example:
        >>> expected_in_words(Annotated[int, Range(1)]), expected_in_words(bool | Literal["auto"])
        ('a whole number from 1 to 2147483647', 'true or false or auto')
    """
    origin, parts = get_origin(kind), [part for part in get_args(kind) if part is not type(None)]
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(expected_in_words, parts))))
    if origin is Literal:
        return f"one of {values_in_words(kind)}" if len(parts) > 1 else str(parts[0])
    if kind is bool or origin is tuple:
        return values_in_words(kind) or f"{len(parts)} values"
    if kind in (list, dict) or origin in (list, dict):
        return "a list" if list in (kind, origin) else "a mapping of names to values"
    if origin is Annotated:
        ranges = [f" {mark!r}" for mark in kind.__metadata__ if isinstance(mark, Range) and mark.low > -LARGEST]
        return f"{expected_in_words(parts[0])}{''.join(ranges)}"
    name = {int: "a whole number", float: "a number", str: "text"}
    # jsonargparse's restricted numbers have an expression such as `v>=0 and v<=1`.
    restricted = getattr(kind, "_expression", "").replace("v", "")
    base = next((name[base] for base in getattr(kind, "__mro__", ()) if base in name), "")
    return f"{base} {restricted}".strip() if base else ""


def _range(values: Range) -> str:
    low, high = (f"{number:g}" if abs(number) < 1e6 else str(number) for number in (values.low, values.high))
    if values.low <= -LARGEST:
        return ""
    if values.high >= LARGEST:
        return f"above {low}" if values.above else f"{low} or more"
    return f"{'above ' if values.above else ''}{low} to {'below ' if values.below else ''}{high}"


def _metavar(kind: Any) -> str:
    """The placeholder of a value."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Annotated:
        is_path = any(isinstance(mark, PathText) and not (mark.preset or mark.names) for mark in kind.__metadata__)
        return "PATH" if is_path else _metavar(get_args(kind)[0])
    if get_origin(kind) in (list, tuple):
        return _metavar(get_args(kind)[0])
    return "NAME" if get_origin(kind) is Literal else {int: "N", float: "X", bool: "BOOL"}.get(kind, "")


class _Formatter(HelpFormatter):
    """Options on the left, what they do on the right, then the values that they take and the default."""

    def __init__(self, prog: str, types_of: Mapping[str, Any]) -> None:
        super().__init__(prog, max_help_position=INDENT, width=WIDTH)
        self._types_of = types_of

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if self._current_indent:
            # Examples, as they can be copied.
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)

    def _type(self, action: Action) -> Any:
        return self._types_of.get(action.dest, getattr(action, "_typehint", action.type))

    def _metavar_formatter(self, action: Action, default_metavar: str) -> Any:
        name = "NAME" if action.choices else _metavar(self._type(action)) or default_metavar.rpartition(".")[2]
        # jsonargparse sets {a,b} and [ITEM,...].
        given = action.metavar if isinstance(action.metavar, str) and action.metavar[0] not in "{[" else ""
        return lambda size: (given or name,) * size

    def _format_action_invocation(self, action: Action) -> str:
        # jsonargparse's `--option+`, which appends to a list, goes without saying.
        every = action.option_strings
        action.option_strings = [option for option in every if not option.endswith("+")]
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = every

    def _get_help_string(self, action: Action) -> str:
        if action.dest == "print_config":
            return "print the settings as YAML and exit"
        text = (action.help or "").removesuffix(".")
        words = ", ".join(map(str, action.choices)) if action.choices else values_in_words(self._type(action))
        facts = [words] if words else []
        if action.required:
            facts.append("required")
        elif action.nargs != 0 and action.default not in (None, SUPPRESS, "", []) and "default:" not in text:
            facts.append(f"default: {_in_yaml(action.default)}")
        # argparse formats the text with %.
        return (text + (f" ({'; '.join(facts)})" if facts else "")).replace("%", "%%")


def _in_yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
