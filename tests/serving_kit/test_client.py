"""The client: against the local server, and against one that fails in every way on demand."""

from __future__ import annotations

import ast
import contextlib
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from export import client as kit
from export.client import Client
from tests.serving.servers import free_port, local
from vse_tf.serving.model_config import models_below

FILE = Path(kit.__file__)


@pytest.fixture
def client(server):
    return Client(server.url, pause=0.01)


class Faulty:
    """A server that answers each request as the next step of a script says: bytes to send, or a fault."""

    def __init__(self, *script, port=0):
        self.script = list(script)
        self.bodies = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                outer.answer(self)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.released = threading.Event()

    def answer(self, handler):
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if step == "hang":
            self.released.wait(20)
            handler.close_connection = True
        elif step == "drop":
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif step == "cut":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            handler.close_connection = True
        elif step == "garbage":
            handler.wfile.write(b"\x00\xff no http\r\n\r\n")
            handler.close_connection = True
        elif step == "close":
            handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"outputs": [[1]]}')
            handler.close_connection = True
        else:
            status, body, *headers = step
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            handler.send_response(status)
            for name, value in headers:
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


GOOD = (200, {"outputs": [[1.0, 0.0]]})
BUSY = (503, {"error": "busy"})


def texts_of(body):
    return json.loads(body)["inputs"]["text"]


def test_texts_in_batches_and_in_order(server):
    texts = [f"text {number}" for number in range(23)]
    one, many = Client(server.url, batch=100).embed_texts(texts), Client(server.url, batch=5).embed_texts(texts)
    np.testing.assert_allclose(one, many, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(Client(server.url).embed_texts([texts[7]]), [one[7]], rtol=1e-6)
    assert Client(server.url).embed_texts([]) == []


def test_images_as_paths_and_bytes(client, photos):
    rows = client.embed_images([photos["red"], str(photos["green"]), photos["blue"].read_bytes()])
    np.testing.assert_allclose(rows, np.eye(3) * 255)


def test_the_image_at_fault_is_named_or_skipped(server, photos):
    client = Client(server.url, batch=3)
    images = [photos["red"]] * 4 + [photos["broken"]] + [photos["blue"]] * 2
    with pytest.raises(kit.BadRequestError, match="item 4: ") as caught:
        client.embed_images(images)
    assert caught.value.item == 4
    rows = client.embed_images([*images, photos["broken"]], skip_bad=True)
    assert [row is None for row in rows] == [False] * 4 + [True] + [False] * 2 + [True]
    assert rows[6] == [0, 0, 255]


def test_requests_stay_below_the_size_limit(photos):
    with Faulty(GOOD) as faulty:
        client = Client(faulty.url, max_request_bytes=1000, retries=0)
        with contextlib.suppress(kit.BadAnswerError):
            client.embed_images([b"x" * 600] * 3)
        assert all(len(body) < 1000 + 100 for body in faulty.bodies)


def test_search(client, photos):
    hits = client.search_text("something green")
    assert hits[0] == kit.Hit("green.png", 1.0, "a green card")
    assert len(hits) == 3
    assert [hit.id for hit in client.search_image(photos["blue"], top=1)] == ["blue.png"]


def test_hits_have_their_relevance_where_it_is_known():
    columns = {"ids": [["a", "b"]], "scores": [[0.5, 0.4]], "captions": [["x", "y"]]}
    for relevance, expected in (([[0.9, 0]], [0.9, 0.0]), (None, [None, None])):
        outputs = columns if relevance is None else {**columns, "relevance": relevance}
        with Faulty((200, {"outputs": outputs})) as faulty:
            assert [hit.relevance for hit in Client(faulty.url).search_text("x")] == expected


def test_mixed_search(client, photos):
    hits = client.search_mixed("green", photos["blue"], without="red")
    assert [(hit.id, hit.score) for hit in hits] == [("green.png", 1), ("blue.png", 1), ("red.png", -1)]
    assert [hit.score for hit in client.search_mixed("green", without="red")] == [1, 0, -1]
    with pytest.raises(ValueError, match="an image or both"):
        client.search_mixed(without="red")


def test_status_and_waiting(client):
    assert client.status("text_tower") == {1: "AVAILABLE"}
    client.wait("text_tower", 1)
    with pytest.raises(kit.NotFoundError, match="nope"):
        client.status("nope")
    with pytest.raises(kit.UnavailableError, match="nope does not answer after"):
        client.wait("nope", 0.01)


def test_waiting_for_a_server_that_starts_later():
    port = free_port()
    client = Client(f"http://127.0.0.1:{port}", pause=0.01, retries=0)
    loading, ready = (
        (200, {"model_version_status": [{"version": "1", "state": state}]}) for state in ("LOADING", "AVAILABLE")
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait, "m", 20)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        with Faulty(loading, loading, ready, port=port) as faulty:
            waiting.result(20)
    assert len(faulty.bodies) == 3


def test_versions_and_labels(server):
    assert Client(server.url, version=1).embed_texts(["a"])
    with pytest.raises(kit.NotFoundError, match=r"Specific\(text_tower, 9\)"):
        Client(server.url, version=9).embed_texts(["a"])
    with pytest.raises(kit.BadRequestError, match="Unrecognized servable version label: new"):
        Client(server.url, label="new").embed_texts(["a"])
    with pytest.raises(ValueError, match="not both"):
        Client(server.url, version=1, label="new")


@pytest.mark.parametrize(
    "fault",
    [BUSY, (429, "x"), (502, b"<html>"), "drop", "cut", "garbage"],
    ids=["503", "429", "502", "drop", "cut", "garbage"],
)
def test_what_may_pass_is_tried_again(fault):
    with Faulty(fault, fault, GOOD) as faulty:
        client = Client(faulty.url, pause=0.001, retries=2)
        assert client.embed_texts(["a"]) == [[1.0, 0.0]]
        assert [texts_of(body) for body in faulty.bodies] == [["a"]] * 3


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ((400, {"error": "no such\ninput"}), kit.BadRequestError, "no such input"),
        ((404, {"error": "no model"}), kit.NotFoundError, "404 .*no model"),
        ((413, b"<html>413 Request Entity Too Large</html>"), kit.TooLargeError, "Request Entity Too Large"),
        ((500, {"error": "a bug"}), kit.BadAnswerError, "500 .*a bug"),
        ((403, b""), kit.BadAnswerError, "403 Forbidden$"),
        ((504, {"error": "still computing"}), kit.TimedOutError, "504 .*still computing"),
        ((504, b"<html>"), kit.TimedOutError, "504 Gateway Timeout$"),
        ((200, b"a portal"), kit.BadAnswerError, "not the answer of a model server: a portal"),
        ((200, []), kit.BadAnswerError, "not the answer"),
        ((200, {"predictions": []}), kit.BadAnswerError, "without outputs"),
        ((200, {"outputs": [[1], [2]]}), kit.BadAnswerError, "1 inputs, but not as many vectors"),
        ((200, {"outputs": 3}), kit.BadAnswerError, "1 inputs"),
        ("hang", kit.TimedOutError, "no answer within 0.3 s"),
    ],
)
def test_what_will_not_pass_is_told_at_once(fault, kind, told):
    with Faulty(fault) as faulty:
        with pytest.raises(kind, match=told):
            Client(faulty.url, pause=0.001, timeout=0.3).embed_texts(["a"])
        assert len(faulty.bodies) == 1


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405, 413, 415, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    "page",
    [
        b"<html>\r\n<head><title>An Error</title></head>",
        b"\xef\xbb\xbf  <!DOCTYPE HTML><p>An Error",
        b"An Error<br>",
        b'<?xml version="1.0"?><error/>',
        b"<" * 300 + b"HTML>An Error",
    ],
    ids=["page", "doctype", "fragment", "xml", "late"],
)
def test_no_message_holds_html(status, page):
    with Faulty((status, page)) as faulty:
        with pytest.raises(kit.ServingError) as caught:
            Client(faulty.url, retries=1, pause=0.001).embed_texts(["a"])
        assert "<" not in str(caught.value)
        assert "An Error" not in str(caught.value)
        assert str(caught.value).strip(": ") == str(caught.value)


def test_status_needs_no_gallery_and_takes_names(export_folder, capsys):
    towers = [model for model in models_below(export_folder) if model.name != "retrieval"]
    with local(towers) as server:
        kit.main(["--url", server.url, "status", "--wait", "5"])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["model"] for line in lines] == ["image_tower", "text_tower"]
        kit.main(["--url", server.url, "status", "text_tower"])
        assert json.loads(capsys.readouterr().out) == {"model": "text_tower", "versions": {"1": "AVAILABLE"}}
        with pytest.raises(SystemExit) as end:
            kit.main(["--url", server.url, "status", "retrieval"])
        assert end.value.code == 2


def test_a_model_that_is_still_loading_is_waited_for():
    ready = (200, {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]})
    with Faulty((502, b"<html>"), (504, b"<html>"), ready) as faulty:
        Client(faulty.url, pause=0.01, retries=0).wait("m", 20)
        assert len(faulty.bodies) == 3


def test_retries_end(monkeypatch):
    pauses = []
    monkeypatch.setattr(kit.time, "sleep", pauses.append)
    with Faulty(BUSY) as faulty:
        with pytest.raises(kit.UnavailableError, match=r"503 .*busy \(tried 4 times\)"):
            Client(faulty.url, retries=3, pause=1.0).embed_texts(["a"])
        assert len(faulty.bodies) == 4
    assert [1 <= pause / 0.5 / 2**number <= 2 for number, pause in enumerate(pauses)] == [True] * 3
    pauses.clear()
    with Faulty((503, "x", ("Retry-After", "7")), (503, "x", ("Retry-After", "soon")), GOOD) as faulty:
        Client(faulty.url, pause=0.001).embed_texts(["a"])
    assert pauses[0] == 7.0
    assert pauses[1] < 1


def test_nobody_listens(monkeypatch):
    pauses = []
    monkeypatch.setattr(kit.time, "sleep", pauses.append)
    with pytest.raises(kit.UnavailableError, match=r"refused \(tried 3 times\)"):
        Client(f"http://127.0.0.1:{free_port()}", retries=2).embed_texts(["a"])
    assert len(pauses) == 2


def test_one_connection_serves_until_the_server_closes_it():
    connections = set()
    with Faulty(GOOD, GOOD, "close", GOOD) as faulty:
        answer = faulty.answer
        faulty.answer = lambda handler: (connections.add(handler.client_address), answer(handler))
        client = Client(faulty.url, retries=0)
        for _ in range(4):
            client.embed_texts(["a"])
    assert len(connections) == 2


def test_a_request_above_the_limit_is_told_as_such(server):
    with pytest.raises(kit.TooLargeError, match=r"413 .*the limit is"):
        Client(server.url, retries=0).embed_texts(["x" * (8 * 2**20)])


def test_many_threads_share_a_client(client):
    texts = [f"text {number}" for number in range(100)]
    expected = client.embed_texts(texts)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda text: client.embed_texts([text])[0], texts))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_an_address_with_a_path_and_headers():
    seen = []
    with Faulty(GOOD) as faulty:
        answer = faulty.answer
        faulty.answer = lambda handler: (seen.append((handler.path, handler.headers["X-Token"])), answer(handler))
        Client(f"{faulty.url}/models/", headers={"X-Token": "secret"}).embed_texts(["a"])
    assert seen == [("/models/v1/models/text_tower:predict", "secret")]
    for url in ("ftp://x", "http://", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="no http"):
            Client(url)


def test_one_text_is_no_list(client):
    with pytest.raises(TypeError, match="list of strings"):
        client.embed_texts("a dog")
    with pytest.raises(TypeError, match="list"):
        client.embed_images("dog.jpg")


def run(*arguments, given=None):
    command = [sys.executable, "-I", str(FILE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=given, check=False)


def test_the_command_line(server, photos):
    done = run("--url", server.url, "text", "a dog", "-", given="a cat\na cow\n")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["a dog", "a cat", "a cow"]
    assert len(rows[0]["embedding"]) == 3


def test_the_other_commands(server, photos, capsys):
    def lines(*arguments):
        kit.main(["--url", server.url, *map(str, arguments)])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert lines("status", "--wait", 1)[1] == {"model": "text_tower", "versions": {"1": "AVAILABLE"}}
    assert lines("search", "green", "--top", 1) == [{"id": "green.png", "score": 1.0, "caption": "a green card"}]
    assert lines("search", "--image", photos["red"])[0]["id"] == "red.png"
    mixed = lines("search", "green", "--image", photos["blue"], "--without", "red")
    assert [line["score"] for line in mixed] == [1, 1, -1]
    assert [line["score"] for line in lines("search", "green", "--without", "red")] == [1, 0, -1]
    assert lines("status")[2]["model"] == "retrieval"
    assert [line["image"] for line in lines("image", photos["red"], photos["blue"])] == [
        str(photos["red"]),
        str(photos["blue"]),
    ]
    assert lines("compare", photos["red"], "x", "y")[0].keys() == {"text", "score"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["image", "gone.jpg"], "gone.jpg"),
        (["image", "BROKEN"], "item 0: "),
        (["--version", "9", "text", "a"], "Specific(text_tower, 9)"),
        (["status", "nope"], "nope"),
    ],
)
def test_mistakes_are_one_line(server, photos, capsys, arguments, told):
    named = [str(photos["broken"]) if each == "BROKEN" else each for each in arguments]
    with pytest.raises(SystemExit) as end:
        kit.main(["--url", server.url, *named])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_it_needs_the_standard_library_only():
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert names <= set(sys.stdlib_module_names)
