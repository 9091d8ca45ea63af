"""The page's files and the gallery's routes, asked without a socket."""

import io
import json
import os
import re

import numpy as np
import pytest
from jsonargparse import Namespace
from PIL import Image
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from vse_tf import serve
from vse_tf.artifacts import manifest
from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.compact import Form
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.indexing.compacting import compacted
from vse_tf.serving.pages import GalleryRoute, check_towers, page_route

DIM = 4


def app_of(*routes):
    @Request.application
    def app(request):
        for route in routes:
            if (response := route(request)) is not None:
                return response
        return Response("not found", 404)

    return Client(app)


@pytest.fixture
def vectors():
    values = np.random.default_rng(0).standard_normal((6, DIM))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def client(tmp_path, vectors):
    for i in range(5):
        Image.new("RGB", (700, 350), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    writer = IndexWriter(tmp_path / "index", "images", DIM)
    items = [Item(f"<{i}>.png", path=f"{i}.png") for i in range(6)]
    writer.commit([writer.write(vectors)], items, {"id": "a"}, root=tmp_path)
    return app_of(page_route, GalleryRoute(Index.open(tmp_path / "index")))


def ask(client, **question):
    return client.post("/gallery/nearest", json=question)


def test_the_page_is_served_and_loads_nothing_from_elsewhere(client):
    for path, kind in (("/", "text/html"), ("/page/page.js", "text/javascript"), ("/page/page.css", "text/css")):
        response = client.get(path)
        assert response.status_code == 200
        assert response.mimetype == kind
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(r"""https?:|["'(]//""", response.get_data(as_text=True))
        assert "innerHTML" not in response.get_data(as_text=True)


@pytest.mark.parametrize(
    "path", ["/page/", "/page/../pages.py", "/page/%2e%2e/pages.py", "/index.html", "/gallery/", "/x"]
)
def test_nothing_else_is(client, path):
    assert client.get(path).status_code == 404
    assert client.post("/").status_code == 404


def test_the_gallery_tells_what_it_is(client):
    assert client.get("/gallery").json == {
        "kind": "images",
        "count": 6,
        "dim": DIM,
        "min_relevance": 0.15,
        "models": {"text": "text_tower", "image": "image_tower"},
    }


def test_the_nearest_rows_of_a_vector(client, vectors):
    query = np.array([1.0, -2.0, 0.5, 3.0])
    answer = ask(client, vector=query.tolist(), k=4).json
    scores = vectors @ (query / np.linalg.norm(query))
    best = np.argsort(-scores)[:4]
    assert [item["row"] for item in answer["items"]] == best.tolist()
    assert [item["id"] for item in answer["items"]] == [f"<{i}>.png" for i in best]
    np.testing.assert_allclose([item["score"] for item in answer["items"]], scores[best], atol=1e-6)
    assert "query" not in answer


def test_the_nearest_rows_of_a_row(client):
    answer = ask(client, row=3).json
    assert answer["items"][0]["row"] == 3
    assert len(answer["items"]) == 6
    assert answer["query"] == {"id": "<3>.png"}


def test_parts_are_added_and_subtracted(client, vectors):
    query = np.array([1.0, -2.0, 0.5, 3.0])
    parts = [{"vector": (5 * query).tolist()}, {"row": 3, "weight": 2}, {"row": 1, "weight": -0.5}]
    answer = ask(client, parts=parts).json
    mixed = query / np.linalg.norm(query) + 2 * vectors[3] - 0.5 * vectors[1]
    scores = vectors @ (mixed / np.linalg.norm(mixed))
    assert [item["row"] for item in answer["items"]] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([item["score"] for item in answer["items"]], -np.sort(-scores), atol=1e-6)
    assert answer["query"] == {"id": "<3>.png"}
    alone = ask(client, parts=[{"row": 3, "weight": 1e300}]).json
    assert alone["items"] == ask(client, row=3).json["items"]


def test_compact_vectors_alone_answer_the_models_vectors(tmp_path, vectors):
    writer = IndexWriter(tmp_path / "index", "images", DIM)
    shards = [writer.write(vectors)]
    compact = compacted(writer, shards, Form("int8", 2), Calibration(None, {}))
    index = writer.commit(shards, [Item(str(i), path=str(i)) for i in range(6)], {"id": "a"}, tmp_path, compact=compact)
    (index.folder / shards[0].name).unlink()
    client = app_of(GalleryRoute(Index.open(tmp_path / "index")))
    assert client.get("/gallery").json["dim"] == DIM
    query = np.array([1.0, -2.0, 0.5, 3.0])
    answer = ask(client, parts=[{"vector": query.tolist()}, {"row": 3}], k=6).json
    first = vectors[:, :2] / np.linalg.norm(vectors[:, :2], axis=1, keepdims=True)
    mixed = query[:2] / np.linalg.norm(query[:2]) + first[3]
    scores = first @ (mixed / np.linalg.norm(mixed))
    np.testing.assert_allclose([item["score"] for item in answer["items"]], -np.sort(-scores), atol=0.02)
    assert ask(client, row=3).json["items"][0]["row"] == 3


def test_full_paths_are_those_that_may_be_opened(tmp_path, vectors):
    (tmp_path / "photos").mkdir()
    writer = IndexWriter(tmp_path / "index", "images", DIM)
    items = [Item("a", path="a.png"), Item("b", path="../../b.png")]
    index = writer.commit([writer.write(vectors[:2])], items, {"id": "a"}, root=tmp_path / "photos")
    for full, path in ((True, {"path": f"{tmp_path}/photos/a.png"}), (False, {})):
        client = app_of(GalleryRoute(index, full_paths=full))
        assert ask(client, row=0).json["query"] == {"id": "a", **path}
        assert ask(client, row=1).json["query"] == {"id": "b"}


def test_an_index_that_has_changed_says_so(client, tmp_path):
    for path in (tmp_path / "index").glob("*.npy"):
        path.unlink()
    response = ask(client, row=0)
    assert (response.status_code, response.json["error"]) == (
        409,
        "the index has changed on the disk; start the server again",
    )


def test_captions_are_told(tmp_path, vectors):
    writer = IndexWriter(tmp_path / "captions", "captions", DIM)
    index = writer.commit([writer.write(vectors[:1])], [Item("1", caption="a <dog>")], {"id": "a"})
    client = app_of(GalleryRoute(index))
    assert ask(client, row=0).json["items"][0]["caption"] == "a <dog>"
    assert client.get("/gallery/thumbnails/0").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"vector": [1, 2, 3]}',
        b'{"vector": [1, 2, 3, "4"]}',
        b'{"vector": [1, 2, 3, true]}',
        b'{"vector": [[1, 2, 3, 4]]}',
        b'{"vector": [0, 0, 0, 0]}',
        b'{"vector": [1, 2, 3, NaN]}',
        b'{"vector": [1, 2, 3, 1e999]}',
        b'{"vector": [1, 2, 3, 1e308]}',
        b'{"vector": "1234"}',
        b'{"row": 6}',
        b'{"row": -1}',
        b'{"row": 1e3}',
        b'{"row": "0"}',
        b'{"row": 99999999999999999999999}',
        b'{"row": 0, "vector": [1, 2, 3, 4]}',
        b'{"row": 0, "k": 0}',
        b'{"row": 0, "k": 1001}',
        b'{"row": 0, "k": true}',
        b'{"row": 0, "weight": -1}',
        b'{"row": 0, "weight": "1"}',
        b'{"row": 0, "weight": 1e999}',
        b'{"row": 0, "known": 1}',
        b'{"parts": []}',
        b'{"parts": {"row": 0}}',
        b'{"parts": [{}]}',
        b'{"parts": [7]}',
        b'{"parts": [{"row": 0}], "row": 0}',
        b'{"parts": [{"row": 0}, {"row": 6}]}',
        b'{"parts": [{"row": 0}, {"row": 0, "weight": -1}]}',
        b'{"parts": [{"row": 0, "vector": [1, 2, 3, 4]}]}',
        b'{"parts": [{"vector": [1, 2, 3, 4], "of": "video"}]}',
        b'{"parts": [%b{"row": 0}]}' % (b'{"row": 0}, ' * 10),
    ],
)
def test_a_bad_question_is_refused_with_a_reason(client, body):
    response = client.post("/gallery/nearest", data=body)
    assert response.status_code == 400
    assert json.loads(response.data)["error"]


def test_numbers_of_hundreds_of_digits_are_refused(client):
    for digits in (b"1" * 401, b"-" + b"1" * 401, b"1" * 5000):
        for question in (b'{"vector": [1, 2, 3, %b]}', b'{"row": %b}', b'{"row": 0, "k": %b}'):
            response = client.post("/gallery/nearest", data=question % digits)
            assert response.status_code == 400
            assert json.loads(response.data)["error"]
        response = client.post("/gallery/nearest", data=b'{"parts": [{"row": 0, "weight": %b}]}' % digits)
        assert response.status_code == 400


def test_a_large_body_is_refused(client):
    assert client.post("/gallery/nearest", data=b" " * (2**20 + 1)).status_code == 413


def test_thumbnails_are_small_pictures_of_the_rows(client):
    response = client.get("/gallery/thumbnails/2")
    picture = np.asarray(Image.open(io.BytesIO(response.data)))
    assert response.mimetype == "image/jpeg"
    assert picture.shape == (160, 320, 3)
    assert abs(picture[..., 0].mean() - 80) < 4
    large = client.get("/gallery/images/2")
    assert Image.open(io.BytesIO(large.data)).size == (700, 350)
    for path in ("5", "6", "-1", "x", "2/..", "99999999999999999999"):
        for kind in ("thumbnails", "images", "other"):
            assert client.get(f"/gallery/{kind}/{path}").status_code == 404


@pytest.mark.parametrize(
    "place", ["absolute", "up", "link", "link up", "pipe", "device", "loop", "folder", "nul", "surrogate"]
)
def test_a_photo_that_an_index_must_not_show(tmp_path, vectors, place):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    parent = tmp_path / "downloaded"
    (parent / "photos").mkdir(parents=True)
    path = parent / "photos" / "a.png"
    name = {"absolute": str(secret), "up": "../../secret.png", "nul": "a\0.png", "surrogate": "\ud800.png"}.get(
        place, "a.png"
    )
    if place == "link":
        path.symlink_to(secret)
    elif place == "link up":
        (parent / "photos" / "up").symlink_to(tmp_path)
        name = "up/secret.png"
    elif place == "pipe":
        os.mkfifo(path)
    elif place == "device":
        path.symlink_to("/dev/zero")
    elif place == "loop":
        path.symlink_to(path)
    elif place == "folder":
        path.mkdir()
    writer = IndexWriter(parent / "index", "images", DIM)
    line = json.dumps({"id": "a", "path": name}).encode() + b"\n"
    writer.commit([writer.write(vectors[:1])], [line], {"id": "a"}, root=parent / "photos")
    response = app_of(GalleryRoute(Index.open(parent / "index"))).get("/gallery/thumbnails/0")
    assert response.status_code == 404
    assert response.json["error"].startswith("no picture of that row")
    if place in ("absolute", "up", "link", "link up", "device"):
        assert f"--root {parent}/photos" in response.json["error"]
    # A user who names the folder means the links in it, but not what lies elsewhere.
    response = app_of(GalleryRoute(Index.open(parent / "index", parent / "photos"))).get("/gallery/thumbnails/0")
    assert response.status_code == (200 if place in ("link", "link up") else 404)


def test_serve_says_what_root_would_be(tmp_path, vectors, capsys):
    (tmp_path / "downloaded").mkdir()
    writer = IndexWriter(tmp_path / "downloaded" / "index", "images", DIM)
    writer.commit([writer.write(vectors[:1])], [Item("a", path="a.png")], {"id": "a"}, root=tmp_path / "photos")
    arguments = Namespace(gallery=str(tmp_path / "downloaded" / "index"), root=None, models=None)
    serve._gallery(arguments)
    assert f"images are not displayed; 'a.png': it lies outside of {tmp_path}/downloaded" in (
        told := capsys.readouterr().out
    )
    assert told.endswith(f"--root {tmp_path}/photos\n")
    arguments.root = str(tmp_path / "photos")
    serve._gallery(arguments)
    assert capsys.readouterr().out == ""


def test_long_captions_are_shortened(tmp_path, vectors):
    writer = IndexWriter(tmp_path / "index", "captions", DIM)
    index = writer.commit([writer.write(vectors[:1])], [Item("1", caption="é" * 500_000)], {"id": "a"})
    assert ask(app_of(GalleryRoute(index)), row=0).json["items"][0]["caption"] == "é" * 10_000 + "…"


def test_towers_of_another_model_are_refused(tmp_path, vectors):
    writer = IndexWriter(tmp_path / "index", "captions", DIM)
    index = writer.commit([writer.write(vectors[:1])], [Item("1", caption="a dog")], {"id": "a"})
    for name, ids in (("text_tower", "aa"), ("image_tower", "ba")):
        for version, model in enumerate(ids, 1):
            folder = tmp_path / "models" / name / str(version)
            folder.mkdir(parents=True)
            manifest.write(folder, {"id": model})
    check_towers(index, tmp_path / "models")
    (tmp_path / "models" / "image_tower" / "3").mkdir()
    check_towers(index, tmp_path / "models")
    manifest.write(tmp_path / "models" / "image_tower" / "3", {"id": "b"})
    with pytest.raises(UserError, match=r"index was not made by .*image_tower/3"):
        check_towers(index, tmp_path / "models")
