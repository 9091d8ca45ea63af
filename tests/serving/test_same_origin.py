"""Host, Origin and Sec-Fetch-Site: who is answered, on every path, and who is not."""

from __future__ import annotations

import socket

import pytest
from werkzeug.test import Client
from werkzeug.wrappers import Response

from tests.serving import models
from tests.serving.servers import local
from vse_tf.errors import UserError
from vse_tf.serving.http import make_app
from vse_tf.serving.model_config import ModelConfig
from vse_tf.serving.registry import Registry
from vse_tf.serving.rest import RestApi
from vse_tf.serving.same_origin import is_loopback, own_names

PATHS = ("/v1/models/m", "/", "/page/page.js", "/gallery", "/gallery/thumbnails/0", "/nothing")
NAMES = own_names(["Photos.Example.org."])


def ask(path="/v1/models/m", method="GET", **headers):
    def every(request):
        return Response("private") if request.path != "/nothing" else None

    client = Client(make_app(RestApi(Registry(list, None)), 1000, [every], NAMES))
    headers = {"Host": "localhost:8501", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return client.open(path, method=method, headers=headers)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8501",
        "localhost.",
        "localhost.:80",
        "127.0.0.1",
        "127.0.0.1:8501",
        "192.168.1.20:1",
        "[::1]",
        "[::1]:8501",
        "[FE80::1]:80",
        "photos.example.org",
        "PHOTOS.example.org.:443",
    ],
)
def test_names_of_this_server_are_answered(host):
    assert ask("/", Host=host).status_code == 200


def test_the_machines_own_name_is_one_of_them():
    assert ask("/", Host=socket.gethostname().upper()).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8501",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "sub.photos.example.org",
        "example.org",
        "localhost, evil.example",
        "localhost, localhost",
        "localhost:8501:80",
        "localhost:x",
        "localhost@evil.example",
        "evil.example#localhost",
        "localhost/",
        "localhost..",
        "[localhost]",
        "[127.0.0.1]",
        "[::1",
        "::1",
        "2130706433",
        "0x7f.1",
        "",
        "ĺocalhost".encode().decode("latin-1"),
    ],
)
def test_other_hosts_are_refused_on_every_path(host, path):
    got = ask(path, Host=host)
    assert got.status_code == 403
    assert "--hosts" in got.json["error"]
    assert len(got.data) < 500
    assert "private" not in got.text


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost:8501.evil.example"},
        {"Origin": "http://localhost:8501, http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "same-origin, cross-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
        {"Origin": "http://localhost:8501", "Sec_Fetch_Site": "cross-site"},
    ],
)
def test_foreign_pages_are_refused_on_every_path(headers, path):
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        got = ask(path, method, **headers)
        assert got.status_code == 403
        assert "private" not in got.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:8501"},
        {"Origin": "HTTP://LOCALHOST:8501", "Sec_Fetch_Site": "same-origin"},
        {"Origin": "https://photos.example.org", "Host": "photos.example.org"},
        {"Origin": "http://[::1]:8501", "Host": "[::1]:8501"},
        {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"},
    ],
)
def test_the_page_and_other_programs_are_answered(headers):
    assert ask("/gallery", **headers).status_code == 200
    assert ask("/v1/models/m", **headers).json == {"error": "Could not find any versions of model m"}


def test_a_link_elsewhere_leads_to_the_page_alone():
    navigated = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ask("/", **navigated).status_code == 200
    assert ask("/?q=dog", **navigated).status_code == 200
    assert ask("/", "POST", **navigated).status_code == 403
    for path in PATHS[2:]:
        assert ask(path, **navigated).status_code == 403
    assert ask("/", **navigated, Host="evil.example").status_code == 403


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_forbids_embedding_elsewhere(path):
    for headers in ({}, {"Host": "evil.example"}, {"Origin": "null"}):
        assert ask(path, **headers).headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("models") / "m"
    models.save(models.Words(), root / "1", default="serve")
    with local([ModelConfig("m", root)]) as running:
        yield running


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v1/models/m HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /v1/models/m HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /v1/models/m HTTP/1.1\r\nHost:\r\n\r\n", b"403"),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"403"),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n", b"403"),
        (b"GET /v1/models/m HTTP/1.0\r\nOrigin: http://localhost\r\n\r\n", b"403"),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"403"),
        (b"GET /v1/models/m HTTP/1.1\r\nhOST: LOCALHOST\r\n\r\n", b"200"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_headers_as_they_come_over_the_wire(server, sent, status):
    with socket.create_connection(server.address, timeout=30) as client:
        client.sendall(sent)
        answer = client.recv(10_000)
    assert answer.split()[1] == status
    assert b"Cross-Origin-Resource-Policy: same-origin" in answer


@pytest.mark.parametrize("host", ["http://a", "a:80", "*", "", "a b", ".a", "a/b", "[::1]"])
def test_what_is_no_name_is_refused_as_an_option(host):
    with pytest.raises(UserError, match=r"--hosts: .* is not a host name; give it without scheme, port and path"):
        own_names(["good", host])


def test_addresses_of_this_machine_alone():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "desk", "localhost.evil.example", "")))
