"""The kit's nginx.conf in a real nginx: what it passes on, what it answers itself, and what slow clients can do."""

from __future__ import annotations

import gzip
import json
import select
import socket
import threading
import time

import pytest

from tests.serving.servers import free_port, until
from tests.serving_kit.proxies import KIT, Upstream, error_of, needs_nginx, proxy, raw

pytestmark = needs_nginx
MODEL = "/v1/models/text_tower"
PREDICT = f"{MODEL}:predict"


@pytest.fixture(scope="module")
def served(server, tmp_path_factory):
    """In front of the local server."""
    with proxy(tmp_path_factory.mktemp("served"), server.address[1]) as running:
        yield running


@pytest.fixture(scope="module")
def upstream():
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def front(upstream, tmp_path_factory):
    """In front of a stand-in that notes what reaches it."""
    with proxy(tmp_path_factory.mktemp("front"), upstream.port) as running:
        yield running


@pytest.fixture
def arrived(upstream):
    """What has reached the stand-in since the test began."""
    upstream.requests.clear()
    return upstream.requests


def test_the_api_is_passed_on(served):
    assert served.predict("text_tower", {"instances": ["a"]}).json["predictions"]
    assert served.predict("text_tower/labels/stable", {"instances": ["a"]}).status == 200
    assert served.get(f"{MODEL}/metadata").status == 200
    assert served.get(MODEL).json["model_version_status"][0]["state"] == "AVAILABLE"


def test_the_model_servers_errors_are_passed_on(served):
    assert served.get("/v1/models/sp%20ace%2f").error.endswith("of model sp ace/")
    assert "JSON Parse error" in served.predict("text_tower", b"{").error
    missing = served.predict("text_tower/versions/9", {"instances": ["a"]})
    assert (missing.status, "Specific(text_tower, 9)" in missing.error) == (404, True)


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /", {}, 404),
        ("GET /error", {}, 404),
        ("GET /monitoring/prometheus/metrics", {}, 404),
        ("GET /v2/models/text_tower", {}, 404),
        ("GET /v1/models/../../monitoring/prometheus/metrics", {}, 404),
        ("GET /v1/models/%2e%2e/%2E%2E/monitoring/prometheus/metrics", {}, 404),
        (f"GET /monitoring/prometheus/metrics/../../..{MODEL}", {}, 404),
        (f"GET /{MODEL}", {}, 404),
        (f"DELETE {MODEL}", {}, 405),
        (f"PUT {PREDICT}", {"Content-Length": "0"}, 405),
        (f"OPTIONS {PREDICT}", {}, 405),
        (f"TRACE {MODEL}", {}, 405),
        (f"POST {PREDICT}", {"Content-Length": str(32 * 2**20 + 1)}, 413),
        (f"GET /v1/models/{'x' * 9000}", {}, 414),
        (f"POST {PREDICT}", {"Content-Encoding": "gzip", "Content-Length": "0"}, 415),
        (f"POST {PREDICT}", {"Content-Encoding": "0", "Content-Length": "0"}, 415),
        (f"POST {PREDICT}", {"content-encoding": "identity, GZIP", "Content-Length": "0"}, 415),
        (f"GET {MODEL}", {"X-Long": "x" * 9000}, 400),
        (f"POST {PREDICT}", {"Content-Length": "many"}, 400),
        (f"GET {MODEL}", {"Host": "a b"}, 400),
        ("GET relative", {}, 400),
        (f"POST {PREDICT}", {"Transfer-Encoding": "secret"}, 501),
    ],
    ids=[
        "root",
        "error",
        "monitoring",
        "v2",
        "dots",
        "encoded",
        "reached-by-dots",
        "slashes",
        "delete",
        "put",
        "options",
        "trace",
        "size",
        "address",
        "gzip",
        "zero",
        "several",
        "header",
        "length",
        "host",
        "relative",
        "transfer",
    ],
)
def test_own_errors_are_json(front, arrived, request_line, headers, status):
    lines = [f"{request_line} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {"Host": "x", "Connection": "close", **headers}.items()]
    head, body = raw(front, "\r\n".join([*lines, "", ""]).encode())
    assert int(head.split()[1]) == status
    assert b"Content-Type: application/json" in head
    assert error_of(body)
    assert not arrived


def test_no_http_at_all_is_an_error_in_json(front, arrived):
    for request in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n"):
        assert error_of(raw(front, request)[1])
    assert not arrived


def test_a_dead_model_server_is_a_502_in_json(tmp_path):
    with proxy(tmp_path, free_port()) as running:
        answer = running.predict("text_tower", {"instances": ["a"]})
        assert (answer.status, "loading" in answer.error) == (502, True)


def test_a_busy_model_server_is_a_504_in_json(tmp_path):
    with Upstream(delay=60) as slow, proxy(tmp_path, slow.port, proxy_read_timeout="1s") as running:
        answer = running.predict("text_tower", {"instances": ["a"]})
        assert (answer.status, "still be computing" in answer.error) == (504, True)
        assert len(slow.requests) == 1


def test_no_compressed_body_reaches_the_model_server(front, arrived):
    packed = gzip.compress(b"[" * 60_000)
    assert front.predict("m", packed, Content_Encoding="gzip").status == 415
    request = (
        f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(packed)}\r\n"
        "Content-Encoding:\r\nContent-Encoding: gzip\r\n\r\n"
    ).encode()
    raw(front, request + packed)
    assert all("Content-Encoding" not in headers for _, _, headers, _ in arrived)


def opened(number, bracket="["):
    return bracket.encode() * number


@pytest.mark.parametrize(
    "body",
    [
        opened(30_000),
        opened(10_001),
        opened(30_000, " [\n"),
        opened(30_000, '{"a":'),
        opened(30_000, '[0,"]",'),
        opened(15_000, '[{"\\"]}":'),
        opened(30_000, "[[],{},"),
        b'{"instances": [' + opened(30_000) + b"]" * 30_000 + b"]}",
        b'{"a": "\\\\", "b": ' + opened(10_001),
        b'["' + b"x" * 1_000_000 + b'", ' + opened(30_000),
    ],
    ids=["lists", "limit", "spaces", "objects", "strings", "mixed", "closed", "whole", "backslash", "late"],
)
def test_deep_nesting_is_refused(front, arrived, body):
    for answer in (front.predict("m", body), front.call("GET", MODEL, body)):
        assert (answer.status, "nested" in answer.error) == (400, True)
        assert answer.headers["Content-Type"] == "application/json"
    assert not arrived


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        opened(9_990) + b"]" * 9_990,
        b'{"instances": ["' + opened(60_000) + b'"]}',
        b'{"instances": ["\\"' + opened(60_000) + b'"]}',
        b'{"instances": ["\\\\", "' + opened(60_000) + b'\\\\\\"' + opened(60_000) + b'"]}',
        b'{"instances": [' + b",".join([b"[[1, 2, 3], [4, 5, 6]]"] * 20_000) + b"]}",
        b'{"instances": [{"b64": "' + b"QUJD" * 5_000_000 + b'"}]}',
        b'"' + opened(60_000) + b"\xff\xfe",
    ],
    ids=["empty", "object", "lists", "string", "escaped", "escapes", "numbers", "photo", "open"],
)
def test_other_bodies_pass_unchanged(front, arrived, body):
    assert front.predict("m", body).status == 200
    ((method, path, _, got),) = arrived
    assert (method, path, got == body) == ("POST", "/v1/models/m:predict", True)


def chunked(body, size, extension=b""):
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    packed = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts) + b"0\r\n\r\n"
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + packed


def test_bodies_in_chunks_are_treated_alike(front, arrived):
    head, body = raw(front, chunked(opened(30_000), 1000))
    assert (head.split()[1], "nested" in error_of(body)) == (b"400", True)
    assert not arrived
    text = json.dumps({"instances": ["x" * 100_000]}).encode()
    assert raw(front, chunked(text, 100))[0].split()[1] == b"200"
    assert arrived[-1][3] == text
    # More framing than contents: neither in memory in full nor above the limit.
    head, body = raw(front, chunked(b" " * 40_000, 1, b";" + b"x" * 1000))
    assert (head.split()[1], "larger" in error_of(body)) == (b"413", True)
    assert len(arrived) == 1


def test_scanning_a_body_does_not_stop_the_others(upstream, tmp_path):
    body = b"[]" * 4_000_000
    with (
        proxy(tmp_path, upstream.port, worker_processes="1") as running,
        socket.create_connection(running.address, timeout=60) as client,
    ):
        client.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        for _ in range(4):
            assert running.get(MODEL).status == 200
        assert not select.select([client], [], [], 0)[0], "the scan was over before others were served"
        assert client.recv(12) == b"HTTP/1.1 200"


def test_nesting_counts_as_far_as_the_server_was_seen_to_live():
    text = (KIT / "nesting.js").read_text(encoding="utf-8")
    assert "const LIMIT = 10000;" in text


def half(server):
    """A request whose body does not come to its end."""
    client = socket.create_connection(server.address, timeout=60)
    client.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
    return client


def test_requests_at_once_from_one_address_are_limited(front, arrived):
    waiting = [half(front) for _ in range(64)]
    try:
        until(lambda: front.get(MODEL).status == 429)
        answer = front.predict("m", b"{}")
        assert (answer.status, answer.error) == (429, "too many requests at once from this address")
    finally:
        for client in waiting:
            client.close()
    until(lambda: front.get(MODEL).status == 200)


def test_a_slow_reader_holds_no_thread_of_the_model_server(tmp_path):
    with (
        Upstream(b"x" * 30_000_000) as large,
        proxy(tmp_path, large.port) as running,
        socket.create_connection(running.address, timeout=60) as client,
    ):
        client.sendall(f"GET {MODEL} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until(lambda: large.answered == 1)


def trickle(server, first, again):
    """Seconds until a client that sends a little more each half second is cut off."""
    start = time.monotonic()
    with socket.create_connection(server.address, timeout=0.5) as client:
        try:
            client.sendall(first)
            while time.monotonic() < start + 90:
                try:
                    if again:
                        client.sendall(again)
                    if client.recv(65536) == b"":
                        break
                except TimeoutError:
                    pass
        except ConnectionError:
            pass
    return time.monotonic() - start


def test_slow_clients_are_cut_off(front, arrived):
    """Each holds 20 connections; an honest client is served all the while, and the model server sees none of them."""
    get = f"GET {MODEL} HTTP/1.1\r\nHost: x\r\n".encode()
    slow = {
        "empty lines": (b"\r\n", b"\r\n"),
        "request line": (b"GET /v1", b"/"),
        "headers": (get, b"X-A: b\r\n"),
        "silence": (b"", b""),
        "half a body": (f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx".encode(), b""),
        "empty lines after an answer": (get + b"\r\n", b"\r\n"),
    }
    seconds: dict[str, float] = {}

    def run(name, first, again):
        seconds[name] = max(seconds.get(name, 0.0), trickle(front, first, again))

    threads = [threading.Thread(target=run, args=(name, *each)) for name, each in slow.items() for _ in range(10)]
    for thread in threads:
        thread.start()
    honest = 0
    while any(thread.is_alive() for thread in threads):
        assert front.predict("honest", b"{}").status == 200
        honest += 1
        time.sleep(0.2)
    assert honest > 10
    assert {name: took < 60 for name, took in seconds.items()} == dict.fromkeys(slow, True)
    assert {path for method, path, _, _ in arrived if method == "POST"} == {"/v1/models/honest:predict"}
