"""What the local server sets limits to, which the real one leaves to a proxy: size, cost, time to arrive."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import itertools
import json
import socket
import time

import pytest

from tests.serving import models
from tests.serving.pictures import bomb
from tests.serving.servers import local
from vse_tf.serving import cost, inputs
from vse_tf.serving.model_config import ModelConfig

LIMIT = 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models") / "m"
    models.save(models.Words(), root / "1", default="serve")
    return root


@pytest.fixture(scope="module")
def server(folder):
    with local([ModelConfig("m", folder)], limit=LIMIT) as running:
        yield running


def body(size):
    frame = len(json.dumps({"instances": [""]}))
    return json.dumps({"instances": ["x" * (size - frame)]}).encode()


def answers(server):
    return server.predict("m", {"instances": ["a"]}).status == 200


def test_a_body_may_have_the_size_of_the_limit_and_no_more(server):
    assert server.predict("m", body(LIMIT)).status == 200
    got = server.predict("m", body(LIMIT + 1))
    assert got.status == 413
    assert got.error == f"The request's body has {LIMIT + 1} bytes, the limit is {LIMIT}"
    assert answers(server)


def test_a_client_that_sends_everything_first_still_hears_why(server):
    got = server.predict("m", body(20 * 2**20))
    assert got.status == 413
    assert "the limit is" in got.error


def test_a_chunked_body_is_counted_too(server):
    got = server.call("POST", "/v1/models/m:predict", iter([b"x" * 60_000] * 3))
    assert got.status == 413
    assert answers(server)


def test_a_far_too_large_body_is_cut_off_at_its_header(server):
    with socket.create_connection(server.address, timeout=30) as client:
        client.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413")
    assert answers(server)


def test_a_body_that_inflates_beyond_the_limit_is_refused(server):
    for size in (LIMIT + 1, 50_000_000):
        got = server.predict("m", gzip.compress(b" " * size), Content_Encoding="gzip")
        assert got.status == 413
        assert "inflates" in got.error
    two = gzip.compress(b" " * (LIMIT - 10)) + gzip.compress(b" " * 20)
    assert server.predict("m", two, Content_Encoding="gzip").status == 413


def test_gzip_in_several_parts_is_inflated(server):
    two = gzip.compress(b'{"instances":') + gzip.compress(b'["a"]}')
    assert server.predict("m", two, Content_Encoding="gzip").status == 200


@pytest.mark.parametrize(
    "packed",
    # Compressed data holds the time: never without an id.
    [b"no gzip", gzip.compress(b'{"instances": ["a"]}')[:-12], b"\x1f\x8b\x08"],
    ids=["text", "cut off", "its first bytes"],
)
def test_broken_gzip(server, packed):
    got = server.predict("m", packed, Content_Encoding="gzip")
    assert got.status == 400
    assert "gzip" in got.error


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", [b"x"]),
        (b"", [b"\r\n"]),
        (b"", [b"\r", b"\n"]),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: localhost\r\n\r\n", [b"\r\n\r\n"]),
    ],
    ids=["body", "empty lines", "halves of empty lines", "empty lines after a request"],
)
def test_a_slow_request_is_given_up(folder, first, drip):
    with local([ModelConfig("m", folder)], timeout=1.0) as server, socket.create_connection(server.address) as client:
        client.settimeout(10)
        client.sendall(first)
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for part in itertools.cycle(drip):
                if time.monotonic() - start > 20:
                    break
                client.sendall(part)
                time.sleep(0.2)
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    if client.recv(10_000) == b"":
                        break
                client.setblocking(True)
        assert time.monotonic() - start < 15
        assert answers(server)


def test_a_connection_in_use_outlives_the_timeout(folder):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(local([ModelConfig("m", folder)], timeout=1.0))
        connection = stack.enter_context(contextlib.closing(http.client.HTTPConnection(*server.address, timeout=30)))
        connection.connect()
        first = connection.sock
        for _ in range(12):
            connection.request("GET", "/v1/models/m")
            assert connection.getresponse().read()
            assert connection.sock is first
            time.sleep(0.2)


def test_slow_clients_keep_no_worker_busy(folder):
    with local([ModelConfig("m", folder)], workers=1) as server, contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.create_connection(server.address))
            client.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
        assert answers(server)


def test_a_client_that_leaves_in_the_middle_does_no_harm(server):
    for sent in (b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf", b"GET /v1/mod", b""):
        with socket.create_connection(server.address) as client:
            client.sendall(sent)
    assert answers(server)


@pytest.mark.parametrize(
    "sent",
    [
        b"no http at all\r\n\r\n",
        b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST /v1/models/m:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"x" * 300_000 + b" HTTP/1.1\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
    ],
    ids=["text", "length", "chunk", "long address", "bytes"],
)
def test_what_is_no_http_is_refused(server, sent):
    with socket.create_connection(server.address, timeout=30) as client, contextlib.suppress(ConnectionError):
        client.sendall(sent)
        assert client.recv(100).split()[1] in (b"400", b"431", b"501")
    assert answers(server)


def test_connections_are_kept(server):
    with contextlib.closing(http.client.HTTPConnection(*server.address, timeout=30)) as connection:
        for _ in range(3):
            connection.request("POST", "/v1/models/m:predict", b'{"instances": ["a"]}')
            response = connection.getresponse()
            assert response.status == 200
            response.read()
            assert not response.will_close


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """A server with the limits on cost of a real one, and a body limit that leaves them to it."""
    root = tmp_path_factory.mktemp("models")
    models.save(models.Dual(1), root / "m" / "1", *models.DUAL)
    with local([ModelConfig("m", root / "m")], limit=32 * 2**20) as running:
        yield running


def b64(contents):
    return {"b64": base64.b64encode(contents).decode()}


@pytest.mark.parametrize(
    ("signature", "values", "told"),
    [
        ("", [""] * 8193, "The request has 8193 inputs, the limit is 8192"),
        ("", [""] * 1_000_000, "The request has 1000000 inputs, the limit is 8192"),
        ("scalar", [0] * 8193, "The request has 8193 inputs"),
        ("echo", [b64(b"none")] * 8193, "The request has 8193 inputs"),
        ("echo", [b64(bomb(1))] * 1025, "The request has 1025 images, the limit is 1024"),
        ("echo", [b64(bomb(7000))] * 6, "6 images announce 294000000 pixels together, the limit is 250000000"),
        ("", [[]] * 5_000_000, "The request's JSON would take 725 MB in memory, the limit is 700 MB"),
    ],
    ids=["inputs", "a million", "numbers", "no images", "images", "pixels", "JSON"],
)
def test_what_asks_for_too_much_is_refused(roomy, signature, values, told):
    for key in ("instances", "inputs"):
        body = json.dumps({"signature_name": signature, key: values}, separators=(",", ":")).encode()
        got = roomy.predict("m", body)
        assert got.status == 413
        assert told in got.error
        assert len(got.body) < 300
        zipped = roomy.predict("m", gzip.compress(body, 1), Content_Encoding="gzip")
        assert (zipped.status, zipped.error) == (413, got.error)
    assert answers(roomy)


def test_what_is_just_within_the_limits_is_answered(roomy):
    for signature, values in (
        ("", [""] * 8192),
        ("echo", [b64(bomb(7000))] * 5),
        ("echo", [b64(bomb(1))] * 1024),
        ("echo", [b64(b"none")] * 8192),
    ):
        got = roomy.predict("m", {"signature_name": signature, "instances": values})
        assert got.status == 200
        assert len(got.json["predictions"]) == len(values)


def test_an_answer_above_the_limit_is_refused(roomy, monkeypatch):
    monkeypatch.setattr(cost, "MAX_ANSWER_BYTES", 10_000)
    assert roomy.predict("m", {"instances": ["a"] * 10}).status == 200
    got = roomy.predict("m", {"instances": ["a"] * 8000})
    assert got.status == 413
    assert got.error == "The answer has more than the limit of 10000 bytes; send fewer inputs in a request"


@pytest.mark.parametrize(
    "request_of",
    [
        lambda long: {"signature_name": long, "instances": ["a"]},
        lambda long: {"instances": [{long: "a"}]},
        lambda long: {"instances": [1, long]},
        lambda long: {"signature_name": "item", "instances": [{long: 1, "title": "a"}]},
        lambda long: {long: long},
    ],
    ids=["signature", "input", "value", "other input", "key"],
)
def test_an_error_is_short_whatever_it_quotes(roomy, request_of):
    got = roomy.predict("m", request_of("ä" * 1_000_000))
    assert got.status == 400
    assert len(got.body) < 21_000


def test_an_error_about_a_long_address_is_short(roomy):
    got = roomy.get("/v1/models/" + "x" * 100_000)
    assert got.status == 404
    assert len(got.body) < 11_000
    assert got.error.endswith(" characters)")


def test_a_fault_at_the_end_of_many_values_is_named(roomy, monkeypatch):
    looked_at = []
    convert = inputs._convert
    monkeypatch.setattr(inputs, "_convert", lambda values, kind: looked_at.append(len(values)) or convert(values, kind))
    for last in ("x", [1]):
        rows = [[0] * 500 for _ in range(4000)]
        rows[-1][-1] = last
        got = roomy.predict("m", {"signature_name": "scalar", "inputs": rows})
        assert got.status == 400
        assert "item 3999" in got.error
    # By halves and not one by one, which took a minute.
    assert sum(looked_at) < 5 * 2_000_000
