"""An S3 server on this machine, moto's, with a proxy in front of it that makes faults."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "photos"
KEYS = {"AWS_ACCESS_KEY_ID": "the-key", "AWS_SECRET_ACCESS_KEY": "the-secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Bucket:
    """The server, and what it has been asked for.

    Attributes:
        faults: called with method, path and the number of the request for that path; returns `cut`, `503`, `slow`, a
            function to call after the answer was read from the server, or None.
        requests: method and path of every request.
    """

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer  # noqa: PLC0415

        self.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.moto.start()
        self.moto_port = self.moto.get_host_and_port()[1]
        self.proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.proxy.daemon_threads = True
        threading.Thread(target=self.proxy.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.proxy.server_port}"
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.url}
        self.empty()

    def empty(self) -> None:
        """Begin again, without objects and faults."""
        self.ask("POST", "/moto-api/reset")
        self.ask("PUT", f"/{BUCKET}")
        self.faults = lambda method, path, number: None
        self.requests: list[tuple[str, str]] = []

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A request past the proxy."""
        connection = http.client.HTTPConnection("127.0.0.1", self.moto_port)
        connection.request(method, path, body, {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3"})
        answer = connection.getresponse().read()
        connection.close()
        return answer

    def put(self, name: str, contents: bytes) -> None:
        self.ask("PUT", f"/{BUCKET}/{name}", contents)

    def get(self, name: str) -> bytes:
        return self.ask("GET", f"/{BUCKET}/{name}")

    def put_folder(self, folder: Path, name: str) -> None:
        """Copy a folder, as `aws s3 cp --recursive` does."""
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def names(self, prefix: str = "") -> list[str]:
        import re  # noqa: PLC0415

        found = self.ask("GET", f"/{BUCKET}?list-type=2&max-keys=1000&prefix={prefix}").decode()
        return re.findall("<Key>(.*?)</Key>", found)

    def folder(self, name: str) -> dict[str, bytes]:
        return {key.removeprefix(f"{name}/"): self.get(key) for key in self.names(f"{name}/")}

    def close(self) -> None:
        self.proxy.shutdown()
        self.proxy.server_close()
        self.moto.stop()


def _handler(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
    counts: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            place = self.path.partition("?")[0]
            counts[place] = counts.get(place, 0) + 1
            bucket.requests.append((self.command, self.path))
            fault = bucket.faults(self.command, place, counts[place])
            body = self._body()
            if fault == "503":
                self._answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
                return
            headers = {key: value for key, value in self.headers.items() if key.lower() != "expect"}
            if "chunked" in headers.get("Transfer-Encoding", ""):
                del headers["Transfer-Encoding"]
                headers["Content-Length"] = str(len(body))
            connection = http.client.HTTPConnection("127.0.0.1", bucket.moto_port)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            contents = answer.read()
            if callable(fault):
                fault()
            if fault == "slow":
                time.sleep(0.5)
            self._answer(answer.status, dict(answer.getheaders()), contents, cut=fault == "cut")
            connection.close()

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
            self.send_response_only(status)
            for key, value in headers.items():
                if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(key, value)
            length = headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(b"" if self.command == "HEAD" else body[: len(body) // 2] if cut else body)
                self.wfile.flush()
            if cut:
                self.close_connection = True
                self.connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _forward  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
