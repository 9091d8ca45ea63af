"""Makes mkdocstrings render the `Example:` of a docstring as code (a Griffe extension, see mkdocs.yml).

Griffe takes `Example:` for a box of prose, in which `>>>` is a quotation. Here it becomes the section `Examples:`;
lines without a prompt become a block of Python.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^(?P<indent> *)Example:\n(?P<body>(?:(?P=indent) +\S.*\n|\s*\n)+)", re.MULTILINE)


def examples_section(docstring: str) -> str:
    """The docstring with its `Example:` as Griffe's section.

    Args:
        docstring: the text, with the indentation removed.
    """

    def section(found: re.Match[str]) -> str:
        body = textwrap.dedent(found["body"]).strip("\n")
        if not body.startswith(">>>"):
            body = f"```python\n{body}\n```"
        return f"{found['indent']}Examples:\n{textwrap.indent(body, found['indent'] + '    ')}\n\n"

    return EXAMPLE.sub(section, docstring + "\n").rstrip("\n")


class ExamplesAsCode(Extension):
    """Changes every docstring when Griffe has read it."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """See `examples_section`."""
        if obj.docstring:
            obj.docstring.value = examples_section(obj.docstring.value)
