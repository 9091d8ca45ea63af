"""The recorded answers of a real `tensorflow_model_server` 2.20.0, read from `transcript.txt`."""

from __future__ import annotations

import ast
import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRANSCRIPT = Path(__file__).with_name("transcript.txt")

_ENTRY = re.compile(r"^### (\S+) (.+)\n(?:>>> (.*)\n)?<<< (\d+) .*?(\{.*\})\n", re.MULTILINE)


@dataclass(frozen=True)
class Recorded:
    """A request and what the real server answered."""

    method: str
    target: str
    body: bytes | None
    status: int
    headers: dict[str, str]
    answer: Any

    @property
    def gzipped(self) -> bool:
        return self.body is not None and self.body.startswith(b"\x1f\x8b")

    def __str__(self) -> str:
        shown = "gzip" if self.gzipped else (self.body or b"")[:60].decode("latin-1")
        return f"{self.method} {self.target} {shown}".strip()


def read(path: Path = TRANSCRIPT) -> list[Recorded]:
    """The transcript's entries in their order."""
    text = path.read_text(encoding="utf-8")
    found = list(_ENTRY.finditer(text))
    entries = []
    for number, entry in enumerate(found):
        method, target, sent, status, headers = entry.groups()
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        entries.append(
            Recorded(
                method,
                target,
                _body(sent),
                int(status),
                parsed := ast.literal_eval(headers),
                _answer(parsed, text[entry.end() : end]),
            )
        )
    return entries


def _body(sent: str | None) -> bytes | None:
    if sent is None:
        return None
    if sent.startswith("\\x1f\\x8b"):
        # What was recorded of a gzip body cannot be read back byte by byte: another one with the same contents.
        return gzip.compress(b'{"instances": ["a"]}')
    return sent.encode("latin-1")


def _answer(headers: dict[str, str], text: str) -> Any:
    """The body: JSON, a text, or None where it is empty."""
    if headers.get("Content-Length", "0") == "0":
        return None
    if headers["Content-Type"] == "application/json":
        return json.JSONDecoder().raw_decode(text)[0]
    return text.strip()
