"""Every recorded request of the real server, sent again: the answers are alike in kind."""

from __future__ import annotations

import math
import re

import pytest

from tests.serving.contract import transcript

RECORDED = transcript.read()

# With the server's option for other origins, which it does not have by default.
OTHER_OPTIONS = [entry for entry in RECORDED if entry.method == "OPTIONS" and entry.status == 200]
REPLAYED = [entry for entry in RECORDED if entry not in OTHER_OPTIONS]


def test_the_transcript_is_read_completely():
    assert len(RECORDED) == 113
    assert len(OTHER_OPTIONS) == 1


@pytest.mark.parametrize("entry", REPLAYED, ids=str)
def test_answers_are_alike(server, entry):
    headers = {"Content_Encoding": "gzip"} if entry.gzipped else {}
    got = server.call(entry.method, entry.target, entry.body, **headers)
    assert got.status == entry.status
    if entry.answer is None:
        assert got.body == b""
    elif isinstance(entry.answer, str):
        assert got.body.decode().split() == entry.answer.split()
    else:
        assert got.headers["Content-Type"] == "application/json"
        assert_alike(got.json, entry.answer, values="keras_str" not in entry.target)


def assert_alike(got, expected, values=True, where="answer"):
    """The same keys, lengths and types; the same values, numbers as float32 has them; errors in substance."""
    assert type(got) is type(expected), where
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key in expected:
            if key == "error":
                assert substance(got[key]) == substance(expected[key])
            # The graph's own names of its nodes differ with every export.
            elif not (key == "name" and ":" in str(expected[key])):
                assert_alike(got[key], expected[key], values, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for number, pair in enumerate(zip(got, expected, strict=True)):
            assert_alike(*pair, values, f"{where}[{number}]")
    elif isinstance(expected, float) and values:
        assert (math.isnan(got) and math.isnan(expected)) or got == pytest.approx(expected, rel=1e-6), where
        assert math.copysign(1, got) == math.copysign(1, expected) or math.isnan(expected), where
    elif values:
        assert got == expected, where


def substance(error):
    """An error without what is particular to one graph: names of nodes, a signature spelt out."""
    error = re.sub(r"\n\t \[\[.*", "", error, flags=re.DOTALL)
    return re.sub(r"(inputs found in SignatureDef:).*", r"\1", error, flags=re.DOTALL)
