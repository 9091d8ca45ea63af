"""Downloads that fail: how long that takes, and what is said."""

import socket
import threading
import time
import urllib.error
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from vse_tf import downloads as module
from vse_tf.downloads import downloads, network_error, preset_downloads
from vse_tf.errors import UserError


def chained(*errors):
    """The last of some errors, each raised for the one before."""
    last = None
    for error in errors:
        error.__cause__ = last
        last = error
    return last


def test_errors_of_a_connection_are_told_from_others():
    name = socket.gaierror(-2, "Name or service not known")
    assert network_error(chained(name, Exception("URL fetch failure"), UserError("cannot be loaded")))
    assert network_error(TimeoutError("timed out"))
    assert network_error(urllib.error.HTTPError("http://a/b", 503, "Service Unavailable", None, None))
    assert not network_error(FileNotFoundError(2, "No such file or directory"))
    assert not network_error(UserError("preset 'x' is not a text encoder"))


def test_refusals_of_other_libraries_count_but_no_missing_file():
    requests = pytest.importorskip("requests")
    assert network_error(requests.exceptions.ConnectionError("Max retries exceeded"))
    assert network_error(requests.exceptions.ReadTimeout("timed out"))
    for status, found in [(404, False), (403, False), (407, True), (429, True), (503, True)]:
        response = requests.Response()
        response.status_code = status
        assert bool(network_error(requests.exceptions.HTTPError(response=response))) == found


def test_the_block_says_cause_host_and_way_out():
    causes = OSError(-2, "Name or service not known"), ConnectionError("at https://example.org/w.h5")
    with pytest.raises(UserError) as caught, downloads("image.encoder: its weights", "give --image.weights FILE"):
        raise chained(*causes, UserError("cannot be loaded"))
    assert str(caught.value) == (
        "image.encoder: its weights could not be downloaded from example.org: Name or service not known; "
        "give --image.weights FILE"
    )
    with pytest.raises(UserError, match="is damaged"), downloads("weights", "advice"):
        raise UserError("the file is damaged")


@pytest.fixture
def server():
    """A server that refuses `/refused…` and never answers anything else."""
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/refused"):
                self.send_error(503)
            else:
                stopped.wait(30)

        def log_message(self, *arguments):
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}"
    stopped.set()
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.mark.parametrize(("place", "reason"), [("refused", "HTTP 503 Service Unavailable"), ("silent", "timed out")])
def test_weights_of_applications_that_do_not_come(server, place, reason, tmp_path, monkeypatch):
    from keras.src.applications import mobilenet_v2  # noqa: PLC0415
    from keras.src.utils import file_utils  # noqa: PLC0415

    from vse_tf.models.applications import applications_backbone  # noqa: PLC0415

    monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", f"{server}/{place}/")
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        applications_backbone("MobileNetV2", "imagenet", (224, 224), trainable=False, precision="float32")
    assert time.monotonic() - start < 20
    message = str(caught.value)
    assert message.startswith("image.encoder applications:MobileNetV2: its weights could not be downloaded")
    assert reason in message
    for way in ("--image.weights FILE", "--image.encoder hub:FOLDER", "--image.encoder cnn"):
        assert way in message
    assert socket.getdefaulttimeout() is None


def test_hugging_face_is_asked_once_if_it_cannot_be_reached(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    hub = pytest.importorskip("huggingface_hub")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(UserError) as caught, preset_downloads("text.encoder", "hf://keras/bert"):
            hub.hf_hub_download("keras/bert", "config.json", cache_dir=tmp_path)
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert message.startswith("text.encoder hub:hf://keras/bert: its files could not be downloaded from 127.0.0.1")
    assert "Connection refused; without a network" in message
    assert "--text.encoder gru" in message
    assert not constants.HF_HUB_OFFLINE


def test_tensorflow_datasets_asks_a_few_times(monkeypatch):
    downloader = pytest.importorskip("tensorflow_datasets.core.download.downloader")
    before = downloader.MAX_RETRIES
    with downloads("the data set", "read the files"):
        assert downloader.MAX_RETRIES == module.TFDS_RETRIES < before
    assert before == downloader.MAX_RETRIES


def test_tensorflow_datasets_finds_what_it_needs_to_download(tmp_path):
    """It imports a package to download that it declares for old versions of Python alone."""
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder("mnist", data_dir=str(tmp_path))
    assert builder._make_download_manager(tmp_path, tfds.download.DownloadConfig())
