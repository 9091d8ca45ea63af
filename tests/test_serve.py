"""The command: one process that loads, serves, follows its folder and stops when it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.serving import models
from tests.serving.servers import until
from vse_tf import serve
from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.serving import http
from vse_tf.serving.servable import Servable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    models.save(models.Dual(1), root / "dual" / "1", "serving_default")
    return root


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    writer = IndexWriter(folder / "index", "captions", 4)
    items = [Item(str(row), caption=f"text {row}") for row in range(4)]
    writer.commit([writer.write(np.eye(4, dtype=np.float32))], items, {"id": "a"}, root=folder)
    return folder / "index"


@contextlib.contextmanager
def running(*arguments):
    """The command as a process, and the lines that it has printed."""
    command = [sys.executable, "-m", "vse_tf.serve", "--port", "0", *map(str, arguments)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        lines, errors = [], []
        readers = [
            threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True),
            threading.Thread(target=lambda: errors.extend(iter(process.stderr.readline, "")), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            yield process, lines, errors
        finally:
            process.kill()
            process.wait()


def address(lines):
    return next((line.split()[2] for line in lines if line.startswith("serving at ")), None)


def ask(url, body=None):
    with urllib.request.urlopen(url, body and json.dumps(body).encode(), timeout=30) as response:
        return json.load(response)


def test_the_command_from_start_to_stop(folder, gallery):
    options = ("--models", folder, "--versions", "all", "--label", "first=1", "--gallery", gallery)
    with running(*options) as (process, lines, errors):
        until(lambda: address(lines) or process.poll() is not None, 120)
        url = address(lines)
        assert url, errors
        assert url.startswith("http://127.0.0.1:")
        got = ask(f"{url}/v1/models/dual/labels/first:predict", {"instances": ["a"]})
        assert got["predictions"][0][0] == pytest.approx(3.6)
        assert ask(f"{url}/gallery/nearest", {"vector": [0, 0, 2, 0], "k": 1})["items"][0]["caption"] == "text 2"
        with urllib.request.urlopen(url) as page:
            assert page.headers.get_content_type() == "text/html"
        models.save(models.Dual(2), folder / "dual" / ".beside", "serving_default")
        (folder / "dual" / ".beside").rename(folder / "dual" / "2")
        models.save(models.Words(), folder / "words" / "1", default="serve")
        until(lambda: "dual 2: available\n" in lines and "words 1: available\n" in lines)
        assert len(ask(f"{url}/v1/models/dual")["model_version_status"]) == 2
        assert len(ask(f"{url}/v1/models/words:predict", {"instances": ["a"]})["predictions"]) == 1
        # A connection that idles must not hold the end up.
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1]))):
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        until(lambda: lines[-1] == "stopped\n")
        assert not [line for line in errors if "Traceback" in line]


def test_the_page_opens_while_the_image_tower_loads(gallery, tmp_path, monkeypatch, capsys):
    for name in ("image_tower", "text_tower"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "saved_model.pb").touch()
    loaded, may_load = [], threading.Event()

    def load(version, folder):
        assert folder.parent.name == "text_tower" or may_load.wait(20)
        loaded.append(folder.parent.name)
        return Servable(version, {}, {}, None)

    class Server:
        effective_port = 1

        def run(self):
            assert loaded == ["text_tower"]
            may_load.set()
            until(lambda: "image_tower 1: available" in capsys.readouterr().out)

        def close(self):
            pass

    monkeypatch.setattr(serve, "_load_version", load)
    monkeypatch.setattr(http, "make_server", lambda *options: Server())
    serve.main(["--models", str(tmp_path), "--gallery", str(gallery)])
    assert loaded == ["text_tower", "image_tower"]


def test_help_answers_without_tensorflow():
    code = (
        "import sys, vse_tf.serve\n"
        "try: vse_tf.serve.main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'tensorflow', 'keras', 'waitress'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--max-body-bytes" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name a run and images with --run and --images, or the folder of exported models with --models"),
        (["--run", "gone", "--images", "EMPTY"], "gone: no run here"),
        (["--run", "gone"], "name both the run and the images"),
        (["--images", "EMPTY"], "name both the run and the images"),
        (["--run", "gone", "--models", "MODELS"], "--models does not go with --run"),
        (["--run", "gone", "--images", "EMPTY", "--gallery", "EMPTY"], "--gallery does not go with --run"),
        (["--models", "MODELS", "--index", "EMPTY"], "--models does not go with --index"),
        (["--models", "EMPTY"], "EMPTY holds no models"),
        (["--models", "gone"], "no folder gone"),
        (["--models", "MODELS", "--label", "stable"], "LABEL=VERSION"),
        (["--models", "MODELS", "--label", "stable=99"], "no model has a version 99"),
        (["--models", "MODELS", "--versions", "0"], "versions"),
        (["--models", "MODELS", "--port", "70000"], "port"),
        (["--models", "MODELS", "--workers", "0"], "workers"),
        (["--models", "MODELS", "--hosts", "http://desk"], "--hosts: 'http://desk' is not a host name"),
        (["--models", "MODELS", "--timeout", "-1"], "timeout"),
        (["--models", "MODELS", "--gallery", "EMPTY"], "EMPTY"),
        (["--models-config", "gone.config"], r"gone\.config: cannot be read"),
        (["--models", "MODELS", "--host", "300.0.0.1"], "cannot serve at 300.0.0.1"),
        (["--models", "MODELS", "--port", "TAKEN"], "something is listening there"),
        (["--models", "BROKEN", "--port", "0"], "no model could be loaded: .*saved_model.pb"),
        (["--wrong"], "--wrong"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN" / "m" / "1").mkdir(parents=True)
    (tmp_path / "MODELS").symlink_to(folder)
    with socket.socket() as taken, pytest.raises(UserError, match=told):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serve.main([str(taken.getsockname()[1]) if each == "TAKEN" else each for each in arguments])


def test_an_address_that_others_reach_is_warned_of(folder):
    with running("--models", folder, "--host", "0.0.0.0") as (process, lines, errors):
        until(lambda: any("warning: --host 0.0.0.0 lets other machines" in line for line in errors), 120)
    with running("--models", folder, "--hosts", "photos.example.org") as (process, lines, errors):
        until(lambda: address(lines) or process.poll() is not None, 120)
        request = urllib.request.Request(f"{address(lines)}/v1/models/dual", headers={"Host": "photos.example.org:80"})
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status == 200
        request.add_header("Host", "evil.example")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=30)
    assert "warning" not in "".join(errors)
