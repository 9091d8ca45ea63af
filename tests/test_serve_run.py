"""Serving a run and a folder of images, without exported models."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import threading

import numpy as np
import pytest
from jsonargparse import Namespace

from tests.serving.pictures import bomb, encoded, picture
from tests.serving.runs import write_run
from tests.serving.servers import until
from tests.test_serve import address, ask, running
from vse_tf import serve
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.cache_size import BoundedCache
from vse_tf.embedder import load
from vse_tf.errors import UserError
from vse_tf.preprocessing.image_limits import SERVED_PIXELS
from vse_tf.serving.registry import Registry
from vse_tf.serving.rest import RestApi
from vse_tf.serving.servable import Servable

DIM = 8
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run")


def photos_in(folder):
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(encoded(picture(50, 40, number)))
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("VSE_TF_CACHE", str(tmp_path / "cache"))
    return photos_in(tmp_path / "photos")


def source(run, photos, index=None):
    return serve._RunSource(Namespace(run=str(run), images=str(photos), index=index and str(index)))


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """The command, started on a folder of images: its address, its folder, and what it has printed."""
    folder = tmp_path_factory.mktemp("served")
    images = photos_in(folder / "photos")
    (images / "notes.txt").write_text("no photo")
    (images / "broken.jpg").write_text("no photo")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VSE_TF_CACHE", str(folder / "cache"))
        with running("--run", run, "--images", images) as (process, lines, errors):
            until(lambda: address(lines) or process.poll() is not None, 300)
            assert address(lines), errors
            yield address(lines), images, lines
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
    assert not [line for line in errors if "Traceback" in line]


def test_from_images_to_answers_in_one_command(server, run):
    url, images, lines = server
    vector = ask(f"{url}/v1/models/text_tower:predict", {"instances": ["a dog"]})["predictions"][0]
    model, files = load(run), sorted(images.glob("[0-9].jpg"))
    np.testing.assert_allclose(vector, model.encode_texts(["a dog"])[0], atol=1e-6)
    nearest = ask(f"{url}/gallery/nearest", {"vector": vector, "k": 1})["items"][0]
    best = files[int(np.argmax(model.encode_images(files) @ np.float32(vector)))]
    assert (nearest["id"], nearest["path"]) == (best.name, str(best))
    # The cache keeps the index while it is served.
    with pytest.raises(UserError, match="running processes use the rest"):
        BoundedCache(images.parent / "cache", 1e-3).make_room(10**6, "something else")
    (kept,) = (images.parent / "cache" / "indexes").iterdir()
    assert Index.open(kept).count == 3
    until(lambda: "image_tower 1: available\n" in lines)
    photo = {"b64": base64.b64encode(best.read_bytes()).decode()}
    vector = ask(f"{url}/v1/models/image_tower:predict", {"instances": [photo]})["predictions"][0]
    assert ask(f"{url}/gallery/nearest", {"vector": vector})["items"][0]["score"] == pytest.approx(1, abs=1e-5)
    told, cache = "".join(lines), images.parent / "cache"
    assert "3 new, 0 changed, 0 deleted, 0 unchanged" in told
    assert "1 skipped: see" in told
    assert f"export it: python -m vse_tf.export --run {run} --gallery {cache}/indexes/photos-" in told


@pytest.mark.skipif(BROWSER is None, reason="the browser test needs a chromium on the path")
def test_the_page_finds_what_the_model_finds(server, run):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install 'vse_tf[browser]'")
    url, images, _ = server
    model, files = load(run), sorted(images.glob("[0-9].jpg"))
    scores = model.encode_images(files) @ model.encode_texts(["a brown dog"])[0]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(url)
        page.fill("#text", "a brown dog")
        page.keyboard.press("Enter")
        page.get_by_text("3 of 3 images for “a brown dog”").wait_for(timeout=60_000)
        names = page.locator("#results .name").all_inner_texts()
        assert names == [files[i].name for i in np.argsort(-scores)]
        page.set_input_files("#image", files[2])
        page.get_by_text(f"images like {files[2].name}").wait_for(timeout=120_000)
        assert page.locator("#results .name").first.inner_text() == files[2].name
        assert page.locator("#results .score").first.inner_text() == "1 · 1.000 · 100 %"
        page.set_input_files("#image", images / "broken.jpg")
        page.get_by_text("This image cannot be read: not a JPEG, PNG, GIF, BMP or WebP image.").wait_for(timeout=60_000)
        browser.close()


def test_what_is_embedded_is_not_embedded_again(run, photos, capsys, monkeypatch):
    first = source(run, photos).embed()
    (photos / "1.jpg").unlink()
    (photos / "3.jpg").write_bytes(encoded(picture(50, 40, 3)))
    assert source(run, photos).embed().count == 3
    assert "1 new, 0 changed, 1 deleted, 2 unchanged" in capsys.readouterr().out
    again = source(run, photos)
    monkeypatch.setattr(again.model, "encode_files", None)
    index = again.embed()
    assert "nothing to embed: all 3 images are as they were" in capsys.readouterr().out
    assert index.folder == first.folder
    assert index.image(index.item(0)) == photos / "0.jpg"
    (photos / "notes.txt").write_text("no photo")
    source(run, photos).embed()
    assert "images are as they were\nignored, since they are not images: 1 .txt\n" in capsys.readouterr().out
    other = source(run, photos.parent)
    assert other.folder != index.folder
    assert source(run, photos, photos.parent / "named").embed().folder == photos.parent / "named"


def test_an_index_of_something_else_is_left_alone(run, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name, images, model in (("model", photos, "another"), ("folder", other, source(run, photos).model.identity)):
        writer = IndexWriter(tmp_path / name, "images", DIM)
        identity = {"id": model, "name": model} if isinstance(model, str) else model
        writer.commit([writer.write(np.eye(1, DIM))], [Item("a.jpg", path="a.jpg")], identity, root=images)
    with pytest.raises(UserError, match="its vectors were made by 'another'"):
        source(run, photos, tmp_path / "model")
    with pytest.raises(UserError, match=rf"--index: .* is an index of {other}; name another folder"):
        source(run, photos, tmp_path / "folder")
    assert Index.open(tmp_path / "model").count == 1


def test_a_folder_without_images_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setenv("VSE_TF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no images to embed"):
        serve.main(["--run", str(run), "--images", str(tmp_path / "empty"), "--port", "0"])
    with pytest.raises(UserError, match=r"--images: .*gone"):
        serve.main(["--run", str(run), "--images", str(tmp_path / "gone")])


def test_it_ends_while_the_image_tower_is_loading(monkeypatch):
    ended, codes = threading.Event(), []

    def stopped_at_once(arguments):
        threading.Thread(target=ended.wait, name=serve.LOADING, daemon=True).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "_serve", stopped_at_once)
    monkeypatch.setattr(serve.os, "_exit", codes.append)
    at_exit = []
    monkeypatch.setattr(serve.atexit, "register", lambda leave, *given: at_exit.append(lambda: leave(*given)))
    serve.main([])
    # The caller continues; only the end of the interpreter does not wait for the thread.
    assert codes == []
    at_exit[0]()
    ended.set()
    assert codes == [0]


@pytest.fixture(scope="module")
def api(run):
    """The run's towers in memory, behind the REST API."""
    registry = Registry(list, lambda version, folder: None)
    model = serve._RunSource.__new__(serve._RunSource)
    model.model = type("Loaded", (), {"embedder": load(run)})
    model.load(registry)
    until(lambda: registry.serving()["image_tower"] == [1])
    return RestApi(registry)


def predict(api, model, *instances):
    answer = api.answer("POST", f"/v1/models/{model}:predict", json.dumps({"instances": instances}).encode())
    return answer.status, json.loads(answer.body)


def test_a_run_answers_as_its_exported_models_do(api, run):
    assert predict(api, "text_tower", "a dog")[0] == 200
    described = api.answer("GET", "/v1/models/image_tower/metadata", b"")
    signatures = json.loads(described.body)["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() == {"serving_default", "pixels"}
    assert signatures["serving_default"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    shape = signatures["serving_default"]["outputs"]["embedding"]["tensor_shape"]
    assert [each["size"] for each in shape["dim"]] == ["-1", str(DIM)]


def test_a_run_has_the_limits_of_exported_models(api):
    too_large = {"b64": base64.b64encode(bomb(round(SERVED_PIXELS**0.5) + 1)).decode()}
    status, answer = predict(api, "image_tower", too_large)
    assert status == 400
    assert f"at most {SERVED_PIXELS} pixels" in answer["error"]
    status, answer = predict(api, "image_tower", *[{"b64": base64.b64encode(bomb(10)).decode()}] * 1025)
    assert (status, "1025 images" in answer["error"]) == (413, True)
    status, answer = predict(api, "text_tower", "a " * 100_000)
    assert (status, "at most 131072" in answer["error"]) == (400, True)


def test_an_error_names_no_file_of_the_server(api):
    status, answer = predict(api, "image_tower", {"b64": "aGVsbG8="})
    assert status == 400
    assert answer["error"].startswith("assertion failed: [image_bytes[0]: not a JPEG, PNG, GIF, BMP or WebP image]")
    assert ".py" not in answer["error"]


def test_a_model_is_loading_until_it_answers():
    registry = Registry(list, lambda version, folder: None)
    states = []

    def load_it():
        states.append(registry.status("tower")[0]["state"])
        return Servable(1, {}, {}, None)

    registry.add("tower", load_it)
    assert (states, registry.status("tower")[0]["state"]) == (["LOADING"], "AVAILABLE")
    registry.add("broken", lambda: 1 / 0)
    assert registry.problems() == ["ZeroDivisionError: division by zero"]


def test_ctrl_c_before_it_serves_is_one_of_a_command(run, photos, monkeypatch):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "_serve", interrupt)
    # A server that the process had before is another matter.
    ended = threading.Event()
    threading.Thread(target=ended.wait, name=serve.WATCHING, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        serve.main(["--run", str(run), "--images", str(photos)])
    ended.set()
