"""Starting servers for tests, and speaking HTTP to them without a client's help."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from waitress import wasyncore

from vse_tf.serving.http import make_app, make_server
from vse_tf.serving.loading import load_version
from vse_tf.serving.model_config import ModelConfig, read_models_config
from vse_tf.serving.registry import Registry
from vse_tf.serving.rest import RestApi
from vse_tf.serving.same_origin import own_names

LIMIT = 4 * 2**20


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body.decode("utf-8", "replace"))

    @property
    def error(self) -> str:
        return self.json["error"]


@dataclass(frozen=True)
class Server:
    """A server under test; `owned` where the test started it and may change its models."""

    kind: str
    url: str
    owned: bool = True

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    def call(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body, named)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())

    def get(self, target: str) -> Reply:
        return self.call("GET", target)

    def predict(self, model: str, body: Any, **headers: str) -> Reply:
        """POST to `/v1/models/<model>:predict`; what is no bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("POST", f"/v1/models/{model}:predict", data, **headers)


@contextlib.contextmanager
def local(
    models: list[ModelConfig], poll: float = 0.05, limit: int = LIMIT, hosts: Sequence[str] = (), **options: Any
) -> Iterator[Server]:
    """The local server in a thread of this process; `hosts` are further names that requests may be for."""
    registry = Registry(lambda: models, load_version)
    registry.look()
    registry.watch(poll)
    settings = {"workers": 4, "timeout": 60.0, **options}
    app = make_app(RestApi(registry), limit, names=own_names(hosts))
    server = make_server(app, "127.0.0.1", 0, max_body_bytes=limit, **settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield Server("local", f"http://127.0.0.1:{server.effective_port}")
    finally:
        registry.close()
        server.task_dispatcher.shutdown()
        wasyncore.close_all(server._map, ignore_all=True)
        thread.join(timeout=10)


def real_binary() -> str | None:
    """`tensorflow_model_server`, where there is one."""
    return os.environ.get("TENSORFLOW_MODEL_SERVER") or shutil.which("tensorflow_model_server")


@contextlib.contextmanager
def real(config: Path, log: Path) -> Iterator[Server]:
    """A `tensorflow_model_server` of this machine."""
    binary = real_binary()
    assert binary is not None
    rest, grpc = free_port(), free_port()
    command = [
        binary,
        f"--rest_api_port={rest}",
        f"--port={grpc}",
        f"--model_config_file={config}",
        "--max_num_load_retries=0",
        "--file_system_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
    ]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            until(lambda: _listens(rest) or process.poll() is not None, 120)
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            yield Server("real", f"http://127.0.0.1:{rest}")
        finally:
            process.terminate()


def until(happened: Any, seconds: float = 120.0) -> None:
    """Wait for something; fails when it does not happen."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(kind: str, config: Path, folder: Path) -> contextlib.AbstractContextManager[Server]:
    """A server of that kind on a models.config, started for the caller alone."""
    return local(read_models_config(config)) if kind == "local" else real(config, folder / "server.log")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
