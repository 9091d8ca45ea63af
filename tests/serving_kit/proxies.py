"""The kit's proxy as a process: a real nginx with the kit's own configuration, the way compose.yaml mounts it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.serving.servers import Server, free_port, until

KIT = Path(__file__).resolve().parents[2] / "export"


def compose() -> dict[str, Any]:
    return yaml.safe_load((KIT / "compose.yaml").read_text(encoding="utf-8"))


def volumes(service: dict[str, Any]) -> dict[str, str]:
    """What a service sees: source by target; everything is mounted read-only."""
    found = {}
    for volume in service["volumes"]:
        source, target, mode = re.fullmatch(r"(\$\{.*?\}|[^:]+):(/[^:]+):(\w+)", volume).groups()
        assert mode == "ro"
        found[target] = source
    return found


def missing() -> str | None:
    """Why the proxy cannot be run on this machine."""
    module = re.search(r"load_module (\S+);", (KIT / "nginx.conf").read_text(encoding="utf-8"))[1]
    if not shutil.which("nginx"):
        return "no nginx on the PATH to try the proxy's configuration with"
    return None if Path(module).is_file() else f"no njs module for nginx ({module}): install libnginx-mod-http-js"


needs_nginx = pytest.mark.skipif(bool(missing()), reason=str(missing()))


def configuration(folder: Path, upstream: int, port: int) -> str:
    """nginx.conf with this machine's addresses and paths in place of the containers'."""
    service = compose()["services"]["proxy"]
    at = service["command"].index("-c") + 1
    (target,) = volumes(service)
    text = (KIT / volumes(service)[target] / Path(service["command"][at]).relative_to(target)).read_text("utf-8")
    for old, new in (
        ("server model-server:8501;", f"server 127.0.0.1:{upstream};"),
        ("listen 8501;", f"listen 127.0.0.1:{port};"),
        (" /tmp/", f" {folder}/"),
        (f" {target}/", f" {KIT}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def proxy(folder: Path, upstream: int, **changes: str) -> Iterator[Server]:
    """nginx in front of a port of this machine; `changes` are other values of its directives."""
    port = free_port()
    text = configuration(folder, upstream, port)
    for directive, value in changes.items():
        text, count = re.subn(rf"\b{directive} [^;]+;", f"{directive} {value};", text)
        assert count == 1
    config, log = folder / "nginx.conf", folder / "error.log"
    config.write_text(text, encoding="utf-8")
    # Started by root, nginx would change to a user who may not enter a test's folder.
    options = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    command = ["nginx", "-e", str(log), "-c", str(config), "-p", str(folder), "-g", options]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            until(lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, log.read_text(errors="replace")
            yield Server("proxy", f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Upstream:
    """Stands in for the model server: notes each request and gives the same answer."""

    def __init__(self, answer: bytes = b'{"outputs": [[1.0]]}', delay: float = 0.0) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answered = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append((self.command, self.path, dict(self.headers.items()), body))
                released.wait(delay)
                with contextlib.suppress(ConnectionError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                    outer.answered += 1

            do_GET = do_POST  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        released = self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


def raw(server: Server, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of what a server answers to these bytes."""
    with socket.create_connection(server.address, timeout=60) as client:
        # A server that refuses a request may not read the rest of it.
        with contextlib.suppress(ConnectionError):
            client.sendall(request)
        with client.makefile("rb") as answer:
            head = b"".join(iter(answer.readline, b"\r\n"))
            return head, answer.read(int(re.search(rb"Content-Length: (\d+)", head)[1]))


def error_of(body: bytes) -> str:
    """The message of an error, which has to be JSON of the model server's form."""
    found = json.loads(body)
    assert list(found) == ["error"]
    assert found["error"]
    assert "<" not in found["error"]
    return found["error"]
