"""Every recorded request of the real server, sent again: the the answers say the same."""

from __future__ import annotations

import pytest

from tests.serving.contract import transcript
from tests.serving.contract.substance import assert_alike

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
        request = f"{entry.method} {entry.target} {(entry.body or b'').decode('latin-1')}"
        assert_alike(got.json, entry.answer, "keras_str" not in entry.target, request)
