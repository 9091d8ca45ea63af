"""The parser of all commands: errors of one line, help in plain words. No TensorFlow is imported here."""

from __future__ import annotations

import difflib
import re
from argparse import SUPPRESS, Action
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from vse_tf.addresses import allow_arguments
from vse_tf.errors import UserError
from vse_tf.help_text import expected_in_words, help_text
from vse_tf.removed_settings import refuse_removed
from vse_tf.setting_types import Section, types_of


class CommandParser(ArgumentParser):
    """Raises what would print usage and exit; its help is in plain words.

    Args:
        examples: complete command lines for the help.
        usual: options that `--help` shows; `--help all` shows all (default: those without a dot).
        settings: a dataclass of settings among the options.
    """

    def __init__(
        self, *, examples: Iterable[str] = (), usual: Iterable[str] = (), settings: Section | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.examples, self.usual, self.settings = tuple(examples), tuple(usual), settings

    def parse_args(self, args: list[str], **kwargs: Any) -> Namespace:  # type: ignore[override]
        asked = next((number for number, argument in enumerate(args) if argument in ("-h", "--help")), None)
        if asked is not None:
            print(self.help_in_words(complete=args[asked + 1 : asked + 2] == ["all"]))
            raise SystemExit(0)
        args = allow_arguments(args)
        refuse_removed(argument.removeprefix("--").partition("=")[0] for argument in args)
        return super().parse_args(args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        raise UserError(f"{self._in_words(message)}{self._meant(message)}{more(self.prog)}") from ex

    def help_in_words(self, complete: bool = False) -> str:
        """The help.

        Args:
            complete: all options, by section; without, only the usual ones.
        """
        actions = [action for action in self._actions if action.help is not SUPPRESS and not _is_section(action)]
        usual = [action for action in actions if "." not in action.dest or f"--{action.dest}" in self.usual]
        sections = {"options": usual}
        if complete:
            sections["options"] = [action for action in usual if "." not in action.dest]
            for action in actions:
                section, dot, _ = action.dest.rpartition(".")
                if dot:
                    sections.setdefault(section, []).append(action)
        hidden = len(actions) > len(usual) and not complete
        return help_text(
            self.prog,
            self.description or "",
            self.examples,
            sections,
            types_of(self.settings) if self.settings else {},
            f"All settings: {self.prog} --help all" if hidden else "",
        )

    def _in_words(self, message: str) -> str:
        """The message on a value of another type, without the types of Python."""
        found = _WRONG_TYPE.search(message)
        action = next((action for action in self._actions if found and action.dest == found["key"]), None)
        if found is None or action is None:
            return message
        kind = types_of(self.settings).get(action.dest) if self.settings else None
        expected = expected_in_words(kind or getattr(action, "_typehint", None) or action.type)
        value = found["given"] or found["restricted"] or found["number"]
        if not expected or not value:
            return message
        name = action.dest if "." in action.dest else max(action.option_strings, key=len, default=action.dest)
        return f"{message[: found.start()]}{name}: {value} is not {expected}"

    def _meant(self, message: str) -> str:
        """The options that the user may have meant by one that does not exist."""
        found = re.search(r"[Uu]nrecognized arguments?: (--[^\s=]+)", message)
        if not found:
            return ""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        same = [option for option in options if option.rpartition(".")[2] == found[1].removeprefix("--")]
        near = same or difflib.get_close_matches(found[1], options, n=1)
        return f"; did you mean {' or '.join(near)}?" if near else ""


# The key and the value in jsonargparse's messages.
_WRONG_TYPE = re.compile(
    r"""Parser\ key\ "(?P<key>[^"]+)":.*?
    (?: (?:Got|Given)\ value:\ (?P<given>[^\n]*)\Z
      | Not\ of\ type\ \w+:\ (?P<restricted>\S+)\ does\ not\ conform
      | (?:base\ 10|to\ float):\ '(?P<number>[^']*)'\Z )""",
    re.DOTALL | re.VERBOSE,
)


def _is_section(action: Action) -> bool:
    """Whether an option stands for a section, whose settings have options of their own."""
    return action.metavar == "CONFIG" and action.default is SUPPRESS


def more(prog: str) -> str:
    """The end of messages about options."""
    return f" (all settings: {prog} --help all)"


def command_parser(prog: str, description: str, **kwargs: Any) -> CommandParser:
    """An empty parser whose errors are `UserError`s of one line; see `CommandParser` for the arguments."""
    return CommandParser(prog=prog, description=description, **kwargs)
