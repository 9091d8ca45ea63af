"""Many clients, good and bad, at once: every one gets the answer of its own request, and the server stays."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

TEXTS = [f"text {number}" for number in range(200)]


def requests(count, seed=0):
    """Mixed requests: method, target, body, expected status, and for echoes the text that has to come back."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        text = chance.choice(TEXTS)
        echo = {"signature_name": "echo_str", "instances": [text] * chance.randint(1, 20)}
        made.append(
            chance.choice(
                [
                    ("POST", "/v1/models/dual:predict", json.dumps(echo).encode(), 200, echo["instances"]),
                    ("POST", "/v1/models/dual/labels/stable:predict", b'{"instances": ["a"]}', 200, None),
                    ("GET", "/v1/models/dual", None, 200, None),
                    ("GET", "/v1/models/keras/metadata", None, 200, None),
                    ("POST", "/v1/models/keras:predict", b'{"instances": [[1, 2, 3]]}', 200, [[6.0, 6.0]]),
                    ("POST", "/v1/models/keras:predict", b'{"instances": [[1, 2]]}', 400, None),
                    ("POST", "/v1/models/dual:predict", b'{"instances": [', 400, None),
                    ("POST", "/v1/models/dual:predict", chance.randbytes(chance.randint(1, 300)), 400, None),
                    ("POST", "/v1/models/dual:predict", b"[" * 20_000, 400, None),
                    ("POST", "/v1/models/photo:predict", b'{"instances": [{"b64": "aGk="}]}', 400, None),
                    ("POST", "/v1/models/dual:predict", b'{"signature_name": "fail", "inputs": [-1]}', 400, None),
                    ("POST", "/v1/models/dual:predict", b'{"signature_name": "half", "inputs": [1]}', 400, None),
                    ("POST", "/v1/models/nope:predict", b'{"instances": ["a"]}', 404, None),
                    ("GET", "/v1/models/dual/versions/9", None, 404, None),
                    ("DELETE", "/v1/models/dual", None, 400, None),
                    ("GET", "/elsewhere", None, 404, None),
                ]
            )
        )
    return made


def send(server, mixed):
    """Send requests over one connection; returns those whose answer is wrong."""
    wrong = []
    with contextlib.closing(http.client.HTTPConnection(*server.address, timeout=60)) as connection:
        for method, target, body, status, expected in mixed:
            connection.request(method, target, body)
            response = connection.getresponse()
            answer = response.read()
            if response.status != status or (expected and json.loads(answer)["predictions"] != expected):
                wrong.append((method, target, body, status, response.status, answer[:300]))
    return wrong


def crowd(server, count, clients):
    mixed = requests(count)
    with ThreadPoolExecutor(clients) as pool:
        parts = pool.map(lambda part: send(server, part), [mixed[number::clients] for number in range(clients)])
        return [each for part in parts for each in part]


def test_mixed_requests_of_many_clients(server):
    assert crowd(server, 400, 16) == []
    assert server.predict("keras", {"instances": [[1, 2, 3]]}).json == {"predictions": [[6.0, 6.0]]}


@pytest.mark.evidence
def test_ten_thousand_mixed_requests(server, capsys):
    start = time.monotonic()
    assert crowd(server, 10_000, 32) == []
    seconds = time.monotonic() - start
    assert server.predict("keras", {"instances": [[1, 2, 3]]}).json == {"predictions": [[6.0, 6.0]]}
    with capsys.disabled():
        print(f"\n{server.kind}: 10,000 mixed requests of 32 clients in {seconds:.1f} s, {10_000 / seconds:.0f}/s")
