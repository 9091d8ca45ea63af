"""What two answers have in common when they say the same: one comparison for the recorded answers and the cases."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

# What an error may be about: keys of a request, inputs of the contract's models, types.
_SUBJECTS = (
    {"instances", "inputs", "signature_name", "examples", "title", "feats", "query", "image_bytes", "total"}
    | {"i32", "i64", "u8", "string", "bool", "int32", "int64", "uint8", "double", "half", "base64", "levels"}
    | {"assertion", "positive", "classification", "regression", "classify", "regress"}
)
# Values that an error quotes over several lines, and what is particular to one graph: names of nodes, a signature.
_QUOTED = re.compile(
    r"JSON (?:Value|object): \{.*?\n?\}(?= )|\n\t \[\[.*|(?<=inputs found in SignatureDef:).*", re.DOTALL
)
_WORD = re.compile(r"-?\w+")


def assert_alike(got: Any, expected: Any, values: bool = True, request: str = "", where: str = "answer") -> None:
    """Assert the same keys, lengths and types, the same values (floats as float32) and errors about the same subject.

    Args:
        got: the JSON of an answer.
        expected: the JSON of the recorded answer.
        values: whether to compare values as well.
        request: address and body of the request.
        where: path to the value, for the message.
    """
    assert type(got) is type(expected), where
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key in expected:
            if key == "error":
                assert_names(got[key], *subjects(expected[key], request))
            # The graph's own names of its nodes differ with every export.
            elif not (key == "name" and ":" in str(expected[key])):
                assert_alike(got[key], expected[key], values, request, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for number, pair in enumerate(zip(got, expected, strict=True)):
            assert_alike(*pair, values, request, f"{where}[{number}]")
    elif isinstance(expected, float) and values:
        assert (math.isnan(got) and math.isnan(expected)) or got == pytest.approx(expected, rel=1e-6), where
        assert math.copysign(1, got) == math.copysign(1, expected) or math.isnan(expected), where
    elif values:
        assert got == expected, where


def assert_names(error: str, *words: str) -> None:
    """Assert that an error says something, and names each of these words."""
    assert error.strip()
    assert set(words) - set(_WORD.findall(error)) == set(), error


def subjects(error: str, request: str) -> set[str]:
    """The words of an error that name what it is about: those of the request, and of the models."""
    # Single letters of a request are texts like "a", which is an English word too; null has other names elsewhere.
    sent = {word for word in _WORD.findall(request) if len(word) > 1 or word.isdigit()} - {"null"}
    return set(_WORD.findall(_QUOTED.sub("", error))) & (_SUBJECTS | sent)
